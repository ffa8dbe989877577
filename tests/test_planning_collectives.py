"""What 256 chips tell one another in a train step is what theory says, by the text that the TPU's compiler writes."""

import collections
import json
import math
import subprocess
import sys

import pytest

from jaxgen.planning import compiling, targets

TARGET = "v5e:16x16"

# A process of its own, since a process compiles for one target.
CODE = """
import json, sys
import jax, numpy as np
from jaxgen import sharding
from jaxgen.commands import train
from jaxgen.planning import compiling, hlo, programs, reading, targets

target = targets.target(sys.argv[1])
chosen = train.parse(sys.argv[2:], "plan")
parts = programs.parts_of(chosen.config, chosen.preset, None, None)
mesh = jax.sharding.Mesh(np.array(compiling._devices(target)).reshape(-1), (sharding.AXIS,))
program = programs.program("train", parts, mesh)
text = program.run.lower(*program.arguments).compile().as_text()
told = [
    [instruction.kind.removesuffix("-start"), times, [[shape.dtype, shape.sides] for shape in instruction.shapes]]
    for instruction, times, _ in hlo.counted(text)
    if instruction.kind.removesuffix("-start") in reading.COLLECTIVES
]
players = [value for value in vars(parts.system.shapes).values() if hasattr(value, "params")]
parameters = [leaf.size for player in players for leaf in jax.tree.leaves(player.params)]
metrics = jax.eval_shape(parts.system.train_step, parts.system.shapes, parts.example, programs._key())[1]
print(json.dumps({"told": told, "parameters": parameters, "metrics": len(metrics)}))
"""


def told_in(preset: str, batch_size: int) -> dict:
    """The collectives of a step, the sizes of the parameters, the number of metrics."""
    command = [sys.executable, "-c", CODE, TARGET, preset, "--batch-size", str(batch_size)]
    environment = compiling.environment_for(targets.target(TARGET))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif("libtpu" not in compiling.versions(), reason="libtpu is not installed")
@pytest.mark.parametrize(
    ("preset", "largest_statistic", "most_beside"),
    [
        # Batch normalisation: sums and sums of squares of 224 channels on the way forward (of the first layer each of
        # 3 x 3 pixels alone), two sums more on the way back; the discriminator's last layer, 1,152 numbers, in three
        # parts: of real images, of made ones and of the penalty.
        ("mnist-dcgan", 3 * 3 * 128, 2 * (9 * 128 + 96) + 2 * 224 + 2 * 1152),
        # The codebook, 128 x 16: sums of what fell to each code and how often, to move it and to renew unused ones.
        ("mnist-vqvae", 128 * 16, 4 * 128 * 16 + 3 * 128),
    ],
)
def test_gradients_are_reduced_once_statistics_are_few_and_no_activation_is_told(
    preset, largest_statistic, most_beside
):
    found, twice = (told_in(preset, batch) for batch in (512, 1024))
    assert {kind for kind, _, _ in found["told"]} == {"all-reduce"}
    assert {times for _, times, _ in found["told"]} == {1}
    arrays, others = (
        [(dtype, math.prod(sides)) for _, _, shapes in one["told"] for dtype, sides in shapes] for one in (found, twice)
    )
    assert sorted(arrays) == sorted(others)  # nothing grows with the batch: no activation is among it
    assert {dtype for dtype, _ in arrays} <= {"f32", "s32"}
    sizes, parameters = [size for _, size in arrays], found["parameters"]
    large = [collections.Counter(size for size in some if size > largest_statistic) for some in (sizes, parameters)]
    assert large[0] == large[1] and sum(large[1].elements()) > 0.9 * sum(parameters)  # kernels, each of them once
    beside = sum(sizes) - sum(parameters)
    print(f"{preset}: {4 * sum(sizes):,} bytes told, {4 * sum(parameters):,} of them parameters'")
    assert 0 <= beside <= most_beside + 2 * found["metrics"]
