"""What spoils images: pure functions `(image [H, W, C] in [-1, 1], key, **settings) -> image`, jittable, for one image.

`jax.vmap` them over a batch with a key for each image, or let `data.degraded` do it. `functools.partial` holds the
settings. The linear ones (`resize`, `downscale`, `upscale`, `blur`, `hide`) need no key and have an `adjoint`.
Strengths are in levels of 255 and in pixels, as papers give them.

    degrade = functools.partial(degradations.gaussian_noise, sigma=25)
    noisy = jax.vmap(degrade)(images, jax.random.split(key, len(images)))
"""

from jaxgen.degradations import compression, kernels, two_rounds
from jaxgen.degradations.blurring import blur, gaussian_blur, sharpen
from jaxgen.degradations.compression import jpeg
from jaxgen.degradations.linear import adjoint, chain, hide, stored
from jaxgen.degradations.noise import gaussian_noise, poisson_noise
from jaxgen.degradations.resizing import bicubic, bilinear, box, downscale, lanczos3, resize, upscale
from jaxgen.degradations.two_rounds import real_world

__all__ = [
    "adjoint",
    "bicubic",
    "bilinear",
    "blur",
    "box",
    "chain",
    "compression",
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
    "two_rounds",
    "upscale",
]
