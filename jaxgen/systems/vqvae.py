"""VQ-VAE: an autoencoder whose latents are codes (van den Oord, Vinyals and Kavukcuoglu 2017).

The encoder's map is a quarter as high and wide as the image. Each of its vectors becomes the nearest code of a
codebook, and the decoder sees the codes' vectors. What is minimised is

    |x - decoder(e)|^2 / variance of the data + mean |stop(z) - e|^2 + beta mean |z - stop(e)|^2,

means over all numbers, beta = 0.25. By default the codebook is one of moving averages (the paper's appendix A.1) and
the second term is absent. Network, batch, rate and codebook are those of the authors' published example on CIFAR-10:
662,723 parameters, and 32,768 numbers of the codebook: state, or with `--quantiser.name gradient` parameters, too.

Deviations: images are in [-1, 1], there in [-0.5, 0.5]; errors are divided so that the loss is the same. A code that no
vector chooses stays where it is; there, averages without a bias towards their beginning make it 0. Beyond the paper:
codes that begin anew, k-means, and other quantisers. There is no prior of codes, so nothing is drawn.
"""

import dataclasses

from jaxgen.models import vqvae as networks
from jaxgen.options import Data, Optimizer
from jaxgen.system import Spec, System
from jaxgen.systems.preset import Preset, Settings
from jaxgen.systems.shared import vector_quantised
from jaxgen.systems.shared.vector_quantised import Quantiser


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(vector_quantised.Autoencoder):
    """An autoencoder with one map of codes, for images whose sides are multiples of 4."""


def build(config: Config, spec: Spec) -> System:
    """The system for images of a shape.

    Raises:
      ValueError: for a number of codes that the quantiser cannot have; when it is traced, for sides that are no
        multiples of 4.
    """
    model = networks.VQVAE(config.quantiser.build(), spec.image_shape, **config.sizes)
    return vector_quantised.build(config, spec, model, name="VQ-VAE")


TINY = Config(
    features=4,
    blocks=1,
    inner=2,
    batch_size=8,
    num_steps=4,
    quantiser=Quantiser(num_codes=12, dim=3, restart_below=0.3, k_means=True),
)

_PAPER = "van den Oord, Vinyals and Kavukcuoglu 2017"
_OFTEN: Settings = dict.fromkeys(("sample_every", "evaluate_every", "checkpoint_every"), 1000)
_ALIVE = Quantiser(num_codes=128, dim=16, restart_below=0.5, k_means=True)

PRESETS = {
    "mnist-vqvae": Preset(
        "digits as 7x7 codes of 128, by a narrow VQ-VAE",
        Config(
            data_variance=0.0949,
            features=64,
            quantiser=_ALIVE,
            num_steps=3000,
            optimizer=Optimizer(learning_rate=1e-3, schedule="cosine"),
            **_OFTEN,
        ),
        paper=_PAPER,
        measured="distortion 0.0426, perplexity 100.4, all 128 codes in use (10,000 test images; one seed, two cores "
        "of an AMD EPYC, 2026-11-29)",
    ),
    "emoji-vqvae": Preset(
        "32x32 colour emoji as 8x8 codes of 256, by a narrow VQ-VAE",
        Config(
            data=Data("emoji", image_size=32),
            data_variance=0.0928,
            features=64,
            quantiser=dataclasses.replace(_ALIVE, num_codes=256),
            num_steps=4000,
            optimizer=Optimizer(learning_rate=1e-3, schedule="cosine"),
            **_OFTEN,
        ),
        paper=_PAPER,
        measured="distortion 0.0829, perplexity 171.6, all 256 codes in use; reconstructions PSNR 21.80 dB, SSIM "
        "0.759, FID 10.6 in the package's emoji CNN (440 test emoji; one seed, one core of an AMD EPYC beside"
        " other work, 2026-12-01)",
    ),
    "cifar-vqvae": Preset(
        "CIFAR-10 as 8x8 codes of 512, by VQ-VAE as in its authors' example; give --data.path",
        Config(
            data=Data("folder", path="cifar10", image_size=32, labelled=False),
            batch_size=32,
            data_variance=0.0632704,
            **_OFTEN,
        ),
        paper=_PAPER,
        published="distortion 0.056, perplexity 326 (training images of the last 100 of 10,000 steps, by batches)",
        spec=((32, 32, 3), 0),
    ),
}
