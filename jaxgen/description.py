"""What a preset is, without data and without training: networks, parameters, arithmetic, memory, paper, numbers."""

import json
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import arithmetic, building, data, options, systems
from jaxgen.system import Spec, networks_of
from jaxgen.systems.preset import Preset

# Of the sets that come with the package: image size, channels, classes.
BUILT_IN = {
    "mnist": (28, 1, 10),
    "stacked_mnist": (28, 3, 1000),
    "emoji": (64, 3, 9),
    "unpaired_emoji": (64, 3, 9),
    "factors": (32, 1, 3),
}


def spec_of(
    config: options.Run, preset: Preset, image_shape: tuple[int, int, int] | None = None, num_classes: int | None = None
) -> Spec:
    """The batches of a preset, data unseen.

    Args:
      config: its settings.
      preset: it.
      image_shape: (H, W, C) instead of its own.
      num_classes: of labels, instead of its own.

    Raises:
      ValueError: for data whose shape only they know.
    """
    return Spec.of(config.wrap(stand_in(spec_of_data(config, preset, image_shape, num_classes)), "train"))


def spec_of_data(
    config: options.Run, preset: Preset, image_shape: tuple[int, int, int] | None = None, num_classes: int | None = None
) -> Spec:
    """What the data hold before the system puts anything beside them; otherwise as `spec_of`."""
    if config.data.name in BUILT_IN:
        size, channels, classes = BUILT_IN[config.data.name]
        size = config.data.image_size or size
        shape = (size, size, channels)
    elif preset.spec is not None:
        shape, classes = preset.spec
    elif image_shape is not None:
        shape, classes = image_shape, 0
    else:
        raise ValueError(
            f"only the data {config.data.name!r} themselves know their shape: give --image-shape H W C, and "
            "--num-classes N if they have labels"
        )
    shape = shape if image_shape is None else image_shape
    spec = Spec.of_images(shape, classes if num_classes is None else num_classes)
    if config.data.name in ("emoji", "unpaired_emoji"):  # each comes with a drawing of the other house
        other = "pair" if config.data.name == "emoji" else "source"
        beside = {other: spec.batch["image"], "subcategory": spec.batch.get("label")}
        told = {name: shape for name, shape in beside.items() if shape is not None}
        spec = Spec({**spec.batch, **told}, spec.num_classes)
    if config.data.name == "factors":
        spec = Spec({**spec.batch, "factor": jax.ShapeDtypeStruct((5,), jnp.int32)}, spec.num_classes)
    if config.data.name in ("pairs", "halves", "unpaired"):  # of one size, as far as is known without them
        spec = Spec({**spec.batch, "source": spec.batch["image"]}, spec.num_classes)
    return spec


def stand_in(spec: Spec, *, dtype: Any = None) -> data.Dataset:
    """A data set of one black example, for what only asks for the shapes of batches.

    Args:
      spec: of its batches.
      dtype: of its images, such as uint8; the batches' own by default.
    """
    dtypes = {name: (dtype if dtype and len(s.shape) == 3 else s.dtype) for name, s in spec.batch.items()}
    arrays = {name: np.zeros((1, *shape.shape), dtypes[name]) for name, shape in spec.batch.items()}
    names, image, label = tuple(map(str, range(spec.num_classes))), arrays.pop("image"), arrays.pop("label", None)
    return data.dataset.in_memory(
        "a stand-in",
        image,
        label,
        names,
        data.prepare_default,
        fingerprint="",
        **arrays,
    )


def describe(config: options.Run, spec: Spec, *, name: str = "", preset: Preset | None = None) -> dict[str, Any]:
    """A record of plain data.

    Args:
      config: settings.
      spec: of the batches.
      name: of the preset.
      preset: whose paper and numbers are told.

    Returns:
      `preset`, `system`, `about`, `paper`, `published`, `measured`; `networks`: name -> `parameters` (trainable
      scalars) and `layers` (path -> shape); `parameters` of all; `state_bytes` (parameters, averages, optimisers);
      `operations_per_step` (of convolutions and matrix products); `batch`: entry -> shape; `can`, `choices`.
    """
    system = building.build_system(config, spec)
    networks = {}
    for network, params in networks_of(system.shapes).items():
        layers = {"/".join(path): list(x.shape) for path, x in flax.traverse_util.flatten_dict(params).items()}
        networks[network] = {"parameters": system.parameters[network], "layers": layers}
    batch = spec.example(system.images_per_step)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return {
        "preset": name,
        "system": system.name,
        "module": systems.name_of(systems.module_of(config)),
        "about": preset.about if preset else "",
        "paper": preset.paper if preset else "",
        "published": preset.published if preset else "",
        "measured": preset.measured if preset and as_measured(config, spec, preset) else "",
        "networks": networks,
        "parameters": sum(network["parameters"] for network in networks.values()),
        "state_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(system.shapes)),
        "operations_per_step": arithmetic.operations(system.train_step, system.shapes, batch, key),
        "images_per_step": system.images_per_step,
        "batch": {entry: [*x.shape] for entry, x in batch.items()},
        "can": list(system.can),
        "choices": dict(system.choices),
    }


def as_measured(config: options.Run, spec: Spec, preset: Preset) -> bool:
    """Whether these are the settings and images that a preset's numbers were measured with."""
    try:
        return config == preset.config and spec == spec_of(config, preset)
    except ValueError:  # only the data know
        return False


def in_words(record: Mapping[str, Any], *, layers: bool = False) -> str:
    """A record for people.

    Args:
      record: of `describe`.
      layers: whether to list every array.
    """
    lines = [f"{record['preset'] or record['system']}: {record['about']}".rstrip(": ")]
    for what in ("paper", "published", "measured"):
        if record[what]:
            lines.append(f"{what:<12}{record[what]}")
    file = record["module"] if record["module"].endswith(".py") else f"jaxgen/systems/{record['module']}.py"
    batch = ", ".join(f"{name} {shape}" for name, shape in record["batch"].items())
    can = ", ".join(record["can"]) or "train"
    choices = ", ".join(f"{name}{_range_of(allowed)}" for name, allowed in record["choices"].items())
    lines += [
        f"{'system':<12}{record['system']} ({file})",
        f"{'batch':<12}{batch}",
        f"{'can':<12}{can}" + (f"; told: {choices}" if choices else ""),
        "",
        f"{'network':<20}{'parameters':>16}",
    ]
    for name, network in record["networks"].items():
        lines.append(f"{name:<20}{network['parameters']:>16,}")
        if layers:
            for path, shape in network["layers"].items():
                lines.append(f"  {path:<50}{'x'.join(map(str, shape)) or '1':>20}{int(np.prod(shape)):>14,}")
    lines += [
        f"{'all':<20}{record['parameters']:>16,}",
        "",
        f"state, with averages and optimisers     {_with_unit(record['state_bytes'], 'B')}",
        f"arithmetic of a step                    {_with_unit(record['operations_per_step'], 'FLOP')}"
        " in convolutions and matrix products",
    ]
    return "\n".join(lines)


def _range_of(allowed: Any) -> str:
    if isinstance(allowed, int):
        return f" (0 to {allowed - 1})"
    if not isinstance(allowed, (tuple, list)):
        return ""
    least, most, *meaning = allowed
    return f" ({': '.join([f'{least:g} to {most:g}', *filter(None, meaning)])})"


def _with_unit(number: float, unit: str) -> str:
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {prefix}{unit}"
    return f"{number} {unit}"


def to_json(record: Mapping[str, Any]) -> str:
    """One JSON object."""
    return json.dumps(record, indent=2)
