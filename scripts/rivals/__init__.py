"""Whole systems in PyTorch, a file each, as `benchmark_torch.py` times and compares them, for a `System`.

The networks are those of jaxgen's modules, layer for layer and with their names (a layer with spectral normalisation
lacks jaxgen's prefix "Spectral"); the step is that of `game.Rival` or, of one network and one loss, `single.Rival`.
"""

import importlib


def rival_of(case, **settings):
    """The system of a case: `Rival` of the module that is called as it is."""
    return importlib.import_module(f"rivals.{case.name.replace('-', '_')}").Rival(case, **settings)
