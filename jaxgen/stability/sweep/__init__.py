"""Hundreds of settings in one compiled program: sweeps, and what they say about a setting.

A sweep advances many *members* at once. A member is a row of `settings`: arrays of one number for each member, among
them `seed`. What a member does is a `Program`, three pure functions of its settings; `jaxgen.stability.members` makes
programs of GANs, VAEs and games.

    settings = sweep.product({"r1": [0.0, 0.1, 1.0]}, {"generator_clip": [0.1, 1.0, math.inf]}, {"seed": range(4)},
                             {"generator_rate": [0.1], "discriminator_rate": [0.1]})
    program = members.gan(generator, discriminator, latent_dim=8, optimizer=members.sgd, score=...)
    result = sweep.run(program, sweep.stream(lambda key: toy.ring(key, 64)), settings, num_steps=8000)
    sweep.write(result, "ring")

All members see the same data, and members of one seed the same initial networks and latents: settings are compared in
pairs. A member whose numbers stop being finite is frozen where it last was finite, and changes nothing for the others.
"""

from jaxgen.stability.sweep.layout import AXIS
from jaxgen.stability.sweep.program import NO_DATA, Data, Program, of_dataset, stream
from jaxgen.stability.sweep.result import Result, measure
from jaxgen.stability.sweep.running import run
from jaxgen.stability.sweep.scores import budget_curve, failures, over_seeds, wilson_interval
from jaxgen.stability.sweep.settings import Settings, check_numbers, product
from jaxgen.stability.sweep.summary import hill_tail_index, summarize
from jaxgen.stability.sweep.writing import MEANINGS, finite_json, write

__all__ = [
    "Program",
    "Data",
    "stream",
    "of_dataset",
    "NO_DATA",
    "Settings",
    "product",
    "check_numbers",
    "Result",
    "run",
    "hill_tail_index",
    "summarize",
    "failures",
    "over_seeds",
    "wilson_interval",
    "budget_curve",
    "measure",
    "write",
    "MEANINGS",
    "finite_json",
    "AXIS",
]
