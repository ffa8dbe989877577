"""Double precision for the metrics, without asking the user to enable it; and the checks of what goes in."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.typing import ArrayLike


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """JAX computes in float64 inside of the `with` block, in this thread, and as before behind it.

    TPUs have no float64 units: there the block computes on the host's CPU, which JAX always has.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        if jax.default_backend() == "tpu":
            stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
        yield


def check_features(features: ArrayLike, name: str, *, at_least: int = 1) -> np.ndarray:
    """The array on the host, after a look at it.

    Args:
      features: [N, D], numbers of any type.
      name: what to call it in messages.
      at_least: the smallest N that makes sense.

    Returns:
      [N, D], in its own floating type; integers become float64.

    Raises:
      TypeError: inside of jit, where values are unknown and float64 cannot be had.
      ValueError: for another number of axes, too few rows, no columns, or values that are not finite.
    """
    if isinstance(features, jax.core.Tracer):
        raise TypeError(f"{name} are traced: this metric computes in float64, so call it outside of jit and vmap")
    features = np.asarray(features)
    if features.ndim != 2:
        raise ValueError(f"{name} must have the shape [N, D], one row for each image, not {list(features.shape)}")
    if len(features) < at_least or features.shape[1] == 0:
        raise ValueError(f"{name} must have at least {at_least} rows and one column, not {list(features.shape)}")
    if features.dtype.kind in "iub":
        features = features.astype(np.float64)
    # bfloat16 is no type of NumPy's own and has no isfinite in some versions of it: the sum in float32 shows as much.
    finite = np.isfinite(features.astype(np.float32) if features.dtype.itemsize < 4 else features).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ValueError(
            f"{len(bad)} of {len(features)} rows of {name} hold NaN or infinity, the first is row {bad[0]}: look for "
            "images that are not finite, or for a feature network in half precision"
        )
    return features


def check_same_width(real: np.ndarray, fake: np.ndarray) -> None:
    """Raises a ValueError unless both sets have the same number of features."""
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"real features have {real.shape[1]} dimensions and fake features {fake.shape[1]}: "
            "both must come from the same layer of the same network"
        )
