"""A system: what can be trained, and what it can do when it is.

Every command and every notebook works on a `System`, and asks what it can do. The published ones are built by the files
in `systems/`; your own is as good:

    system = jaxgen.System(
        init=lambda key: state,                       # anything with a `step`
        train_step=step,                              # (state, batch, key) -> (state, metrics)
        images_per_step=64,
        variables=lambda state: state.ema,            # what the functions below take
        draw=lambda variables, key, n: images,        # [n, H, W, C] in [-1, 1]
    )
    jaxgen.train(system, dataset, "runs/mine", num_steps=1000)
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import data, gan, network, sharding
from jaxgen.arguments import check_key, short

CAPABILITIES = {
    "draw": "draw images",
    "decode": "decode latents",
    "encode": "encode images",
    "reconstruct": "reconstruct images",
    "translate": "translate images",
    "discriminate": "tell real from fake images",
    "classify": "classify images",
}
"""Verbs, and in words what each does."""


class MissingCapability(ValueError):
    """Something was asked of a system that it cannot do; the message says what it can."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a batch holds, without the batch: enough to build a system, and to rebuild a stored one without its data.

    Attributes:
      batch: name -> shape and dtype of one example's entry.
      num_classes: of the labels; 0 without labels.
    """

    batch: Mapping[str, jax.ShapeDtypeStruct]
    num_classes: int = 0

    @classmethod
    def of_images(cls, image_shape: tuple[int, int, int], num_classes: int = 0) -> "Spec":
        """Images (H, W, C) in [-1, 1], with labels where there are classes."""
        batch = {"image": jax.ShapeDtypeStruct(tuple(image_shape), jnp.float32)}
        if num_classes:
            batch["label"] = jax.ShapeDtypeStruct((), jnp.int32)
        return cls(batch, num_classes)

    @classmethod
    def of(cls, dataset: data.Dataset) -> "Spec":
        """That of a data set's batches. Reads one row."""
        raw = dataset.fetch(np.zeros(1, np.int32))
        shapes = jax.eval_shape(dataset.prepare, dict(raw), jax.random.key(0))
        batch = {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in shapes.items()}
        return cls(batch, len(dataset.class_names))

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Spec":
        """What `to_dict` made; also of a run that was stored before other entries than images and labels counted."""
        entries = stored.get("batch")
        if entries is None:
            return cls.of_images(tuple(stored["image_shape"]), stored["num_classes"])
        batch = {n: jax.ShapeDtypeStruct(tuple(e["shape"]), jnp.dtype(e["dtype"])) for n, e in entries.items()}
        return cls(batch, stored["num_classes"])

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for config.json."""
        batch = {name: {"shape": list(s.shape), "dtype": str(s.dtype)} for name, s in self.batch.items()}
        return {"image_shape": list(self.image_shape), "num_classes": self.num_classes, "batch": batch}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return tuple(self.batch["image"].shape)

    def example(self, batch_size: int = 2) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a batch."""
        return {name: jax.ShapeDtypeStruct((batch_size, *s.shape), s.dtype) for name, s in self.batch.items()}


class Between(NamedTuple):
    """A number that a system can be told.

    least, most: its ends.
    meaning: for this system, in words that follow the number.
    """

    least: float
    most: float
    meaning: str = ""


class Measure(NamedTuple):
    """Numbers of a system on images that were held out.

    Attributes:
      of_batch: (variables, batch, key) -> {name: array [B, ...]}, one row for each image.
      summarize: {name: array [N, ...]} -> {name: number}.
      best: by which the best checkpoint is kept.
      mode: whether that is better large ("max") or small ("min").
      most_pixels: of a batch that is measured: of large images fewer are measured at once. None: no limit.
      of_images: (images, batch) -> rows as of `of_batch`: the same numbers of anybody's images, for a batch with
        sources, such as those of a method without a network.
    """

    of_batch: Callable
    summarize: Callable
    best: str | None = None
    mode: Literal["max", "min"] = "max"
    most_pixels: int | None = None
    of_images: Callable | None = None

    def __repr__(self) -> str:
        return short(self)


class Space(NamedTuple):
    """Latents of another kind than `System.latents` gives, of which images are made, too: StyleGAN's w.

    Attributes:
      of: (variables, latents, **choices) -> latents of this kind, of some as `System.latents` gives them.
      decode: (variables, latents of this kind, **choices) -> images. Choices are those of `System.decode` that say what
        is drawn, such as a label, and may mean nothing here.
      kernels: variables -> [D, F] of each layer that these latents enter, for directions of them by weights.
    """

    of: Callable
    decode: Callable
    kernels: Callable | None = None

    def __repr__(self) -> str:
        return short(self)


class Inference(NamedTuple):
    """What a system with diagonal Gaussian posteriors says of images: see `metrics.amortisation`.

    posterior: (variables, batch) -> (mean, logvar), each [B, latent_dim].
    bound: (variables, batch, (mean, logvar), noise [B, k, latent_dim]) -> the ELBO [B] of any such posterior, in nats.
    """

    posterior: Callable
    bound: Callable

    def __repr__(self) -> str:
        return short(self)


def _averaged(state: Any) -> Any:
    return state.ema


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """Functions of fixed signatures; those that make no sense for a system are None.

    Attributes:
      init: key -> state, a pytree of arrays with a `step`.
      train_step: (state, batch, key) -> (state, metrics), pure and not compiled, in the global view.
      images_per_step: that a batch holds.
      variables: state -> what the capabilities take; `state.ema` by default.
      draw: (variables, key, n, **choices) -> new images [n, H, W, C] in [-1, 1].
      choices: what `draw` and `decode` can be told: {"label": 10} for labels 0 to 9, {"truncation": (0.0, 1.0)}, or a
        `Between` that also says what it means, for a range, text for anything else, such as {"fine": "latents"}.
        A `decode` that is told `toward` (other latents) and `share` knows itself what lies between two latents.
      latent_choices: names of those that are of the latents: `latents` is told them, and `decode` is not.
      latents: (key, n, **latent choices) -> latents of new images; `decode`: (variables, latents, **choices) -> images.
      spaces: name -> `Space`: latents of other kinds that `decode` does not take, such as StyleGAN's w.
      batch_statistics: (variables, key, n, **choices) -> {network: batch statistics of n new images that are drawn as
        in training}, {} where there is no batch normalisation; they stand under `variables[network]["batch_stats"]`.
      encode: (variables, batch) -> latents.
      reconstruct: (variables, batch) -> images like the batch's.
      translate: (variables, batch, key) -> images, from whatever the batch brings: a source, a mask. It may take more
        by name: a `label`, or a `direction` ("to_image", "to_source") where it can go back.
      discriminate: (variables, batch) -> logits.
      classify: (variables, images) -> logits [B, num_classes].
      views: (variables, batch) -> {name: images [N, H, W, C], or groups of K [N, K, H, W, C]} to look at while it
        trains, always of the same latents; the batch holds up to 32 examples. By default samples and reconstructions,
        as far as there are any (`watching.views_of`).
      measure: numbers on held-out images.
      inference: of a variational autoencoder: its posterior, and the bound of any other.
      protocol: what its numbers depend on, in words: how images are drawn, which weights, which precision.
      game: the two players with all settings, where it is a game: for the stability laboratory.
      frozen: arrays that `state.frozen` holds, which are neither trained nor checkpointed: a run stores their digest.
      backbone: the module of `classify` whose penultimate layer is a feature network.
      name: what to call it.
    """

    init: Callable[[jax.Array], Any]
    train_step: Callable
    images_per_step: int
    variables: Callable[[Any], Any] = _averaged
    draw: Callable | None = None
    choices: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    latent_choices: tuple[str, ...] = ()
    latents: Callable | None = None
    decode: Callable | None = None
    spaces: Mapping[str, Space] = dataclasses.field(default_factory=dict)
    encode: Callable | None = None
    reconstruct: Callable | None = None
    translate: Callable | None = None
    discriminate: Callable | None = None
    classify: Callable | None = None
    views: Callable | None = None
    batch_statistics: Callable | None = None
    measure: Measure | None = None
    inference: Inference | None = None
    protocol: Mapping[str, str] = dataclasses.field(default_factory=dict)
    game: gan.Game | None = None
    frozen: Any = None
    backbone: Any = None
    name: str = "system"

    def __post_init__(self):
        for field in ("init", "train_step", "variables", *CAPABILITIES, "views", "latents", "batch_statistics"):
            value = getattr(self, field)
            if value is not None and not callable(value):
                raise TypeError(f"{field} of a system is a function, not {value!r}")
        if self.images_per_step < 1:
            raise ValueError(f"images_per_step must be at least 1, not {self.images_per_step}")

    @property
    def can(self) -> tuple[str, ...]:
        """The capabilities that are there."""
        return tuple(name for name in CAPABILITIES if getattr(self, name) is not None)

    def need(self, capability: str, who: str) -> Callable:
        """A capability, or a `MissingCapability` that says who asked for what, and what there is.

        Args:
          capability: one of `CAPABILITIES`.
          who: wants it, such as "sample".
        """
        found = getattr(self, capability)
        if found is None:
            able = ", ".join(CAPABILITIES[name] for name in self.can) or "only train"
            raise MissingCapability(
                f"{who} needs a system that can {CAPABILITIES[capability]}; {self.name} has no {capability!r}, it can "
                f"{able}"
            )
        return found

    @functools.cached_property
    def shapes(self) -> Any:
        """Shapes and dtypes of the state, without computing one: a template to restore, and for counts."""
        return jax.eval_shape(self.init, jax.random.key(0))

    @property
    def parameters(self) -> dict[str, int]:
        """How many trainable numbers each network has."""
        return {name: network.count_parameters(params) for name, params in networks_of(self.shapes).items()}


def drawn_labels(key: jax.Array, num: int, num_labels: int) -> jax.Array:
    """Labels of `num` new images, all classes alike: int32 [num], divided over devices as the images are."""
    check_key(key)
    return sharding.draw(lambda key, shape: jax.random.randint(key, shape, 0, num_labels), key, (num,))


def networks_of(state: Any) -> dict[str, Any]:
    """The parameters of each network in a state: {"generator": params, ...}; of a group its members."""
    found: dict[str, Any] = {}
    fields = vars(state) if hasattr(state, "__dict__") else getattr(state, "_asdict", dict)()
    for name, value in fields.items():
        if isinstance(value, network.Network):
            group = isinstance(value.model_state, Mapping) and set(value.model_state) == set(value.params)
            if value.params and group:
                found |= value.params
            else:
                found[name] = value.params
        elif name == "params":
            found["network"] = value
    return found
