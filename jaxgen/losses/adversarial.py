"""Adversarial losses: pairs of functions from logits to one number per image.

Every function takes `(real_logits, fake_logits)`, each [B], and returns [B]; the train step averages once. Both
players minimise. Notation: D = sigmoid(logits) is the discriminator's probability of "real", s(t) = log(1 + exp(t)) is
softplus.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.arguments import at_step, short, takes

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


def relativistic_average_over(axis_name: str | None = None) -> AdversarialLoss:
    """Each kind against the mean logit of the other: whether an image is more real than the others are on average.

        discriminator: s(-(D(x) - m_fake)) + s(D(G(z)) - m_real),  generator: s(D(x) - m_fake) + s(-(D(G(z)) - m_real))

    with m_real, m_fake the means of a batch's logits, which are differentiated, too; so images of a batch affect each
    other, and a slice of it has means of its own.

    Args:
      axis_name: of the per-device view, where the means are those of all devices.

    Jolicoeur-Martineau 2019 (RaGAN), as in ESRGAN (Wang et al. 2018), whose code halves both players' losses.
    """

    def mean(logits):
        found = jnp.mean(logits)
        return found if axis_name is None else jax.lax.pmean(found, axis_name)

    def real_above_mean(real_logits, fake_logits):
        return softplus(mean(fake_logits) - real_logits) + softplus(fake_logits - mean(real_logits))

    def fake_above_mean(real_logits, fake_logits):
        return real_above_mean(fake_logits, real_logits)

    return AdversarialLoss(generator=fake_above_mean, discriminator=real_above_mean)


relativistic_average = relativistic_average_over()
"""As `relativistic_average_over`, of the global view."""


def top_k(
    loss: AdversarialLoss,
    share: float | Callable[[jax.Array], jax.Array],
    *,
    axis_name: str | None = None,
) -> Callable[[jax.Array], AdversarialLoss]:
    """The generator learns from its best images alone: those k = max(1, round(share B)) with the largest logits.

    Their losses count B / k times, and the others' 0 times, so that the mean over B is that of the k. The
    discriminator's loss is as it was. To be given as `loss` to a train step, which tells it the step:

        share = optax.exponential_decay(1.0, steps_of_an_epoch, 0.99, end_value=0.5)
        gan.make_train_step(..., loss=adversarial.top_k(adversarial.hinge, share))

    Args:
      loss: of both players.
      share: in (0, 1], or a schedule step -> number. All images at first, half of them in the end are usual: early on
        the discriminator does not know yet which are good.
      axis_name: of the per-device view, where the k are those of all devices.

    Returns:
      step -> losses. Of a picture with several logits each rank is that of their mean, each scale of several ranks for
      itself; a slice of a batch has its own k. Of equal logits the first count.

    Sinha et al. 2020 (Top-k training of GANs).

    Raises:
      TypeError: for a loss that is no pair of functions.
      ValueError: for a share outside (0, 1].
    """
    _check_pair(loss)
    if not callable(share) and not 0 < share <= 1:
        raise ValueError(f"share is the part of fake images that the generator learns from, in (0, 1], not {share!r}")

    def at(step):
        def generator(real_logits, fake_logits):
            found = loss.generator(real_logits, fake_logits)
            own = jnp.mean(fake_logits.reshape(len(fake_logits), -1), axis=1)
            every = own if axis_name is None else jax.lax.all_gather(own, axis_name, tiled=True)
            count = every.shape[0]
            k = jnp.clip(jnp.round(at_step(share, step, "share") * count), 1, count)
            rank = jnp.argsort(jnp.argsort(-every))
            if axis_name is not None:
                rank = jax.lax.dynamic_slice_in_dim(rank, jax.lax.axis_index(axis_name) * len(own), len(own))
            weight = jnp.where(rank < k, count / k, 0.0).astype(found.dtype)
            return found * weight.reshape(-1, *(1,) * (found.ndim - 1))

        return AdversarialLoss(generator, loss.discriminator)

    return at


def schedule_of(loss: AdversarialLoss | Callable[[jax.Array], AdversarialLoss]) -> Callable:
    """step -> the pair of losses, of a pair or of a function that is one already.

    Raises:
      TypeError: for anything else.
    """
    if _is_pair(loss) or isinstance(loss, type) or not callable(loss) or not takes(loss, 1):
        _check_pair(loss)
        return lambda step: loss

    def checked(step):
        found = loss(step)
        _check_pair(found)
        return found

    return checked


def _is_pair(loss):
    return callable(getattr(loss, "generator", None)) and callable(getattr(loss, "discriminator", None))


def _check_pair(loss):
    if not _is_pair(loss):
        raise TypeError(
            "loss must be a pair of functions, such as adversarial.hinge or "
            f"AdversarialLoss(generator=f, discriminator=g), not {loss!r}"
        )


def discriminator_accuracy(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Share of images on the right side of logit 0, both kinds weighing one half: scalar in [0, 1]."""
    return 0.5 * (jnp.mean(real_logits > 0) + jnp.mean(fake_logits < 0))
