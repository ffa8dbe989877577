"""What spoils images: pure functions `(image [H, W, C] in [-1, 1], key, **settings) -> image`, jittable, for one image.

`jax.vmap` them over a batch with a key for each image, or let `data.degraded` do it. `functools.partial` holds the
settings. The linear ones (`resize`, `downscale`, `upscale`, `blur`, `hide`) need no key and have an `adjoint`.
Strengths are in levels of 255 and in pixels, as papers give them.

    degrade = functools.partial(degradations.gaussian_noise, sigma=25)
    noisy = jax.vmap(degrade)(images, jax.random.split(key, len(images)))
"""

from jaxgen.degradations import kernels
from jaxgen.degradations.blurring import blur, gaussian_blur, sharpen
from jaxgen.degradations.jpeg import jpeg
from jaxgen.degradations.linear import adjoint, chain, hide, stored
from jaxgen.degradations.noise import gaussian_noise, poisson_noise
from jaxgen.degradations.real_world import real_world
from jaxgen.degradations.resizing import bicubic, bilinear, box, downscale, lanczos3, resize, upscale

__all__ = [
    "adjoint",
    "bicubic",
    "bilinear",
    "blur",
    "box",
    "chain",
    "downscale",
    "gaussian_blur",
    "gaussian_noise",
    "hide",
    "jpeg",
    "kernels",
    "lanczos3",
    "poisson_noise",
    "real_world",
    "resize",
    "sharpen",
    "stored",
    "upscale",
]
