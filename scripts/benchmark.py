"""Times jaxgen's train steps beside PyTorch's, on the same work and in turns, and against the machine's limit.

    python scripts/benchmark.py                                    # everything that this environment can run
    python scripts/benchmark.py --torch-python ~/torch/bin/python  # PyTorch from another environment
    python scripts/benchmark.py --cases dcgan --rounds 11 --json result.json
    python scripts/benchmark.py --batch-size 1024 --dtypes float32 bfloat16   # on a GPU

Rivals, each in a process of its own that sleeps while another is timed (the two of jaxgen share one):

    jaxgen                the step under compilation.jit, donated state, one dispatch a step; keep_memory() before
    jaxgen-loop           the same step, several to a dispatch in lax.fori_loop
    torch                 eager, contiguous (NCHW)
    torch-channels-last   eager, NHWC in memory
    torch-joined          the same, convolutions joined with enlarging and halving (`sngan`, `resnet-r1`,
                          `biggan-stage`), or without a kernel for each image (`stylegan2`): jaxgen's form, in PyTorch
    torch-compile         torch.compile, NHWC in memory

Games: a discriminator and a generator step, on the same fake images, with Adam and a moving average of the generator.
`dcgan` has batch normalisation and the non-saturating loss; `dcgan-r1` no batch normalisation in the discriminator, and
R1; `dcgan-gp` the same with the Wasserstein loss and a gradient penalty. `sngan` is the residual network with spectral
normalisation and the hinge loss, half as wide as published and with half the batch; `sngan-published` as published;
`resnet-r1` is `sngan` with R1.

Stages: pieces that networks are made of, each trained alone, a step of Adam on the mean squared error to a fixed
target. Where x is not images but a map, the gradient in x and in what modulates it is computed, too.

    denoiser       a residual denoiser as EDSR: 16 blocks of two 3x3 convolutions with 64 features; 16 x 48x48x3
    unet           U-Net with 64, 128 and 256 features, max pooling and 2x2 transposed convolutions; 8 x 64x64x3
    biggan-stage   BigGAN's block with conditional batch norm that doubles the size, 384 -> 192; 16 x 16x16x384
    modulated      two of StyleGAN2's modulated 3x3 convolutions, by scaled inputs and outputs; 8 x 32x32x256
    r3gan-block    two of R3GAN's blocks: 1x1 to 384, 3x3 in groups of 16 channels, 1x1 back; 32 x 16x16x192
    vdvae-block    two of VDVAE's blocks: 1x1 to 96, two 3x3, 1x1 back, with GELU; 16 x 32x32x384

Systems: whole ones, as presets of jaxgen have them, without augmentation; one step of all that is trained, with all
that the preset adds to its losses. Images are spoilt, cut and mirrored by the data, which are not timed.

    sagan          `emoji-sagan`: self-attention, spectral normalisation in both players; batch 64
    biggan         `cifar-biggan`, a quarter as wide: labels, four discriminator updates of 50 images
    stylegan2      `emoji-stylegan2`: lazy R1 and path length, whole periods of 16 steps; batch 32
    r3gan          `emoji-r3gan`: grouped convolutions, relativistic loss, R1 and R2; batch 64
    progan         `emoji-progan` when all stages have grown: a gradient penalty; batch 16
    fastgan        `emoji-fastgan`: excitation, pictures drawn by the discriminator; batch 16
    wgan-gp        `emoji-wgan-gp`: a residual critic, a gradient penalty, two updates of 64 images
    ssgan          `emoji-ssgan`: spectral normalisation in the discriminator, which tells turns apart; batch 64
    cgan           `mnist-cgan`: a DCGAN that is told classes, with R1; batch 64
    acgan          `mnist-acgan`: residual players with batch normalisation, a head for classes; batch 64
    pix2pix        `emoji-pix2pix`: a U-Net with dropout, a discriminator of pairs, 64 pixels; batch 16
    pix2pixhd      `cityscapes-pix2pixhd`, a quarter as wide, 256 pixels: two discriminators of pairs; batch 1
    cyclegan       `emoji-cyclegan`: two generators, two discriminators, pools of earlier fakes; batch 8 of each domain
    cut            `emoji-cut`: filters, patches of four maps known again by dense layers; batch 8 of each domain
    stargan        `mnist-stargan`: digits become others, a gradient penalty, two discriminator updates of 32 images
    gated          `emoji-gated`: gated convolutions in two stages, contextual attention, 64 pixels; batch 16
    context        `emoji-context-encoder`: the middle of 64 pixels by a bottleneck, and an adversary; batch 64
    vae-gan        `emoji-vae-gan`: encoder, decoder and discriminator, each by a loss of its own; batch 64
    vqgan          `emoji-vqgan`: attention, a perceptual distance, a weight by gradients; from step 0 on; batch 64
    aae            `mnist-aae`: an adversarial autoencoder of dense layers; batch 100
    bigan          `mnist-bigan`: a discriminator of pairs of image and code, dense layers; batch 128
    lama           `emoji-lama`: Fourier convolutions, a discriminator's maps, perceptual distance, 64 pixels; batch 16
    factor-vae     `mnist-factor-vae`: a convolutional VAE, a discriminator of latents; batch 64
    classifier     `mnist-cnn`: three convolutions with batch normalisation, dropout, digits not shifted; batch 100
    vae            `mnist-vae`: dense layers; batch 100
    cvae           `mnist-cvae`: dense layers that are told classes; batch 100
    m2             `mnist-m2`: all ten classes of each image, and a classifier, dense layers; batch 100
    regularised    `mnist-beta-tcvae`: dense layers, a total correlation; batch 100
    flexible       `mnist-vampprior`: dense layers, a prior of 500 pseudo-inputs; batch 100
    iwae           `mnist-iwae-1`: dense layers, 50 latents for each of 20 images
    vqvae          `emoji-vqvae`: a codebook of moving averages, some of which begin anew; batch 64
    vqvae2         `emoji-vqvae2`: two maps of codes; batch 64
    dvae           `emoji-dvae` when its schedules are at rest: 8x8 codes of 256, relaxed draws; batch 64
    vdvae          `emoji-vdvae`: 14 layers of latents, a mixture of logistics for each pixel; batch 32
    srcnn          `emoji-srcnn-x2`: three convolutions after bicubic interpolation, 64x64 pixels; batch 16
    srgan          `emoji-srgan-x4`: 16x16 pixels become 64x64, with an adversary from step 0 on; batch 16
    esrgan         `df2k-esrgan-x4`, half as wide, 6 of 23 blocks, from step 0; perceptual distance; batch 4
    real-esrgan    `real-esrgan-x4`, half as wide, 6 of 23 blocks, discriminator a quarter, 128 pixels; else as esrgan
    deblurgan      `emoji-deblurgan`: dropout, a critic of patches, a gradient penalty, five updates of 4 images
    edsr           `emoji-edsr-x2`: 32x32 pixels become 64x64; batch 16
    partial        `emoji-partial`: a U-Net of partial convolutions, styles of a network's maps, 64 pixels; batch 16
    rcan           `df2k-rcan-x4`, half as wide, 2 of 10 groups: attention to channels, 48x48 pixels; batch 4
    nafnet         `emoji-jpeg-10`: convolutions of each channel alone, attention to channels, 64 pixels; batch 16
    dncnn          `emoji-dncnn-25`: plain convolutions, 64 pixels; batch 16
    drunet         `emoji-drunet`: a U-Net of residual blocks, 64 pixels; batch 16

`startup` is the time from starting a process to its first finished step. `loop` is what training a preset costs over
its bare step: the step jitted and fed the same batch again and again, and the whole loop with data, log, samples and
checkpoints.

That the work is the same is checked, not assumed: PyTorch is given jaxgen's weights, and its images, its logits and its
weights after one whole step (of plain gradient descent) must equal jaxgen's, both in float32; so must the vectors of
spectral normalisation after one forward pass, and of a stage its output, its weights after such a step and the
gradients in what it is given. Of a system, everything that jaxgen's step draws is recorded and given to PyTorch, and
each penalty, term and part of a loss must agree, too, and averages such as a codebook after the step. Networks that are
not trained get jaxgen's weights. For that step alone PyTorch's batch normalisation is of contiguous maps. Images are
those of the players' forward pass, or what is reconstructed, restored or translated outside of training. PyTorch is
spared the gradient norms that jaxgen reports and what the schedules of a system's rates and weights cost.

In every round each rival starts from the same weights, runs one step untimed and then N steps, waiting for the last.
Ratios are taken within a round. The limit is the rate of a large matrix product in the same rounds and the same
arithmetic, in whichever framework is faster at it. FLOPs are counted by hand: what dense layers and convolutions need,
multiplications with padding left out; a form that needs fewer, such as Winograd's, may come out above the limit. The
matrix-vector products of spectral normalisation, too few to matter, are not counted. XLA's own count of the compiled
step is printed beside them; of whole systems nothing is counted. The first step includes compilation, without any cache
on disk.

Memory is what a rival takes at most in steps that are compiled already, weights and what compilation leaves behind
included, the benchmark's own copy of the initial weights not. On CPU that is resident memory, less that of before
anything was built (Linux only); on a GPU the framework's own peak, JAX's since its process began. jaxgen-loop shares a
process, and has none. What XLA plans for jaxgen's step, arguments and temporaries, is in the JSON file.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmark_cases import CASES, Case, System, Work, resized, step_flops, tiny
from benchmark_report import case_lines, loop_lines, machine_lines, spread, startup_lines
from benchmark_startup import measure_loop, measure_startup
from benchmark_workers import PAUSE, WorkerError, build_arguments, command_of, worker, worker_environment

RIVALS = ("jaxgen", "jaxgen-loop", "torch", "torch-channels-last", "torch-joined", "torch-compile")
TOLERANCE = 1e-4  # of the check, relative, for what comes before the first update: images, logits, first loss, penalty
STEP_TOLERANCE = 5e-3  # for what comes after it. One activation on the other side of a ReLU's kink makes 1e-3
AFTER_UPDATE = ("generator_loss",)  # and steps of weights
AFTER_FIRST = ("discriminator_loss", "gradient_penalty")  # after updates, too, where the discriminator has several
GRADIENTS = ("x_gradient", "condition_gradient")  # kinks are in their way, too: they may differ by STEP_TOLERANCE
SMALL_STEPS = ("power_iteration",)  # of which float32 leaves fewer digits: they, too, may differ by STEP_TOLERANCE
LONG_SUMS = ("x_gradient_square", "condition_gradient_square")  # PyTorch's norm of millions of numbers is off by 1e-4
MEMORY_STEPS = 2  # timed or not, a step takes the same


def rivals_for(case: Work, rivals: Sequence[str]) -> list[str]:
    """Those that the case has."""
    joins = case.network == "sngan" if isinstance(case, Case) else case.name in ("biggan-stage", "stylegan2")
    return [rival for rival in rivals if rival != "torch-joined" or joins]


# Measurements


def measure_case(case: Work, rivals: Sequence[str], settings: argparse.Namespace, say: Callable) -> dict[str, Any]:
    """Checks that all rivals compute the same and times them in turns.

    Args:
      case: the work.
      rivals: names from RIVALS, "jaxgen" first.
      settings: the command line.
      say: prints a line of progress.

    Returns:
      What goes to the table and the JSON file.
    """
    result = {"case": dataclasses.asdict(case), "rivals": {}, "failed": {}}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        reference = str(pathlib.Path(folder) / "reference.npz")
        workers = {}
        for rival in rivals:
            say(f"{case.name} {case.dtype}: {rival} starts")
            try:
                if rival == "jaxgen-loop":
                    workers[rival] = workers["jaxgen"]
                else:
                    command = command_of(rival, settings.torch_python)
                    workers[rival] = stack.enter_context(worker(command, worker_environment(settings.threads, folder)))
                if rival.startswith("torch") and "losses_of_one_step" not in result:
                    result["losses_of_one_step"] = workers["jaxgen"]("write_reference", path=reference)
                result["rivals"][rival] = prepare(rival, workers[rival], case, settings, reference, result)
            except WorkerError as error:
                if rival == "jaxgen":
                    raise
                del workers[rival]
                result["failed"][rival] = str(error)
                say(f"{case.name} {case.dtype}: {rival} failed: {error}")
        step_seconds = result["rivals"]["jaxgen"]["warm_step_seconds"]
        period = period_of(case)
        if settings.steps:
            result["steps_per_round"] = -(-settings.steps // period) * period
        else:
            result["steps_per_round"] = choose_steps(step_seconds, settings.seconds, period if period > 1 else 10)
        time_in_turns(workers, result, settings, lambda line: say(f"{case.name} {case.dtype}: {line}"))
    return summarize(case, result)


def prepare(
    rival: str,
    ask: Callable,
    case: Work,
    settings: argparse.Namespace,
    reference: str,
    result: dict[str, Any],
) -> dict[str, Any]:
    """Builds a rival's networks, compiles its step and, for PyTorch, compares it with jaxgen's.

    Args:
      rival: a name from RIVALS.
      ask: its worker.
      case: the work.
      settings: the command line.
      reference: the file of jaxgen's numbers.
      result: of the case, to which jaxgen adds what the others are held against.

    Returns:
      The first numbers of the rival.

    Raises:
      WorkerError: if it cannot run, or has another number of parameters.
    """
    info = {}
    if rival != "jaxgen-loop":
        if rival.startswith("torch") and isinstance(case, System):
            case = dataclasses.replace(case, **result["told"])
        built = ask("build", **build_arguments(case, rival, settings))
        result |= {"told": built["told"]} if "told" in built else {}
        parameters = built["parameters"]
        if parameters != result.setdefault("parameters", parameters):
            raise WorkerError(f"{parameters} parameters, where jaxgen has {result['parameters']}")
    info["first_step_seconds"] = ask("run", rival=rival, steps=0)["seconds_untimed"]
    if rival != "jaxgen-loop":  # in whose process is what jaxgen has left
        info["memory"] = ask("memory", rival=rival, steps=MEMORY_STEPS)
    if rival == "jaxgen":
        info["memory_planned"] = ask("planned_memory")
        if not isinstance(case, System):
            result["flops"] = {"hand": step_flops(case), "xla": ask("count_flops")}
    elif rival.startswith("torch"):
        later = AFTER_FIRST if result.get("told", {}).get("settings", {}).get("num_discriminator_steps", 1) > 1 else ()
        info["check"] = check(ask("compare", path=reference), result["losses_of_one_step"], later)
    steps = max(2, period_of(case))
    info["warm_step_seconds"] = ask("run", rival=rival, steps=steps)["seconds"] / steps
    return info | {"rounds": []}


def time_in_turns(
    workers: dict[str, Callable], result: dict[str, Any], settings: argparse.Namespace, say: Callable
) -> None:
    """Runs the rounds and adds what they took to `result`."""
    steps, order = result["steps_per_round"], list(workers)
    result["limit"] = {"size": settings.matmul_size, "rounds": []}
    for i in range(settings.rounds):
        say(f"round {i + 1} of {settings.rounds}, {steps} steps each")
        first = i % len(order)  # nobody always comes first
        for rival in order[first:] + order[:first]:
            time.sleep(PAUSE)
            result["rivals"][rival]["rounds"].append(workers[rival]("run", rival=rival, steps=steps))
        rates = {}
        for framework in ("jaxgen", "torch"):
            for rival in [rival for rival in order if rival.startswith(framework)][:1]:
                time.sleep(PAUSE)
                rates[framework] = workers[rival]("matmul_rate", size=settings.matmul_size)
        result["limit"]["rounds"].append(rates)


def period_of(case: Work) -> int:
    """Steps, after which the work of a step comes again."""
    return case.period if isinstance(case, System) else 1


def choose_steps(step_seconds: float, round_seconds: float, multiple: int = 10) -> int:
    """How many steps fill a round: a multiple of ten, which is what jaxgen-loop runs in one dispatch, or of another."""
    return multiple * max(1, min(2000 // multiple, round(round_seconds / step_seconds / multiple)))


def check(found: dict[str, float], expected: dict[str, float], later: Sequence[str] = ()) -> dict[str, Any]:
    """The differences between PyTorch and jaxgen, and whether they are those of rounding.

    Args:
      found: relative differences, and PyTorch's losses.
      expected: jaxgen's losses.
      later: further names of what comes after an update.

    Returns:
      {"same": bool, "differences": {name: number}}.
    """
    differences = dict(found)
    for name, loss in expected.items():
        differences[name] = abs(found[name] - loss) / (abs(loss) or 1.0)
    less_exact = (*AFTER_UPDATE, *GRADIENTS, *SMALL_STEPS, *LONG_SUMS, *later)
    same = all(
        difference <= (STEP_TOLERANCE if name in less_exact or name.endswith("_step") else TOLERANCE)
        for name, difference in differences.items()
    )
    return {"same": same, "differences": differences}


def summarize(case: Work, result: dict[str, Any]) -> dict[str, Any]:
    """Adds rates, shares of the limit and ratios to the rounds."""
    limits = [max(rates.values()) for rates in result["limit"]["rounds"]]
    result["limit"] |= {"flops_per_second": spread(limits), "better": _winner(result["limit"]["rounds"])}
    rates = {}
    for rival, info in result["rivals"].items():
        rates[rival] = [round_["steps"] / round_["seconds"] for round_ in info["rounds"]]
        info["steps_per_second"] = spread(rates[rival])
        info["images_per_second"] = spread([rate * case.batch_size for rate in rates[rival]])
        if "flops" in result:
            shares = [rate * result["flops"]["hand"] / limit for rate, limit in zip(rates[rival], limits, strict=True)]
            info["share_of_limit"] = spread(shares)
    result["ratios"] = {
        f"{ours} / {rival}": spread([a / b for a, b in zip(rates[ours], rates[rival], strict=True)])
        for ours in rates
        if ours.startswith("jaxgen")
        for rival in rates
        if rival != ours
    }
    memory = {rival: info["memory"] for rival, info in result["rivals"].items() if info.get("memory")}
    result["memory_ratios"] = {
        f"jaxgen / {rival}": memory["jaxgen"] / taken
        for rival, taken in memory.items()
        if rival != "jaxgen" and "jaxgen" in memory
    }
    return result


def _winner(rounds):
    medians = {name: statistics.median(rates[name] for rates in rounds) for name in rounds[0]}
    return max(medians, key=medians.get)


# Reports


def describe_machine(settings: argparse.Namespace, say: Callable) -> tuple[dict[str, Any], list[str]]:
    """What it is measured on, and which rivals can run there."""
    environment = worker_environment(settings.threads, tempfile.gettempdir())
    machine = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "tf32": settings.tf32,
    }
    with worker(command_of("jaxgen", settings.torch_python), environment) as ask:
        machine["jax"] = ask("describe", tf32=settings.tf32)
    rivals = list(settings.rivals)
    if any(rival.startswith("torch") for rival in rivals):
        try:
            with worker(command_of("torch", settings.torch_python), environment) as ask:
                machine["torch"] = ask("describe", tf32=settings.tf32)
        except (WorkerError, OSError) as error:
            say(f"PyTorch is left out: {settings.torch_python} cannot run it ({str(error).strip().splitlines()[-1]})")
        else:
            if machine["torch"]["backend"] != machine["jax"]["backend"]:
                say(f"PyTorch is left out: it sees a {machine['torch']['backend']}, JAX a {machine['jax']['backend']}")
            else:
                return machine, rivals
        rivals = [rival for rival in rivals if not rival.startswith("torch")]
    return machine, rivals


def _processor():
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    everything = (*CASES, "startup", "loop")
    add("--cases", nargs="+", choices=everything, default=list(everything), metavar="CASE", help=", ".join(everything))
    add("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS), metavar="RIVAL", help="a choice of the above")
    add("--dtypes", nargs="+", choices=("float32", "bfloat16"), help="of the computation (on GPU both, else float32)")
    add("--torch-python", default=sys.executable, metavar="PATH", help="an interpreter that has PyTorch and NumPy")
    add(
        "--torch-compile-mode", default="default", metavar="MODE", help="such as reduce-overhead, CUDA graphs (default)"
    )
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help="images in a batch (64; sngan, resnet-r1 32; stages, systems 8 to 100)",
    )
    add("--features", type=int, metavar="N", help="filters next to the image (64; sngan-published 128); not of systems")
    add("--image-size", type=int, metavar="N", help="28 to 64, for SNGAN 28 or 32 (32; denoiser 48, unet 64)")
    add("--rounds", type=int, default=7, metavar="N", help="of each case (7)")
    add("--steps", type=int, metavar="N", help="of each rival in a round (by default as many as fill --seconds)")
    add("--seconds", type=float, default=2.0, metavar="S", help="length of jaxgen's part of a round (2)")
    add("--startup-rounds", type=int, default=3, metavar="N", help="processes for each start-up time (3)")
    add("--threads", type=int, default=available_cores(), metavar="N", help="of every rival (all cores)")
    add("--no-tf32", dest="tf32", action="store_false", help="float32 in full on GPUs: by default both may use TF32")
    add("--matmul-size", type=int, metavar="N", help="of the limit's matrices (2048, on GPU 8192)")
    add("--json", type=pathlib.Path, metavar="FILE", help="write everything there, each round included")
    add("--quick", action="store_true", help="tiny networks, 2 rounds of 2 steps: does it run?")
    settings = parser.parse_args(arguments)
    settings.rivals = [rival for rival in RIVALS if rival == "jaxgen" or rival in settings.rivals]
    if settings.threads > available_cores():
        parser.error(f"--threads {settings.threads}: this process may use {available_cores()} cores")
    if settings.quick:
        settings.features, settings.batch_size, settings.matmul_size = 4, 8, 256
        settings.rounds, settings.steps, settings.startup_rounds = 2, 2, 1
    return settings


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def case_for(name: str, settings: argparse.Namespace) -> Work:
    """The case as the command line wants it."""
    if settings.quick:
        return resized(tiny(CASES[name]), image_size=settings.image_size)
    return resized(CASES[name], **{n: getattr(settings, n) for n in ("batch_size", "features", "image_size")})


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints tables and returns (and, if asked, writes) the results."""
    settings = parse(arguments)

    def say(line):
        print(line, file=sys.stderr, flush=True)

    if hasattr(os, "sched_setaffinity"):  # workers inherit it: no rival gets more cores than another
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings.threads])
    machine, rivals = describe_machine(settings, say)
    on_gpu = machine["jax"]["backend"] == "gpu"
    settings.matmul_size = settings.matmul_size or (8192 if on_gpu else 2048)
    print("\n".join(machine_lines(machine)), flush=True)
    results = {"machine": machine, "settings": vars(settings) | {"json": str(settings.json)}, "cases": []}

    def report(lines):
        print("\n" + "\n".join(lines), flush=True)
        if settings.json:  # after each case: an interrupted run keeps what it has
            settings.json.write_text(json.dumps(results, indent=1) + "\n")

    for name in settings.cases:
        if name == "startup":
            results["startup"] = measure_startup(case_for("dcgan", settings), rivals, settings, say)
            report(startup_lines(results["startup"]))
            continue
        if name == "loop":
            results["loop"] = measure_loop(settings, say)
            report(loop_lines(results["loop"]))
            continue
        for dtype in settings.dtypes or (("float32", "bfloat16") if on_gpu else ("float32",)):
            case = dataclasses.replace(case_for(name, settings), dtype=dtype)
            try:
                if not isinstance(case, System):
                    step_flops(case)
            except ValueError as error:
                say(f"{name} is left out: {error}")
                continue
            results["cases"].append(measure_case(case, rivals_for(case, rivals), settings, say))
            report(case_lines(results["cases"][-1]))
    return results


if __name__ == "__main__":
    main()
