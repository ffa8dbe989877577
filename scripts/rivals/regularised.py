"""beta-TC-VAE of digits, as in `jaxgen/systems/regularised_vae.py`: `rivals/vae.py` with a total correlation."""

import math

import torch

from rivals import vae

LOG_2PI = math.log(2 * math.pi)


def total_correlation(z, mean, logvar, num_examples):
    """An estimate of KL(q(z) || prod_j q(z_j)) by the posteriors of a batch, latents of each of them, all [B, d]."""
    count = len(z)
    of_units = -0.5 * (LOG_2PI + logvar + (z[:, None] - mean).square() * torch.exp(-logvar))  # [i, j, unit]
    weights = torch.full((count, count), math.log((num_examples - 1) / (num_examples * (count - 1))), device=z.device)
    weights.fill_diagonal_(-math.log(num_examples))
    joint = (weights + of_units.sum(2)).logsumexp(1)
    marginals = (weights[..., None] + of_units).logsumexp(1)
    return (joint - marginals.sum(1)).mean()


class Rival(vae.Rival):
    """-E log p(x|z) + beta KL(q(z|x) || N(0, 1)) + a weighted total correlation."""

    def objective(self, batch, noise):
        """The loss, by one latent for each image."""
        s, x = self.settings, self.pixels(batch)
        mean, logvar = self.network.encoder(x).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * logvar) * noise[:, 0]
        distortion = -vae.log_bernoulli(self.network.decoder(z), x).mean()
        rate = vae.rate_of(mean, logvar).mean()
        dependence = total_correlation(z, mean, logvar, s["num_examples"])
        loss = distortion + s["beta"] * rate + s["total_correlation"] * dependence
        return loss, {"distortion": distortion, "rate": rate, "total_correlation": dependence}
