"""Adversarial losses: pairs of functions from logits to one number per image.

Every function takes `(real_logits, fake_logits)`, each [B], and returns [B]; the train step averages once. Both
players minimise. Notation: D = sigmoid(logits) is the discriminator's probability of "real", s(t) = log(1 + exp(t)) is
softplus.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.arguments import short

Loss = Callable[[jax.Array, jax.Array], jax.Array]
softplus = jax.nn.softplus


class AdversarialLoss(NamedTuple):
    """The losses of both players, each `(real_logits [B], fake_logits [B]) -> [B]`, to be minimised."""

    generator: Loss
    discriminator: Loss

    def __repr__(self) -> str:
        return short(self)


def _cross_entropy(real_logits, fake_logits):
    """-log D(x) - log(1 - D(G(z))), in which -log sigmoid(t) = s(-t) and -log(1 - sigmoid(t)) = s(t)."""
    return softplus(-real_logits) + softplus(fake_logits)


def _saturating(real_logits, fake_logits):
    return -softplus(fake_logits)


minimax = AdversarialLoss(generator=_saturating, discriminator=_cross_entropy)
"""The textbook game min_G max_D E log D(x) + E log(1 - D(G(z))), on logits (Goodfellow et al. 2014, eq. 1).

generator: log(1 - D(G(z))), which saturates where the discriminator wins; discriminator: -log D(x) - log(1 - D(G(z))).
"""


def _non_saturating(real_logits, fake_logits):
    return softplus(-fake_logits)


non_saturating = AdversarialLoss(generator=_non_saturating, discriminator=_cross_entropy)
"""generator: -log D(G(z)); discriminator: as in minimax (Goodfellow et al. 2014, section 3)."""


def _squared_to_real(real_logits, fake_logits):
    return 0.5 * (fake_logits - 1) ** 2


def _squared_to_targets(real_logits, fake_logits):
    return 0.5 * (real_logits - 1) ** 2 + 0.5 * fake_logits**2


least_squares = AdversarialLoss(generator=_squared_to_real, discriminator=_squared_to_targets)
"""Targets 1 for real and 0 for fake, the halves included (Mao et al. 2017, eq. 9)."""


def _negative_logit(real_logits, fake_logits):
    return -fake_logits


def _hinge(real_logits, fake_logits):
    return jax.nn.relu(1 - real_logits) + jax.nn.relu(1 + fake_logits)


hinge = AdversarialLoss(generator=_negative_logit, discriminator=_hinge)
"""generator: -D(G(z)); discriminator: max(0, 1 - D(x)) + max(0, 1 + D(G(z))) (Lim and Ye 2017; Miyato et al. 2018)."""


def _difference(real_logits, fake_logits):
    return fake_logits - real_logits


wasserstein = AdversarialLoss(generator=_negative_logit, discriminator=_difference)
"""The critic's E f(x) - E f(G(z)), which needs a Lipschitz constraint from elsewhere (Arjovsky et al. 2017, eq. 2)."""


def _fake_above_real(real_logits, fake_logits):
    return softplus(real_logits - fake_logits)


def _real_above_fake(real_logits, fake_logits):
    return softplus(fake_logits - real_logits)


relativistic = AdversarialLoss(generator=_fake_above_real, discriminator=_real_above_fake)
"""Paired: image i of the real batch against image i of the fake batch (Jolicoeur-Martineau 2019; Huang et al. 2024)."""


def discriminator_accuracy(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Share of images on the right side of logit 0, both kinds weighing one half: scalar in [0, 1]."""
    return 0.5 * (jnp.mean(real_logits > 0) + jnp.mean(fake_logits < 0))
