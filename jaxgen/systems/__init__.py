"""Published systems, a file each: settings, `build(config, spec) -> System`, presets, and `TINY`, which tests train.

A new one is a file like these and a name in `MODULES`; presets, stored configurations, the command line and the suite
over all systems follow from that list. A file of your own that is shaped like these needs no entry there:
`jaxgen train my_system.py`.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxgen.local_path import local
from jaxgen.options import lookup
from jaxgen.systems import (
    aae,
    acgan,
    article,
    bigan,
    biggan,
    cgan,
    classifier,
    context_encoder,
    cut,
    cvae,
    cyclegan,
    dcgan,
    deblurgan,
    dncnn,
    drunet,
    dvae,
    edsr,
    esrgan,
    factor_vae,
    fastgan,
    flexible_vae,
    gated,
    iwae,
    lama,
    m2,
    nafnet,
    partial_convolution,
    pix2pix,
    pix2pixhd,
    progan,
    r3gan,
    rcan,
    real_esrgan,
    regularised_vae,
    sagan,
    sngan,
    srcnn,
    srgan,
    ssgan,
    stargan,
    stylegan2,
    vae,
    vae_gan,
    vdvae,
    vqgan,
    vqvae,
    vqvae2,
    wgan_gp,
)
from jaxgen.systems.preset import Preset

MODULES = (
    cgan,
    dcgan,
    wgan_gp,
    acgan,
    sngan,
    ssgan,
    sagan,
    biggan,
    progan,
    stylegan2,
    r3gan,
    fastgan,
    article,
    vae,
    vdvae,
    vqvae,
    vqvae2,
    dvae,
    iwae,
    regularised_vae,
    flexible_vae,
    cvae,
    m2,
    vqgan,
    vae_gan,
    aae,
    factor_vae,
    bigan,
    srcnn,
    edsr,
    rcan,
    srgan,
    esrgan,
    real_esrgan,
    deblurgan,
    dncnn,
    drunet,
    nafnet,
    pix2pix,
    pix2pixhd,
    cyclegan,
    cut,
    stargan,
    context_encoder,
    partial_convolution,
    gated,
    lama,
    classifier,
)
BY_NAME = {module.__name__.rpartition(".")[2]: module for module in MODULES}
PRESETS: dict[str, Preset] = {name: preset for module in MODULES for name, preset in module.PRESETS.items()}
DEFAULT = "mnist-cgan"
LISTED = Path(__file__).with_name("presets.txt")
"""What `listing` says, kept as a file: `jaxgen train --help` need not import 50 systems, and JAX, to say it."""


def listing() -> str:
    """Names of all presets and what they are, those first that need nothing but this package."""
    width = max(map(len, PRESETS))
    rows = {True: "", False: ""}
    for name, preset in PRESETS.items():
        rows[preset.spec is None] += f"  {name:<{width}}  {preset.about}\n"
    own = f"presets on images that come with the package (none given: {DEFAULT}):\n"
    return f"{own}{rows[True]}\npresets on images that you give:\n{rows[False]}"


class NotInstalled(ValueError):
    """A run of a system that is not part of this package, and was not given."""


def module_of(config: Any) -> ModuleType:
    """The module whose settings these are: the one that defines their class."""
    return sys.modules[type(config).__module__]


def name_of(module: ModuleType) -> str:
    """How a run calls a system: "dcgan", and "mine.py" for a file of a user's own."""
    last = module.__name__.rpartition(".")[2]
    return last if module in MODULES else f"{last.removeprefix(_OWN)}.py"


def named(name: str, own: ModuleType | None = None) -> ModuleType:
    """The module that a run names.

    Args:
      name: as of `name_of`.
      own: the user's, for a run of theirs.

    Raises:
      NotInstalled: for another file than is given.
      ValueError: for a name that this version does not know.
    """
    if own is not None and name == name_of(own):
        return own
    if name.endswith(".py"):
        given = f"this is {name_of(own)}" if own is not None else "nothing stored in a run is imported"
        raise NotInstalled(
            f"it is a run of {name}, which is no part of jaxgen: give the file with --system {name}, or "
            f"jaxgen.load(..., system=...); {given}"
        )
    return lookup(BY_NAME, name, "system")


_OWN = "jaxgen_system_"  # so that a file called dcgan.py hides no module


def from_file(path: str | Path) -> ModuleType:
    """Imports a system of a user's own.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it lacks what files in `systems/` have, naming what; if it is no Python.
      Exception: what the file itself raises, with its name in a note.
    """
    path = local(path, "the file of a system")
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}: a system of your own is a Python file like those in jaxgen/systems"
        )
    name = f"{_OWN}{path.stem}"
    loader = importlib.util.spec_from_file_location(name, path)
    assert loader is not None and loader.loader is not None  # of a path that ends in .py
    module = importlib.util.module_from_spec(loader)
    sys.modules[name] = module
    try:
        loader.loader.exec_module(module)
        _check(module, path)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, SyntaxError):
            raise ValueError(
                f"{error.filename}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}"
            ) from None
        error.add_note(f"in {path}")
        raise
    return module


def _check(module, path):
    missing = [
        what
        for what, there in (
            ("a function build(config, spec) -> System", callable(getattr(module, "build", None))),
            ("PRESETS = {name: Preset(about, config)}", isinstance(getattr(module, "PRESETS", None), dict)),
        )
        if not there
    ]
    if missing:
        raise ValueError(f"{path} is no system: it lacks {' and '.join(missing)}; see the files in jaxgen/systems")
    if not module.PRESETS:
        raise ValueError(f"{path} has no preset: PRESETS is empty")
    for name, preset in module.PRESETS.items():
        if not isinstance(preset, Preset):
            raise ValueError(f"{path}: the preset {name!r} is no jaxgen.systems.preset.Preset(about, config)")
        if type(preset.config).__module__ != module.__name__:
            raise ValueError(
                f"{path}: the settings of the preset {name!r} are of a class that is defined elsewhere; write "
                f"class Config({type(preset.config).__qualname__}) in this file"
            )
