"""The atlas: nine pictures of what theory says about stability, each computed beside what then happens.

Every plate is a function `(...) -> Record`: numbers, claims that were checked when it was made, and a figure. `write`
makes PNG and SVG of each and one page, `atlas.html`, which opens without a network.

    from jaxgen.stability import atlas
    record = atlas.closed_forms.ttur_and_r1(num_ratios=21, num_gammas=20)
    atlas.write(directory, ["A1", "A4"], atlas.FULL)
"""

from jaxgen.stability.atlas import clipping, closed_forms, divergence, linear_vae, networks
from jaxgen.stability.atlas.page import PLATES, Size, write
from jaxgen.stability.atlas.record import Claim, Record

FULL = Size.FULL
QUICK = Size.QUICK

__all__ = [
    "FULL",
    "PLATES",
    "QUICK",
    "Claim",
    "Record",
    "Size",
    "clipping",
    "closed_forms",
    "divergence",
    "linear_vae",
    "networks",
    "write",
]
