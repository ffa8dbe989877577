"""Random changes that keep an image's meaning: functions `(key, images [B, H, W, C]) -> images`, jittable.

What belongs together (an image, its source, its mask) is changed alike: `alike` lifts such functions to
`(key, {name: images}) -> {name: images}`, which `data.augmented` takes.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


def random_shift(key: jax.Array, image: jax.Array, *, pixels: int = 2, fill: float = -1.0) -> jax.Array:
    """Moves each image by up to `pixels` along each axis, uniformly; what comes in from outside is `fill` (black)."""
    batch, height, width, _ = image.shape
    padded = jnp.pad(image, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), constant_values=fill)
    offset = jax.random.randint(key, (batch, 2), 0, 2 * pixels + 1)
    rows = offset[:, :1] + jnp.arange(height)  # [B, H]
    columns = offset[:, 1:] + jnp.arange(width)  # [B, W]
    return padded[jnp.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability one half."""
    flip = jax.random.bernoulli(key, shape=(image.shape[0], 1, 1, 1))
    return jnp.where(flip, image[:, :, ::-1], image)


def random_turn(key: jax.Array, image: jax.Array) -> jax.Array:
    """Turns each square image by 0, 90, 180 or 270 degrees, all alike.

    Raises:
        ValueError: for images that are not square.
    """
    height, width = image.shape[1:3]
    if height != width:
        raise ValueError(f"images of {height}x{width} cannot be turned by 90 degrees: they are not square")
    quarters = jax.random.randint(key, (image.shape[0], 1, 1, 1), 0, 4)
    turned = [jnp.rot90(image, number, axes=(1, 2)) for number in range(4)]
    return jnp.select([quarters == number for number in range(4)], turned)


def alike(*augments: Callable) -> Callable:
    """Functions `(key, images) -> images`, one after the other, as one of `{name: images}`: one draw for all names.

    Args:
        augments: such as `random_flip`, `random_turn`. What they draw may depend on the number of images alone.

    Returns:
        `(key, {name: images [B, h, w, c]}) -> {name: images}`.
    """

    def augment(key, images):
        for number, function in enumerate(augments):
            own = jax.random.fold_in(key, number)
            images = {name: function(own, value) for name, value in images.items()}
        return images

    return augment


def random_crop(key: jax.Array, images: Mapping[str, jax.Array], *, size: int) -> dict[str, jax.Array]:
    """Cuts a square out of each example, at a random place, the same for all its images.

    Args:
        key: of the places.
        images: name -> [B, h, w, c]. Where some are smaller than others, as sources of super-resolution are, all sides
            are whole multiples of theirs, and the square begins where a pixel of the smallest does.
        size: side of the square in the largest of the images.

    Returns:
        The same names, [B, size, size, c] of the largest.

    Raises:
        ValueError: for a square larger than the images, and for sizes that do not fit each other.
    """
    height, width, unit = _sides(images, size)
    num, of_axes = len(next(iter(images.values()))), jax.random.split(key)
    top = jax.random.randint(of_axes[0], (num,), 0, (height - size) // unit + 1)
    left = jax.random.randint(of_axes[1], (num,), 0, (width - size) // unit + 1)
    return _cut(images, height, unit, size, top, left)


def centre_crop(key: jax.Array | None, images: Mapping[str, jax.Array], *, size: int) -> dict[str, jax.Array]:
    """As `random_crop`, the square in the middle, up to a pixel of the smallest image: for images that are held out.

    Raises:
        ValueError: as `random_crop`.
    """
    del key
    height, width, unit = _sides(images, size)
    num = len(next(iter(images.values())))
    top, left = (jnp.full(num, (side - size) // unit // 2) for side in (height, width))
    return _cut(images, height, unit, size, top, left)


def _sides(images, size):
    """Height and width of the largest images, and how many of its pixels one of the smallest is."""
    shapes = {name: image.shape[1:3] for name, image in images.items()}
    (height, width), least = max(shapes.values()), min(shapes.values())
    unit = height // least[0]
    fits = all(height % h == 0 and w * height == width * h and h % least[0] == 0 for h, w in shapes.values())
    if not fits or size % unit:
        sizes = ", ".join(f"{name} {h}x{w}" for name, (h, w) in shapes.items())
        raise ValueError(f"squares of {size} pixels cannot be cut alike out of images of these sizes: {sizes}")
    if not 1 <= size <= min(height, width):
        raise ValueError(f"a square of {size} pixels cannot be cut out of images of {height}x{width}")
    return height, width, unit


def _cut(images, height, unit, size, top, left):
    """Squares that begin at pixels `top` and `left` [B] of the smallest images."""

    def cut(image):
        times = unit * image.shape[1] // height  # pixels of this image in one of the smallest
        side = jnp.arange(size * image.shape[1] // height)
        rows, columns = top[:, None] * times + side, left[:, None] * times + side
        return image[jnp.arange(len(image))[:, None, None], rows[:, :, None], columns[:, None, :]]

    return {name: cut(image) for name, image in images.items()}
