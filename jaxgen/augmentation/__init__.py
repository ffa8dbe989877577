"""What the discriminator sees instead of images: the argument `augment` of `gan.make_train_step`.

    gan.make_train_step(..., augment=augmentation.diff_augment())
    gan.make_train_step(..., augment=augmentation.pseudo(64))  # shows fakes as real; has a state, as adaptive has
    ada = augmentation.adaptive(batch_size=64)  # has a state: give it to gan.init, too
    ada = augmentation.adaptive(64, pipeline=augmentation.pipeline(*augmentation.BGC, augmentation.noises))

Both players' gradients go through these functions, so that real and fake images are changed alike, each in its own way.
For data, which nothing is differentiated through, see `data.augmentation`.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxgen.arguments import at_step, check_key
from jaxgen.augmentation.geometry import geometric as geometric
from jaxgen.augmentation.pixels import colours as colours
from jaxgen.augmentation.pixels import cutouts as cutouts
from jaxgen.augmentation.pixels import filters as filters
from jaxgen.augmentation.pixels import noises as noises
from jaxgen.turns import Augment

Transform = Callable[[jax.Array, jax.Array], jax.Array]
"""(key, images [B, H, W, C]) -> images, each image changed by random numbers of its own."""
Changes = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(key, images [B, H, W, C], probability) -> images, each change made to each image with the probability."""


# ------------------------------------------------------------------------------------- DiffAugment (Zhao et al. 2020)


def brightness(key: jax.Array, images: jax.Array) -> jax.Array:
    """x + u, u ~ U[-0.5, 0.5] for each image."""
    check_key(key)
    return images + _uniform(key, images, -0.5, 0.5)


def saturation(key: jax.Array, images: jax.Array) -> jax.Array:
    """m + u (x - m) with m a pixel's mean over its channels, u ~ U[0, 2] for each image."""
    check_key(key)
    mean = jnp.mean(images, axis=-1, keepdims=True)
    return mean + _uniform(key, images, 0.0, 2.0) * (images - mean)


def contrast(key: jax.Array, images: jax.Array) -> jax.Array:
    """m + u (x - m) with m the image's mean, u ~ U[0.5, 1.5] for each image."""
    check_key(key)
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    return mean + _uniform(key, images, 0.5, 1.5) * (images - mean)


def translation(key: jax.Array, images: jax.Array, ratio: float = 0.125) -> jax.Array:
    """Moves each image by whole pixels, up to `ratio` of its size along each axis; 0 (grey) comes in from outside."""
    check_key(key)
    height, width = images.shape[1:3]
    y_key, x_key = jax.random.split(key)
    rows = jnp.arange(height) + _integers(y_key, images, int(height * ratio + 0.5))
    columns = jnp.arange(width) + _integers(x_key, images, int(width * ratio + 0.5))
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    moved = _gather(images, jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1))
    return jnp.where(inside[..., None], moved, 0)


def cutout(key: jax.Array, images: jax.Array, ratio: float = 0.5) -> jax.Array:
    """0 (grey) in a rectangle of `ratio` of the size along each axis, around a uniform point, ending at the border."""
    check_key(key)
    cut = jnp.ones((), bool)
    for axis, own_key in zip((1, 2), jax.random.split(key), strict=True):
        size = images.shape[axis]
        length = int(size * ratio + 0.5)
        centre = jax.random.randint(own_key, (images.shape[0], 1), 0, size + 1 - length % 2)
        first = centre - length // 2
        within = (jnp.arange(size) >= first) & (jnp.arange(size) < first + length)
        cut = cut & jnp.expand_dims(within, 3 - axis)
    return jnp.where(cut[..., None], 0, images)


def diff_augment(
    policy: Sequence[Transform] = (brightness, saturation, contrast, translation, cutout),
) -> Transform:
    """The functions one after another, each with its own key: differentiable augmentation.

    Args:
      policy: `(key, images) -> images`; the first three of the default are what the paper calls color.

    Zhao et al. 2020.
    """
    if isinstance(policy, str) or not all(callable(transform) for transform in policy):
        raise TypeError(f"a policy is a list of functions such as [augmentation.translation], not {policy!r}")

    def augment(key, images):
        for i, transform in enumerate(policy):
            images = transform(jax.random.fold_in(key, i), images)
        return images

    return augment


# --------------------------------------------------------------------------------------------- ADA (Karras et al. 2020)


def blits(key: jax.Array, images: jax.Array, probability: jax.Array) -> jax.Array:
    """Three changes that only move pixels, each made to each image with a probability of its own draw.

    A mirror image (left to right) or none; a rotation by 0, 90, 180 or 270 degrees; a translation by whole pixels of
    up to 1/8 of the size along each axis, with reflecting borders. All alike likely, the identity among them.

    Args:
      key: of the draws.
      images: [B, H, W, C], square.
      probability: in [0, 1], a scalar.

    Raises:
      ValueError: for images that are not square, which a rotation by 90 degrees does not leave as they are.
    """
    check_key(key)
    height, width = images.shape[1:3]
    if height != width:
        raise ValueError(f"rotations by 90 degrees need square images, not {height} x {width}")

    flip_key, turn_key, row_key, column_key, *gate_keys = jax.random.split(key, 7)
    count = (images.shape[0],)
    flip, turn, shift = (jax.random.bernoulli(gate_key, probability, count) for gate_key in gate_keys)

    def along(x):
        return x.reshape(-1, 1, 1, 1)

    def moved(key):
        """Where the pixels of rows or columns come from, [B, height]."""
        pixels = jnp.round(height * jax.random.uniform(key, count, minval=-0.125, maxval=0.125)).astype(jnp.int32)
        index = jnp.abs(jnp.arange(height) + jnp.where(shift, pixels, 0)[:, None])
        return (height - 1) - jnp.abs((height - 1) - index)

    images = jnp.where(along(flip & jax.random.bernoulli(flip_key, 0.5, count)), images[:, :, ::-1], images)
    quarters = along(jnp.where(turn, jax.random.randint(turn_key, count, 0, 4), 0))
    images = jnp.where(quarters % 2 == 1, jnp.rot90(images, 1, (1, 2)), images)
    images = jnp.where(quarters >= 2, images[:, ::-1, ::-1], images)
    return _gather(images, moved(row_key), moved(column_key))


BGC = (blits, geometric, colours)
"""What the paper found best, and what `adaptive` makes."""
ALL = (*BGC, filters, noises, cutouts)
"""All six groups of the paper, in its order."""


def pipeline(*groups: Changes) -> Changes:
    """The groups one after another, each with its own key and all with the same probability."""
    for group in groups:
        if not callable(group):
            raise TypeError(f"a pipeline is made of functions such as augmentation.blits, not {group!r}")

    def change(key, images, probability):
        check_key(key)
        for i, group in enumerate(groups):
            images = group(jax.random.fold_in(key, i), images, probability)
        return images

    return change


bgc = pipeline(*BGC)


def adaptive(
    batch_size: int,
    *,
    target: float = 0.6,
    num_images: float = 500_000,
    decay: float = 0.75,
    probability: float = 0.0,
    pipeline: Changes = bgc,
) -> Augment:
    """Augmentation with a probability p that follows how far the discriminator has learned its images by heart.

        r <- decay r + (1 - decay) E sign D(x)        over real images x, as it saw them, before its update
        p <- clip(p + sign(r - target) batch_size / num_images, 0, 1)

    once for each discriminator step. p and r are its state, reported as `augment/probability` and `augment/sign`.

    The default pipeline is the paper's choice of its six groups, `BGC`. A pipeline of your own makes each change with
    probability p: where most images are left as they are, the generator does not learn the changes.

    Args:
      batch_size: images of a discriminator step, over all devices.
      target: r_t; the discriminator is overfitting above it.
      num_images: in which p goes from 0 to 1 at most.
      decay: of r. The paper takes means over four batches, after which p moves four times as far.
      probability: p at first.
      pipeline: `(key, images, p) -> images`, such as `pipeline(*augmentation.ALL)`.

    Karras et al. 2020 (Training generative adversarial networks with limited data), section 3.
    """

    def apply(key, image, condition, state, step):
        return pipeline(key, image, state["probability"]), condition

    return Augment(apply, **_following(batch_size, target, num_images, decay, probability))


def pseudo(
    batch_size: int,
    *,
    target: float = 0.6,
    num_images: float = 500_000,
    decay: float = 0.75,
    probability: float = 0.0,
    augment: Transform | None = None,
) -> Augment:
    """Fake images stand for real ones with a probability p that follows the discriminator (APA).

    In the discriminator's turn real image i is, with probability p, fake image i with what that is told, and is to be
    judged real: by the loss, by penalties and by terms, except for what these take from `turn.batch`. So few images
    are not learned by heart. p moves as that of `adaptive`, and E sign D(x) is over what stands for real images.

    Args:
      batch_size, target, num_images, decay, probability: as for `adaptive`.
      augment: what is done to all images afterwards, such as `diff_augment()`: `(key, images) -> images`.

    Jiang et al. 2021 (Deceive D: adaptive pseudo augmentation). Deviations: fakes are those of the same turn (there
    older ones are drawn anew), and p ends at 1.
    """
    if augment is not None and not callable(augment):
        raise TypeError(f"augment must be a function (key, images) -> images, not {augment!r}")

    def apply(key, image, condition, state, step):
        return (image if augment is None else augment(key, image)), condition

    def replace(key, real, fake, condition, state, step):
        chosen = jax.random.bernoulli(key, state["probability"], real.shape[:1])

        def either(fake, real):
            return jnp.where(chosen.reshape(-1, *(1,) * (real.ndim - 1)), fake, real).astype(real.dtype)

        if jax.tree.structure(condition.fake) != jax.tree.structure(condition.real):
            raise ValueError("fakes can stand for real images only where both are told things of the same structure")
        told = jax.tree.map(either, condition.fake, condition.real)
        return either(jax.lax.stop_gradient(fake), real), told

    return Augment(apply, **_following(batch_size, target, num_images, decay, probability), replace=replace)


def _following(batch_size, target, num_images, decay, probability):
    """The parts of an `Augment` whose probability follows the sign of real images' logits."""
    if batch_size < 1 or num_images < batch_size:
        raise ValueError(f"p moves by batch_size / num_images = {batch_size} / {num_images}, which must be in (0, 1]")

    def init():
        return {"probability": jnp.full((), probability, jnp.float32), "sign": jnp.zeros((), jnp.float32)}

    def observe(real_logits):
        return {"sign": jnp.mean(jnp.sign(real_logits))}

    def update(state, observed):
        r = decay * state["sign"] + (1 - decay) * observed["sign"]
        p = state["probability"] + jnp.sign(r - target) * (batch_size / num_images)
        return {"probability": jnp.clip(p, 0.0, 1.0), "sign": r}

    return {"init": init, "observe": observe, "update": update, "metrics": lambda state: dict(state)}


def scheduled(
    probability: float | Callable[[jax.Array], jax.Array],
    *,
    pipeline: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] = blits,
) -> Augment:
    """Augmentation with a probability that follows the step, whatever the discriminator has learned.

    Args:
      probability: of each change; a number, or a schedule step -> number.
      pipeline: `(key, images, probability) -> images`, as for `adaptive`.

    Huang et al. 2024.
    """

    def apply(key, image, condition, state, step):
        return pipeline(key, image, at_step(probability, step, "probability")), condition

    return Augment(apply)


def _uniform(key, images, low, high):
    return jax.random.uniform(key, (images.shape[0], 1, 1, 1), images.dtype, low, high)


def _integers(key, images, largest):
    return jax.random.randint(key, (images.shape[0], 1), -largest, largest + 1)


def _gather(images, rows, columns):
    """images[b, rows[b], columns[b]], without a look at other images, which may be on other devices."""
    return jax.vmap(lambda image, rows, columns: image[rows][:, columns])(images, rows, columns)
