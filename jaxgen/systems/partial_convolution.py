"""Partial convolutions: holes of any form, by a U-Net that never sees them (Liu et al. 2018).

Each layer takes what is known alone, and knows more after it. There is no adversary; with m the mask, the composite
c = m G + (1 - m) x, and maps of a network that is not trained:

    mean |(1 - m) (G - x)| + 6 mean |m (G - x)| + 0.05 (maps of G and of c) + 120 (their styles) + 0.1 (variation of c)

Differences are those of images in [0, 1]. Adam, 2e-4; a batch of 6 of 512 pixels in the paper.

Deviations: the last maps of the network's first three stages before pooling, not those after it. The second half of
the paper's training, at 5e-5 with the encoder's normalisation frozen, is a run of its own (`--start-from`), without the
freezing. Masks are LaMa's or DeepFill's strokes and boxes, not those of occlusions in films.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen import network, objective
from jaxgen.losses import completion as losses
from jaxgen.losses import perceptual as distances
from jaxgen.models.partial_convolution import PartialUNet
from jaxgen.options import Data, Optimizer
from jaxgen.ranges import Count, Weight
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import completing
from jaxgen.systems.shared.degrading import Holes

STAGES = 3  # of the perceptual network's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(completing.Completing):
    """A U-Net of partial convolutions, for images whose sides are multiples of 2^halvings."""

    features: Count = 64
    """Channels of the U-Net's first map, doubled up to eight times as many."""
    halvings: Count = 8
    """Of an image in the U-Net."""
    known: Weight = 1.0
    """Weight of the mean absolute difference of known pixels."""
    hole: Weight = 6.0
    """The same of missing ones."""
    perceptual: str = "shipped"
    """Network of the maps: shipped, none, or the path of a .npz with VGG-16's weights."""
    perceptual_weight: Weight = 0.05
    """Weight of the mean absolute differences of maps."""
    style: Weight = 120.0
    """Weight of those of their Gram matrices."""
    variation: Weight = 0.1
    """Weight of the total variation in and around the hole."""
    batch_size: Count = 16
    """Images in a step, over all devices and hosts."""
    optimizer: Optimizer = Optimizer(learning_rate=2e-4)
    """Of all parameters."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a shipped perceptual network that there is not; when it is traced, for sides that cannot be halved
        so often.
      FileNotFoundError: for a file of weights that there is not.
    """
    model = PartialUNet(config.features, config.halvings, dtype=config.dtype)
    wanted = config.perceptual_weight > 0 or config.style > 0
    perceptual = distances.named(config.perceptual, spec.image_shape) if wanted else None
    optimizer = config.optimizer.build(config.num_steps)

    def of_maps(frozen, images, target):
        assert perceptual is not None

        def maps(x):
            return perceptual.maps(frozen, x)[:STAGES]

        targets, found = maps(target), [maps(image) for image in images]
        return {
            "perceptual": config.perceptual_weight * sum(losses.of_maps(x, targets) for x in found),
            "style": config.style * sum(losses.style(x, targets) for x in found),
        }

    def of_batch(params, model_state, batch, key, step, frozen=None):
        target, mask = network.images_of(batch), completing.mask_of(batch)
        output, model_state = network.apply(model, params, model_state, completing.with_mask(batch), key=key)
        whole = jnp.where(mask > 0, output, target)
        parts: dict[str, Any] = {
            "known": config.known / 2 * losses.absolute(output, target, 1 - mask),
            "hole": config.hole / 2 * losses.absolute(output, target, mask),
            "variation": config.variation / 2 * losses.total_variation(whole, mask),
        }
        if perceptual is not None:
            parts |= of_maps(frozen, (output, whole), target)
        means = {name: jnp.mean(value) for name, value in parts.items()}
        loss = sum(means.values(), jnp.zeros(()))
        return loss, (model_state, {"loss": loss, **means})

    def init(key):
        told = jnp.zeros((1, *spec.image_shape[:2], spec.image_shape[2] + 1))

        def new(key):
            _, variables = network.init_with_output(model, key, told, name="model")
            return objective.init(variables, optimizer=optimizer)

        state = network.compiled_init(new, key)
        if perceptual is None:
            return state
        return objective.StateWithFrozen(**vars(state), frozen=jax.tree.map(jnp.array, perceptual.weights))

    system = System(
        init=init,
        train_step=objective.make_train_step(
            of_batch, optimizer=optimizer, ema_decay=config.ema_decay, gradients=config.gradients
        ),
        images_per_step=config.batch_size,
        frozen=None if perceptual is None else perceptual.weights,
        name="partial convolutions",
    )
    return completing.that_completes(system, config, completing.of_network(model))


TINY = Config(data=Data("emoji", image_size=32), features=2, halvings=3, batch_size=8, num_steps=4)

_PAPER = "Liu, Reda, Shih, Wang, Tao and Catanzaro 2018"
_OFTEN: Settings = dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 10_000)

PRESETS = {
    "emoji-partial": Preset(
        "holes in 64x64 emoji, boxes or strokes, by a narrow U-Net of partial convolutions",
        Config(data=Data("emoji", image_size=64), features=16, halvings=5, num_steps=10_000),
        paper=_PAPER,
        measured="not run to its end; of the middle alone, --source.kind centre --num-steps 1500, PSNR in the hole "
        "13.60 dB, feature distance 0.0075 in 10 minutes (the best linear map 13.71 dB and 0.0074) (440 test emoji; "
        "one seed, one core of an Intel Xeon, 2026-11-30)",
    ),
    "places-partial": Preset(
        "holes in photographs of places, 512 pixels, as published; give --data.path and --perceptual FILE",
        Config(
            data=Data("folder", path="places365", image_size=512, labelled=False),
            source=Holes("deepfill"),
            batch_size=6,
            perceptual="none",
            num_steps=500_000,
            **_OFTEN,
        ),
        paper=_PAPER,
        spec=((512, 512, 3), 0),
    ),
}
