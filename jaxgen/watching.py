"""What is looked at and measured of a system while it trains: pictures, held-out numbers, the FID of what it draws."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import compilation, data, sharding
from jaxgen.metrics import comparison, features, fid
from jaxgen.system import Measure, System, drawn_labels

SHOWN = 32  # real images that a view gets
DRAWN = 64  # samples in a picture
_ROWS, _COLUMNS = 16, 8  # classes in a picture, and samples of each


class Experiment(NamedTuple):
    """A system with its data."""

    system: System
    dataset: data.Dataset
    sample: Callable | None  # state -> {name: images [N, H, W, C], or groups of K [N, K, H, W, C]} to look at
    evaluate: Callable | None  # state -> numbers, on the test split
    best_metric: str | None
    best_mode: Literal["min", "max"]
    held_out: data.Dataset | None = None


def assemble(
    system: System,
    dataset: data.Dataset,
    held_out: data.Dataset | None = None,
    *,
    key: jax.Array,
    mesh: jax.sharding.Mesh | None = None,
    metrics: Mapping[str, comparison.Metric] | None = None,
    num_images: int = 2000,
) -> Experiment:
    """A system with its data: what there is to look at while it trains, and to measure.

    Args:
      system: any.
      dataset: what it is trained on.
      held_out: what it is measured on.
      key: of what is drawn.
      mesh: whose devices share the work; all by default.
      metrics: name -> metric, as in `comparison.METRICS`, of images that are drawn against those held out.
      num_images: how many are drawn for that.
    """
    mesh = sharding.make_mesh() if mesh is None else mesh
    sample = None
    views = system.views or views_of(system, jax.random.fold_in(key, 1))
    if views is not None:
        # Where reconstructions are shown, of images it has not seen.
        shown = held_out if held_out is not None and system.measure is not None else dataset
        batch = dict(_first_batch(shown, SHOWN, key))
        if dataset.image_shape[2] not in (1, 3):  # `loop.train`, which refuses others, cannot trace `sample`
            pictures = jax.eval_shape(views, jax.eval_shape(system.variables, system.shapes), batch)
            data.check.check_pictures({name: picture.shape for name, picture in pictures.items()})
        show = sharding.jit_global(views, mesh, batch_axes=(None, None))
        sample = lambda state: show(sharding.as_replicated(mesh, system.variables(state)), batch)  # noqa: E731
    parts: list[Callable] = []
    best_metric, best_mode = None, "max"  # type: str | None, Literal["min", "max"]
    if held_out is not None and system.measure is not None:
        measure = system.measure
        parts.append(
            make_evaluate(
                measure.of_batch,
                measure.summarize,
                held_out,
                key=jax.random.fold_in(key, 2),
                batch_size=at_once(measure, held_out.image_shape),
                mesh=mesh,
                variables=system.variables,
            )
        )
        best_metric, best_mode = (measure.best and f"eval/{measure.best}"), measure.mode
    if held_out is not None and metrics:
        parts.append(
            make_drawn_evaluate(
                system,
                dataset,
                held_out,
                features.shipped_for(dataset.image_shape),
                metrics,
                num=num_images,
                key=jax.random.fold_in(key, 2),
                mesh=mesh,
            )
        )
        best_metric, best_mode = f"eval/{next(iter(metrics))}", "min"
    evaluate = parts[0] if len(parts) == 1 else functools.partial(_all_of, parts) if parts else None
    return Experiment(system, dataset, sample, evaluate, best_metric, best_mode, held_out)


def views_of(system: System, key: jax.Array) -> Callable | None:
    """What there is to look at of a system that does not say it itself, from what it can do; None if it is nothing.

    Samples, of a class-conditional system a row for each of its first classes, with the same latents in every row;
    images beside their reconstructions.

    Args:
      system: any.
      key: of what is drawn: the same at every step.

    Returns:
      `(variables, batch) -> {name: images [N, H, W, C], or groups of K [N, K, H, W, C]}`.
    """
    num_labels = system.choices.get("label", 0)
    rows = min(num_labels, _ROWS)

    def drawn(variables):
        if not num_labels:
            if system.decode is not None and system.latents is not None:
                return system.decode(variables, system.latents(key, DRAWN))
            return batch_drawer(system, DRAWN)(variables, key)["image"]
        label = sharding.divided(jnp.repeat(jnp.arange(rows), _COLUMNS))
        if system.decode is not None and system.latents is not None:
            one_row = system.latents(key, _COLUMNS)
            latents = jax.tree.map(lambda z: sharding.divided(jnp.concatenate([z] * rows)), one_row)
            images = system.decode(variables, latents, label=label)
        else:
            images = batch_drawer(system, rows * _COLUMNS, label=label)(variables, key)["image"]
        return images.reshape(rows, _COLUMNS, *images.shape[1:])

    def views(variables, batch):
        batch, found = jax.tree.map(sharding.divided, dict(batch)), {}
        if system.draw is not None:
            found["samples"] = drawn(variables)
        if system.reconstruct is not None:
            found["reconstructions"] = jnp.stack([batch["image"], system.reconstruct(variables, batch)], axis=1)
        return found

    return views if system.draw is not None or system.reconstruct is not None else None


def _all_of(parts, state):
    return {name: value for part in parts for name, value in part(state).items()}


def _first_batch(dataset: data.Dataset, num: int, key: jax.Array) -> data.dataset.Batch:
    rows = np.arange(min(num, dataset.num_examples), dtype=np.int32)
    return dataset.prepare(dataset.fetch(rows), key)


def make_evaluate(
    eval_step: Callable,
    summarize: Callable,
    dataset: data.Dataset,
    *,
    key: jax.Array,
    batch_size: int = 250,
    mesh: jax.sharding.Mesh | None = None,
    variables: Callable[[Any], Any] = lambda state: state.ema,
) -> Callable[[Any], dict[str, float]]:
    """Builds `evaluate(state) -> numbers` over every example of a data set, once each, in order.

    Args:
      eval_step: `(variables, batch, key) -> dict of arrays [B, ...]`, one row for each image, from a family.
      summarize: `dict of arrays [N, ...] -> numbers`, from the same family.
      dataset: the split to evaluate on.
      key: of binarisation and latents; the same at every call, so that two calls differ by the state alone.
      batch_size: images at once, over all devices. Where they cannot share it equally, copies of the last image fill it
        up and do not count: any number of devices gives the same numbers, up to rounding.
      mesh: whose devices share each batch, from `sharding.make_mesh`; all devices by default.
      variables: state -> what `eval_step` takes.

    Returns:
      A function of a state.
    """
    mesh = sharding.make_mesh() if mesh is None else mesh
    batch_size = min(batch_size, dataset.num_examples)
    run = numbers_program(eval_step, dataset, mesh)

    def evaluate(state) -> dict[str, float]:
        local, rows = sharding.as_replicated(mesh, variables(state)), []
        for i, (raw, num_valid) in enumerate(data.sequential_batches(dataset, batch_size)):
            per_image = run(local, sharding.divide(mesh, raw), jax.random.fold_in(key, i))
            if not sharding.can_run_ahead(mesh):
                jax.block_until_ready(per_image)
            rows.append((num_valid, per_image))
        rows = [jax.tree.map(lambda x, n=num_valid: np.asarray(x)[:n], per_image) for num_valid, per_image in rows]
        return summarize({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})

    return evaluate


def numbers_program(eval_step: Callable, dataset: data.Dataset, mesh: jax.sharding.Mesh) -> Any:
    """What an evaluation runs for each batch: (variables, raw, key) -> the numbers of `eval_step`, compiled."""

    def numbers_of(variables, raw, key):
        data_key, eval_key = jax.random.split(key)
        return eval_step(variables, dataset.prepare(raw, data_key), eval_key)

    return sharding.jit_global(numbers_of, mesh, batch_axes=(None, 0, None))


def at_once(measure: Measure, image_shape: tuple[int, int, int]) -> int:
    """How many images of a shape (H, W, C) are measured in a batch."""
    pixels = image_shape[0] * image_shape[1]
    return 250 if measure.most_pixels is None else max(1, min(250, measure.most_pixels // pixels))


def make_drawn_evaluate(
    system: System,
    dataset: data.Dataset,
    held_out: data.Dataset,
    backbone: features.Backbone,
    metrics: Mapping[str, comparison.Metric],
    *,
    num: int,
    key: jax.Array,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[[Any], dict[str, float]]:
    """Builds `evaluate(state) -> numbers` of what a system draws: metrics against held-out images.

    A discriminator's gap between training images and held-out ones stands beside them, where there is one.

    Args:
      system: one that draws.
      dataset: what it is trained on.
      held_out: what it is compared with; the first num images count.
      backbone: sees both.
      metrics: name -> metric, as in `comparison.METRICS`.
      num: images to draw, always of the same latents; of a class-conditional system with labels of training images.
      key: of these.
      mesh: whose devices share the drawing; all devices by default.
    """
    if num < 2:
        raise ValueError(f"eval_images must be at least 2, not {num}")
    mesh = sharding.make_mesh() if mesh is None else mesh
    size = sharding.divisible(min(num, 250), mesh.size)
    label = data.labels.of_some(dataset, num, system.choices.get("label", 0), key)
    draw = compiled_drawer(system, size, mesh, label=label)
    discriminate = None if system.discriminate is None else compilation.jit(system.discriminate)

    @functools.cache
    def real():
        first = dataclasses.replace(held_out, num_examples=min(num, held_out.num_examples))
        shown = [_first_batch(d, size, key) for d in (dataset, held_out)]
        return comparison.see(backbone, first), jax.device_get(shown)

    def evaluate(state) -> dict[str, float]:
        seen_real, shown = real()
        variables = sharding.as_replicated(mesh, system.variables(state))
        drawn = [draw(variables, jax.random.fold_in(key, i), i * size) for i in range(-(-num // size))]
        generated = np.concatenate([batch["image"] for batch in drawn])[:num]
        if not np.isfinite(generated).all():
            gap = ["discriminator_overfitting"] if discriminate else []
            return dict.fromkeys([*metrics, *gap], float("nan"))
        with warnings.catch_warnings():  # at every evaluation it would be noise
            warnings.simplefilter("ignore", fid.RankDeficientWarning)
            seen_fake = comparison.see(backbone, data.from_arrays("samples", generated))
            values, _ = comparison.compare(backbone, seen_real, seen_fake, dict(metrics), key)
        if discriminate is not None:
            local = jax.device_get(variables)
            logits = [np.asarray(discriminate(local, batch)) for batch in (*shown, drawn[0])]
            values |= comparison.discriminator_gap(*logits)
        return values

    return evaluate


def compiled_drawer(
    system: System, num: int, mesh: jax.sharding.Mesh, *, label: np.ndarray | None = None, **choices: Any
) -> Callable:
    """Builds `(variables, key, first) -> batch`, on the host: `batch_drawer` compiled, of a piece of a long series.

    Args:
      system: one that draws.
      num: images at once.
      mesh: whose devices share them.
      label: [N], taken in turns along the series, of which `first` is the place of the batch's first image. None:
        labels are drawn, all classes alike.
      choices: of `draw`.
    """
    if label is None:
        alike = sharding.jit_global(batch_drawer(system, num, **choices), mesh, batch_axes=(None, None))
        return lambda variables, key, first: jax.device_get(alike(variables, key))

    def asked(variables, key, label):
        return batch_drawer(system, num, label=label, **choices)(variables, key)

    compiled = sharding.jit_global(asked, mesh, batch_axes=(None, None, None))

    def draw(variables, key, first):
        return jax.device_get(compiled(variables, key, label[np.arange(first, first + num) % len(label)]))

    return draw


def batch_drawer(system: System, num: int, **choices: Any) -> Callable:
    """Builds `(variables, key) -> batch` of num new images, with the labels that were asked for or drawn.

    Args:
      system: one that draws.
      num: how many.
      choices: of `draw`; labels that are not chosen are drawn, all classes alike.
    """
    draw = system.need("draw", "drawing")
    num_labels = system.choices.get("label", 0)

    def batch(variables, key):
        told = dict(choices)
        if num_labels and "label" not in told:
            told["label"] = drawn_labels(jax.random.fold_in(key, 1), num, num_labels)
        found = {"image": draw(variables, key, num, **told)}
        if found["image"].ndim != 4 or len(found["image"]) != num:
            raise ValueError(
                f"draw(variables, key, n={num}) of {system.name} must return images [{num}, H, W, C], and returned an "
                f"array of shape {found['image'].shape}"
            )
        return found | {name: value for name, value in told.items() if name == "label"}

    return batch
