"""New images of a run, batch by batch, shared over devices."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxgen import memory, sharding
from jaxgen.arguments import check_key
from jaxgen.loading import Trained, check_choices, check_label
from jaxgen.watching import batch_drawer


def generate(
    trained: Trained,
    num: int,
    key: jax.Array,
    *,
    batch_size: int = 500,
    mesh: jax.sharding.Mesh | None = None,
    label: Sequence[int] | None = None,
    **choices: Any,
) -> np.ndarray:
    """Draws new images with the variables of a run, batch by batch with one compilation.

    Args:
      trained: from `load`.
      num: how many images.
      key: of the latents.
      batch_size: images at once, over all devices.
      mesh: whose devices share each batch, from `sharding.make_mesh`; all devices by default.
      label: of a class-conditional run: what to draw, taken in turns; all classes at random by default.
      choices: what else the run's system can be told (`System.choices`), such as `truncation=0.7`.

    Returns:
      [num, H, W, C] float32 in [-1, 1], on the host. The same key draws the same images, on any number of devices up to
      rounding.

    Raises:
      MissingCapability: for a run that draws nothing.
      ValueError: for num below 1, a label that there is not, or of a run that is told none; for other choices that the
        system does not have, or outside of their ranges.
    """
    batches = generate_batches(trained, num, key, batch_size=batch_size, mesh=mesh, label=label, **choices)
    needed = 8 * num * int(np.prod(trained.image_shape))  # float32, and joined
    memory.check(needed, memory.free_of_machine(), f"drawing {num:,} images", "draw fewer at once")
    return np.concatenate([batch["image"] for batch in batches])


def generate_batches(
    trained: Trained,
    num: int,
    key: jax.Array,
    *,
    batch_size: int = 500,
    mesh: jax.sharding.Mesh | None = None,
    label: Sequence[int] | None = None,
    **choices: Any,
) -> Iterator[dict[str, np.ndarray]]:
    """What `generate` draws, a batch of up to batch_size at a time, with its labels where it has any."""
    check_key(key)
    system = trained.system
    draw = system.need("draw", "drawing images")
    if num < 1:
        raise ValueError(f"the number of images must be at least 1, not {num}")
    if label is not None:
        check_label(system, label)
    check_choices(system, choices)
    mesh = sharding.make_mesh() if mesh is None else mesh
    size = min(num, batch_size)
    # Whole shares for all devices. What is drawn beyond the size is left out, and changes none of the others.
    rows = sharding.divisible(size, mesh.size)
    if label is None:
        draw = sharding.jit_global(batch_drawer(system, rows, **choices), mesh, batch_axes=(None, None))
    else:
        draw = sharding.jit_global(
            lambda variables, key, label: batch_drawer(system, rows, label=label, **choices)(variables, key),
            mesh,
            batch_axes=(None, None, None),
        )
    variables = sharding.as_replicated(mesh, trained.variables)

    def batches():
        for i in range(-(-num // size)):
            asked = ()
            if label is not None:
                asked = (np.resize(np.asarray(label, np.int32), num + rows)[i * size : i * size + rows],)
            drawn = jax.device_get(draw(variables, jax.random.fold_in(key, i), *asked))
            yield {name: value[: min(size, num - i * size)] for name, value in drawn.items()}

    return batches()
