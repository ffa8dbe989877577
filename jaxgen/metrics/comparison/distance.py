"""The FID of several sets to one reference, without what is said of a comparison of two."""

import warnings
from collections.abc import Callable

import jax

from jaxgen import data
from jaxgen.arguments import check_key
from jaxgen.metrics.comparison.seen import see
from jaxgen.metrics.comparison.two_sets import frechet
from jaxgen.metrics.features import Backbone


def fid_to(real: data.Dataset, backbone: Backbone, key: jax.Array) -> Callable[[data.Dataset], dict[str, float]]:
    """Images -> `fid`, their distance to the real ones, and `fid_standard_error` where they are enough.

    Args:
      real: the reference, which is seen once.
      backbone: the feature network.
      key: of the divisions into groups, the same for all sets.

    Raises:
      ValueError: for images of another shape than the network takes, and for NaN.
    """
    check_key(key)
    reference = see(backbone, real)

    def distance(made: data.Dataset) -> dict[str, float]:
        with warnings.catch_warnings():  # what is wrong is said of a comparison, where there is room
            warnings.simplefilter("ignore")
            found = frechet(reference, see(backbone, made), key).values
        return {name: found[name] for name in ("fid", "fid_standard_error") if name in found}

    return distance
