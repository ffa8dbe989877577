"""Spectra of real networks, matrix-free: what the linearised game says about a GAN and about the rates it bears.

    game = gan.Game(generator, discriminator, {"latent_dim": 100, "penalties": [penalties.r1(1.0)], **optimizers})
    field = spectrum.field_of_game(game, state, {"image": images}, key)
    found = spectrum.ritz_values(field, Players(state.generator.params, state.discriminator.params))
    spectrum.stable_rates(found.values)

The field is read off the train step itself, so that a spectrum is that of whatever is trained.

Everything here uses reverse mode alone, which our convolutions have and forward mode they have not: J and its transpose
have the same eigenvalues, so Arnoldi's method runs on vector-Jacobian products; where J w itself is needed,
`jacobian_product` takes the vector-Jacobian product of a vector-Jacobian product.

Sign convention: v = (-d loss_G / d theta, -d loss_D / d psi) is the direction in which the players move, J = dv/dw.
Dense eigenvalues of small games: `verdict.field_eigenvalues`, `verdict.step_eigenvalues`.
"""

from jaxgen.stability.spectrum.attraction import Shares, shares
from jaxgen.stability.spectrum.game_field import RECORDING, field_of_game, field_of_step
from jaxgen.stability.spectrum.line import Line, path
from jaxgen.stability.spectrum.products import Map, jacobian_product, transposed_product
from jaxgen.stability.spectrum.rates import (
    RULES,
    adam_factor,
    adam_rates,
    largest_stable_scale,
    rate_table,
    stable_rates,
)
from jaxgen.stability.spectrum.ritz import Ritz, arnoldi, check_memory, ritz_of, ritz_values
from jaxgen.stability.spectrum.singular_values import (
    Layer,
    condition_numbers,
    input_singular_values,
    layer_singular_values,
)
from jaxgen.stability.spectrum.train_step import train_step_map

__all__ = [
    "Map",
    "transposed_product",
    "jacobian_product",
    "Ritz",
    "arnoldi",
    "ritz_of",
    "ritz_values",
    "check_memory",
    "RECORDING",
    "field_of_game",
    "field_of_step",
    "Shares",
    "shares",
    "train_step_map",
    "adam_rates",
    "adam_factor",
    "RULES",
    "stable_rates",
    "rate_table",
    "largest_stable_scale",
    "Line",
    "path",
    "Layer",
    "layer_singular_values",
    "input_singular_values",
    "condition_numbers",
]
