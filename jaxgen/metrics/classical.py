"""What there is to beat without a network and without learning: methods of scikit-image, OpenCV and bm3d.

    methods, missing = classical.completions()                    # for images with holes
    methods, missing = classical.denoisers(source, image)         # for images with noise; settings fit these pairs
    images = methods["telea"].apply(None, source, mask)           # [B, h, w, c] -> [B, h, w, c]

`pip install "jaxgen[classical]"` brings the first two. bm3d is used where it is installed: its licence allows research
alone, so that this package does not bring it. They run on the host, an image at a time.

  biharmonic        the smoothest surface through what is known: its bilaplacian is 0 in the hole
  telea             a front that marches into the hole (Telea 2004)
  navier_stokes     lines of equal brightness go on as those of a flow (Bertalmio, Bertozzi, Sapiro 2001)
  total_variation   the least sum of gradients near the source (Chambolle 2004)
  non_local_means   means over similar windows (Buades, Coll, Morel 2005)
  bm3d              similar windows, filtered together (Dabov, Foi, Katkovnik, Egiazarian 2007)
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxgen.metrics.baselines import Method

EXTRA = 'pip install "jaxgen[classical]"'
RADIUS = 3
"""Pixels around one that Telea's and the Navier-Stokes method look at, as in OpenCV's examples."""
LEVELS = (2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 35.0, 50.0)
"""Of noise, in levels of 255, of which those settings are chosen that fit training pairs best."""
MOST_TO_CHOOSE = 8  # pairs


def completions() -> tuple[dict[str, Method], list[str]]:
    """Methods that fill holes, by name; and what is missing, with how to get it.

    Each takes sources in [-1, 1] and masks [B, h, w, 1], 1 where a pixel is missing.
    """
    methods: dict[str, Method] = {}
    missing = []
    try:
        from skimage.restoration import inpaint_biharmonic

        def biharmonic(image, hole):
            return inpaint_biharmonic(image, hole, channel_axis=-1)

        methods["biharmonic"] = _of_host("scikit-image's biharmonic completion", biharmonic)
    except ImportError:
        missing.append(f"biharmonic completion (scikit-image; {EXTRA})")
    try:
        import cv2

        def marching(flag):
            def fill(image, hole):
                stored = np.rint(255 * image).astype(np.uint8)
                found = cv2.inpaint(stored, hole.astype(np.uint8), RADIUS, flag)
                return found.reshape(image.shape) / 255

            return fill

        of_opencv = f"OpenCV, of pixels up to {RADIUS} away, on 256 levels"
        methods["telea"] = _of_host(of_opencv, marching(cv2.INPAINT_TELEA))
        methods["navier_stokes"] = _of_host(of_opencv, marching(cv2.INPAINT_NS))
    except ImportError:
        missing.append(f"Telea's and the Navier-Stokes completion (OpenCV; {EXTRA})")
    return methods, missing


def denoisers(source: np.ndarray, image: np.ndarray, shown: Callable = iter) -> tuple[dict[str, Method], list[str]]:
    """Methods that take noise from images, by name; and what is missing, with how to get it.

    The strength of each is the one with the least squared error on pairs of training images.

    Args:
      source: [N, h, w, c] in [-1, 1]; the first few are looked at.
      image: [N, h, w, c].
      shown: wraps the strengths that are tried, to show how far it is.

    Raises:
      ValueError: without pairs, or where sources have another shape than images.
    """
    if not len(source) or np.shape(source) != np.shape(image):
        raise ValueError(f"sources {np.shape(source)} and images {np.shape(image)} are no pairs of one shape")
    pairs = [(_unit(x), _unit(y)) for x, y in zip(source[:MOST_TO_CHOOSE], image, strict=False)]
    tried: dict[str, tuple[str, Callable, Sequence[float]]] = {}
    missing = []
    try:
        from skimage import restoration

        def total_variation(image, weight):
            return restoration.denoise_tv_chambolle(image, weight=weight, channel_axis=-1)

        def non_local_means(image, level):
            sigma = level / 255
            return restoration.denoise_nl_means(
                image, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, fast_mode=True, channel_axis=-1
            )

        tried["total_variation"] = ("scikit-image, weight", total_variation, [level / 255 for level in LEVELS])
        tried["non_local_means"] = ("scikit-image, windows of 5 within 13, for a noise of", non_local_means, LEVELS)
    except ImportError:
        missing.append(f"total variation and non-local means (scikit-image; {EXTRA})")
    try:
        import bm3d

        def blocks(image, level):
            method = bm3d.bm3d_rgb if image.shape[-1] == 3 else bm3d.bm3d
            return np.reshape(method(image, level / 255), image.shape)

        tried["bm3d"] = ("bm3d, for a noise of", blocks, LEVELS)
    except ImportError:
        missing.append("BM3D (bm3d, which is free for research alone: pip install bm3d)")

    methods: dict[str, Method] = {}
    for name, (words, method, strengths) in tried.items():
        errors = [
            np.mean([np.mean(np.square(np.clip(method(x, strength), 0, 1) - y)) for x, y in pairs])
            for strength in shown(strengths)
        ]
        chosen = strengths[int(np.argmin(errors))]

        def restored(image, hole, method=method, chosen=chosen):
            return method(image, chosen)

        methods[name] = _of_host(f"{words} {chosen:.3g}, chosen on {len(pairs)} training pairs", restored)
    return methods, missing


def _unit(image: Any) -> np.ndarray:
    return (np.asarray(image, np.float64) + 1) / 2


def _of_host(words: str, method: Callable[[np.ndarray, np.ndarray | None], np.ndarray]) -> Method:
    """A method of batches in [-1, 1] of one of single images in [0, 1] with their holes [h, w]; known pixels stay."""

    def apply(arrays, source, mask):
        source = np.asarray(source)
        holes = [None] * len(source) if mask is None else np.asarray(mask)[..., 0] > 0
        found = []
        for given, hole in zip(source, holes, strict=True):
            if hole is None:
                image = method(_unit(given), None)
            else:  # without anything missing, or without anything known, there is nothing to go on
                image = method(np.clip(_unit(given), 0, 1), hole) if 0 < hole.mean() < 1 else _unit(given)
            image = np.clip(2 * image - 1, -1, 1).astype(np.float32)
            found.append(image if hole is None else np.where(hole[..., None], image, given))
        return np.stack(found)

    return Method(words, None, apply)
