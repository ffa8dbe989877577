"""New images of a run, batch by batch, shared over devices: drawn, or on the way from latents to latents."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxgen import data, interpolation, memory, sharding
from jaxgen.arguments import check_key
from jaxgen.loading import Trained, check_choices, check_label
from jaxgen.system import MissingCapability, System, drawn_labels
from jaxgen.watching import compiled_drawer


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
    label: Sequence[int] | np.ndarray | None = None,
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
    asked = None if label is None else np.asarray(label, np.int32)
    draw = compiled_drawer(system, rows, mesh, label=asked, **choices)
    variables = sharding.as_replicated(mesh, trained.variables)

    def batches():
        for i in range(-(-num // size)):
            drawn = draw(variables, jax.random.fold_in(key, i), i * size)
            yield {name: value[: min(size, num - i * size)] for name, value in drawn.items()}

    return batches()


def translate_batches(
    trained: Trained, dataset: data.Dataset, key: jax.Array, *, batch_size: int = 500
) -> Iterator[np.ndarray]:
    """What a run makes of a data set with sources, in its order: images [B, H, W, C] float32, B up to batch_size.

    Args:
      trained: a run that translates.
      dataset: as the run reads its own.
      key: of what spoils the images, and of what the network draws.
      batch_size: images at once, over all devices; of large ones fewer, as the system's `measure` says.
    """
    check_key(key)
    translate, measure = trained.system.need("translate", "translating a data set"), trained.system.measure
    pixels = int(np.prod(dataset.image_shape[:2]))
    most = batch_size if measure is None or measure.most_pixels is None else max(1, measure.most_pixels // pixels)
    mesh = sharding.make_mesh()

    def made(variables, raw, key):
        data_key, own_key = jax.random.split(key)
        return translate(variables, dataset.prepare(raw, data_key), own_key)

    compiled = sharding.jit_global(made, mesh, batch_axes=(None, 0, None))
    variables = sharding.as_replicated(mesh, trained.variables)
    batches = data.sequential_batches(dataset, min(batch_size, most, dataset.num_examples))
    for i, (raw, num_valid) in enumerate(batches):
        found = compiled(variables, sharding.divide(mesh, raw), jax.random.fold_in(key, i))
        yield np.asarray(found)[:num_valid]


def interpolate(
    trained: Trained,
    key: jax.Array,
    *,
    num: int = 16,
    num_frames: int = 120,
    num_latents: int = 4,
    batch_size: int = 500,
    mesh: jax.sharding.Mesh | None = None,
    label: Sequence[int] | None = None,
    **choices: Any,
) -> np.ndarray:
    """Films of closed loops through latents: `images.save_film` writes them side by side.

    From latent to latent the way is `interpolation.slerp`'s, or the system's own where its `decode` is told `toward`:
    StyleGAN2 goes straight from style to style. Frames lie on it at equal distances, from the last to the first, too.

    Args:
      trained: from `load`.
      key: of the latents.
      num: how many films.
      num_frames: of each.
      num_latents: that each goes through, at least 2; all of them are frames if they divide num_frames.
      batch_size: images at once, over all devices.
      mesh: whose devices share each batch; all devices by default.
      label: of a class-conditional run: of each film, the same in all of its frames, taken in turns; all classes at
        random by default.
      choices: what else the run's system can be told, each a number, such as `truncation=0.7`.

    Returns:
      [num_frames, num, H, W, C] float32 in [-1, 1], on the host.

    Raises:
      MissingCapability: for a run that cannot decode latents, or has none that a film could go through.
      ValueError: for num below 1, a loop of fewer than 2 latents or with fewer frames than latents; for labels and
        choices as in `generate`.
    """
    check_key(key)
    system, told = trained.system, dict(choices)
    decode = system.need("decode", "a film from latents to latents")
    if num < 1:
        raise ValueError(f"the number of films must be at least 1, not {num}")
    start, share = interpolation.loop(num_frames, num_latents)
    check_choices(system, told)
    for name, value in told.items():
        if np.ndim(value) or name in ("toward", "share"):
            raise ValueError(f"a film goes through latents of its own, and cannot be told {name}")
    points = _points(
        system, key, num_latents * num, {name: told.pop(name) for name in system.latent_choices if name in told}
    )
    mesh = sharding.make_mesh() if mesh is None else mesh
    total = num_frames * num
    needed = 8 * total * int(np.prod(trained.image_shape))
    memory.check(needed, memory.free_of_machine(), f"a film of {total:,} images", "take fewer frames or films")
    if label is not None:
        check_label(system, label)
    elif "label" in system.choices:
        label = np.asarray(drawn_labels(jax.random.fold_in(key, 1), num, system.choices["label"])).tolist()

    def images_of(variables, batch):
        of_labels = {"label": batch["label"]} if "label" in batch else {}
        if "toward" in system.choices:
            ways = {"toward": batch["to"], "share": batch["share"]}
            return decode(variables, batch["from"], **ways, **of_labels, **told)
        way = lambda a, b: _slerp_of_rows(a, b, batch["share"])  # noqa: E731
        return decode(variables, jax.tree.map(way, batch["from"], batch["to"]), **of_labels, **told)

    run = sharding.jit_global(images_of, mesh, batch_axes=(None, 0))
    variables, rows = sharding.as_replicated(mesh, trained.variables), min(total, batch_size)
    found = np.empty((total, *trained.image_shape), np.float32)
    for first in range(0, total, rows):
        frame, film = np.divmod(np.minimum(np.arange(first, first + rows), total - 1), num)
        at = start[frame] * num + film  # points [num_latents * num]: those of all films at one place of their loops
        after = (start[frame] + 1) % num_latents * num + film
        batch = {"share": share[frame]}
        batch["from"], batch["to"] = (jax.tree.map(lambda z, rows=rows: z[rows], points) for rows in (at, after))
        if label is not None:
            batch["label"] = np.resize(np.asarray(label, np.int32), num)[film]
        drawn = jax.device_get(run(variables, sharding.divide(mesh, batch)))
        found[first : first + rows] = drawn[: min(rows, total - first)]
    return found.reshape(num_frames, num, *trained.image_shape)


def _points(system: System, key: jax.Array, num: int, told: dict[str, Any]) -> Any:
    """Latents on the host, of systems between whose latents others lie."""
    if system.latents is None:
        raise MissingCapability(f"a film goes from latents to latents, and {system.name} has no latents")
    of_system = system.latents
    latents = lambda key: of_system(key, num, **told)  # noqa: E731
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(jax.eval_shape(latents, key))):
        raise MissingCapability(
            f"a film goes from latents to latents, and those of {system.name} are no real numbers: nothing lies between"
        )
    return jax.device_get(jax.jit(latents)(key))


def _slerp_of_rows(a: jax.Array, b: jax.Array, share: jax.Array) -> jax.Array:
    """Each row, of whatever shape, as one vector."""
    flat = interpolation.slerp(a.reshape(len(a), -1), b.reshape(len(b), -1), share)
    return flat.reshape(a.shape)


def with_choices(trained: Trained, **choices: Any) -> Trained:
    """The same run, which draws as if it had always been told this; its protocol says so.

    Args:
      trained: from `load`; not changed.
      choices: numbers that its system can be told, such as `truncation=0.5`. Labels are told where images are drawn.

    Raises:
      ValueError: for what the system cannot be told, or outside of its range.
    """
    system, told = trained.system, dict(choices)
    check_choices(system, told)
    if not told:
        return trained
    if wrong := [name for name in told if not isinstance(system.choices[name], tuple)]:
        raise ValueError(f"{wrong[0]} is told where images are drawn, not for all of a run")
    draw = system.need("draw", "drawing images")
    words = [system.protocol.get("latents", "").removesuffix(", not truncated")]
    for name, value in told.items():
        words.append(f"{name} {value:g} ({'; '.join(str(part) for part in system.choices[name][2:])})")
    changed = dataclasses.replace(
        system,
        draw=lambda variables, key, n, **others: draw(variables, key, n, **told, **others),
        choices={name: allowed for name, allowed in system.choices.items() if name not in told},
        protocol={**system.protocol, "latents": "; ".join(filter(None, words))},
    )
    return dataclasses.replace(trained, system=changed)


def with_standing_statistics(
    trained: Trained,
    key: jax.Array,
    *,
    num_batches: int = 16,
    batch_size: int = 250,
    mesh: jax.sharding.Mesh | None = None,
    label: Sequence[int] | None = None,
    **choices: Any,
) -> Trained:
    """The same run with the batch statistics of many batches that it draws, instead of running averages of training.

    Each batch is drawn as in training, normalised by its own mean and variance, which are joined to those of all
    batches together: mean = E m_k, variance = E (v_k + m_k^2) - mean^2. The running averages of training follow weights
    that have moved since, and are of latents that are not truncated; after a truncation other statistics are right.

    Args:
      trained: from `load`; neither it nor what is stored is changed.
      key: of the latents: the same key, the same statistics.
      num_batches: how many batches.
      batch_size: images in each, over all devices, whose number it is rounded up to divide by.
      mesh: whose devices share each batch; all devices by default.
      label: of a class-conditional run: which classes, taken in turns; all at random by default.
      choices: of the latents, such as `truncation=0.5`: those that images will be drawn with.

    Returns:
      A run that is drawn from like any other; its protocol names the statistics.

    Raises:
      ValueError: for a run without batch normalisation in what draws, no batch, or labels and choices as in `generate`.

    Brock, Donahue and Simonyan 2019, "standing statistics".
    """
    check_key(key)
    system = trained.system
    check_choices(system, choices)
    if num_batches < 1 or batch_size < 2:
        raise ValueError(f"statistics are of at least one batch of 2 images, not {num_batches} of {batch_size}")
    mesh = sharding.make_mesh() if mesh is None else mesh
    rows = sharding.divisible(batch_size, mesh.size)
    told = dict(choices)
    if label is not None:
        check_label(system, label)
        told["label"] = jnp.asarray(np.resize(np.asarray(label, np.int32), rows))

    def of_batch(variables, key):
        return {} if system.batch_statistics is None else system.batch_statistics(variables, key, rows, **told)

    if not jax.eval_shape(of_batch, trained.variables, key):
        raise ValueError(
            f"{system.name} draws without batch normalisation: it has no statistics to be replaced by standing ones"
        )
    run, variables = sharding.jit_global(of_batch, mesh, batch_axes=(None, None)), trained.variables
    local = sharding.as_replicated(mesh, variables)
    standing = joined_statistics(jax.device_get(run(local, jax.random.fold_in(key, i))) for i in range(num_batches))

    def restated(state):
        before = system.variables(state)
        return before | {name: {**before[name], "batch_stats": found} for name, found in standing.items()}

    words = [f"standing, of {num_batches} batches of {rows} drawn images"]
    words += [f"{name} {value:g}" for name, value in choices.items()]
    words += ["labels " + ", ".join(map(str, np.ravel(label)))] if label is not None else []
    protocol = {**system.protocol, "batch_statistics": "; ".join(words)}
    return dataclasses.replace(trained, system=dataclasses.replace(system, variables=restated, protocol=protocol))


def joined_statistics(batches: Iterable[Any]) -> Any:
    """Means and variances of all batches together, from those of each: mean = E m_k, var = E (v_k + m_k^2) - mean^2.

    Args:
      batches: of as many images each: nested dicts with arrays `mean` and `var` side by side, one dict or more.

    Returns:
      Of the same form, in float32.
    """
    sums: dict[Any, Any] = {}
    num = 0
    for batch in batches:
        num += 1
        flat = {path: np.asarray(x, np.float64) for path, x in flatten_dict(batch).items()}
        for path, x in flat.items():
            moment = x if path[-1] == "mean" else x + flat[*path[:-1], "mean"] ** 2
            sums[path] = sums.get(path, 0.0) + moment
    means = {path: x / num for path, x in sums.items()}
    for path in [path for path in means if path[-1] == "var"]:
        means[path] = np.maximum(means[path] - means[*path[:-1], "mean"] ** 2, 0.0)
    return unflatten_dict({path: x.astype(np.float32) for path, x in means.items()})
