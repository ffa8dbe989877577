"""Checks this library on one GPU or TPU in ten minutes at most, and writes one record of what was found.

    python scripts/check_accelerator.py                                     # on the device that JAX sees
    python scripts/check_accelerator.py --torch-python ~/torch/bin/python   # PyTorch beside it
    python scripts/check_accelerator.py --inception weights.pth             # FID in Inception's features
    python scripts/check_accelerator.py --tiny                              # a rehearsal on a CPU

Each part is a process of its own with a time limit of its own. One that fails, or is cut at its limit, is recorded with
the end of what it said, and the next one begins. The record is rewritten after each part: what is interrupted keeps
what it has.

    device      versions, memory, the rate of a large matrix product in float32 and bfloat16 beside the published peak
    equality    a step of several systems on the device and on the CPU, in float32: their losses must agree
    tests       tests of the suite that hold on any device, run there
    benchmark   scripts/benchmark.py: DCGAN, SNGAN, StyleGAN2, a block of VDVAE, with the share of the matrix rate that
                was measured beside them, and PyTorch where it is installed
    fid         a DCGAN trained for some steps draws 50,000 digits, whose FID against the 10,000 test digits is timed
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

SCRIPTS = pathlib.Path(__file__).parent
LIMITS = {"device": 60, "equality": 100, "tests": 90, "benchmark": 220, "fid": 120}  # seconds: ten minutes less ten
TESTS = (
    *("tests/test_losses.py", "tests/test_models_resampling.py", "tests/test_models_fir.py"),
    *("tests/test_augmentation.py", "tests/test_metrics_fid.py", "tests/test_network.py"),
)
SYSTEMS = ("dcgan", "sngan", "stylegan2", "vdvae", "vae")
TOLERANCE = 1e-3  # of a loss on the device beside that on a CPU, relative
PEAK = {  # published, of dense products in bfloat16, in 1e12 FLOP/s, by a part of the device's name
    **{"B200": 2250, "H200": 989, "H100": 989, "A100": 312, "L4": 121, "V100": 125, "T4": 65},
    **{"TPU v6 lite": 918, "TPU v5p": 459, "TPU v5 lite": 197, "TPU v5": 459, "TPU v4": 275},
}
TAIL = 1500  # characters of a part's output that a record keeps


# Parts that run in this file ------------------------------------------------------------------------------------------


def look_at_device(tiny: bool) -> dict[str, Any]:
    """What the device is, and how fast it multiplies large matrices."""
    import flax
    import jax
    import jax.numpy as jnp
    import jaxlib
    import optax

    import jaxgen

    device = jax.devices()[0]
    size = 512 if tiny or device.platform == "cpu" else 8192
    rates = {}
    for dtype in ("float32", "bfloat16"):
        matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
        product, seconds = jax.jit(jnp.matmul), []
        for _ in range(6):  # the first compiles
            begun = time.perf_counter()
            product(matrix, matrix).block_until_ready()
            seconds.append(time.perf_counter() - begun)
        rates[dtype] = 2 * size**3 / min(seconds[1:])
    peak = next((1e12 * rate for name, rate in PEAK.items() if name in device.device_kind), None)
    stats = device.memory_stats() or {}
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "num_devices": jax.device_count(),
        "memory_bytes": stats.get("bytes_limit"),
        "matrix_flops_per_second": rates,
        "published_bfloat16_flops_per_second": peak,
        "share_of_published": None if peak is None else rates["bfloat16"] / peak,
        "versions": {m.__name__: m.__version__ for m in (jaxgen, jax, jaxlib, flax, optax)},
    }


def compare_with_cpu(tiny: bool) -> dict[str, Any]:
    """The largest relative difference of any loss of a step on the device and on a CPU, for each system."""
    import jax
    import numpy as np

    from jaxgen import building, description, systems
    from jaxgen.systems.preset import Preset

    jax.config.update("jax_default_matmul_precision", "highest")
    device, cpu = jax.devices()[0], jax.devices("cpu")[0]
    found: dict[str, Any] = {}
    for name in SYSTEMS[:2] if tiny else SYSTEMS:
        config = systems.named(name).TINY
        spec = description.spec_of(config, Preset("", config))
        system = building.build_system(config, spec)
        rng, batch = np.random.default_rng(0), {}
        for key, shape in spec.example(system.images_per_step).items():
            floats = np.issubdtype(shape.dtype, np.floating)
            values = rng.uniform(-1, 1, shape.shape) if floats else rng.integers(0, 2, shape.shape)
            batch[key] = values.astype(shape.dtype)
        with jax.default_device(cpu):
            state = system.init(jax.random.key(0))
        losses = {}
        for where in (cpu, device):
            state_there, batch_there = jax.device_put((state, batch), where)
            with jax.default_device(where):
                _, metrics = jax.jit(system.train_step)(
                    state_there, batch_there, jax.device_put(jax.random.key(1), where)
                )
            losses[where] = {key: float(value) for key, value in metrics.items() if key.endswith(("loss", "elbo"))}
        differences = {key: abs(losses[device][key] - x) / (abs(x) or 1.0) for key, x in losses[cpu].items()}
        worst = max(differences, key=lambda key: differences[key])
        found[name] = {"worst": worst, "difference": differences[worst], "same": differences[worst] <= TOLERANCE}
        print(json.dumps(found), flush=True)  # what is cut keeps what it has: the last line counts
    if wrong := [name for name, of in found.items() if not of["same"]]:
        found["failed"] = f"{', '.join(wrong)} compute other losses than on a CPU"
    return found


INSIDE = {"device": look_at_device, "equality": compare_with_cpu}


# Parts that are commands ----------------------------------------------------------------------------------------------


def commands_of(part: str, settings: argparse.Namespace, directory: pathlib.Path) -> list[list[str]]:
    """What is run for a part, one after the other."""
    tiny, python = settings.tiny, sys.executable
    if part in INSIDE:
        return [[python, __file__, "--inside", part, *(["--tiny"] if tiny else [])]]
    if part == "tests":
        return [[python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(TESTS[1:2] if tiny else TESTS)]]
    if part == "benchmark":
        cases = ("dcgan",) if tiny else ("dcgan", "sngan", "stylegan2", "vdvae-block")
        rivals = ("jaxgen", "jaxgen-loop") if tiny else ("jaxgen", "jaxgen-loop", "torch-channels-last")
        command = [python, str(SCRIPTS / "benchmark.py"), "--cases", *cases, "--rivals", *rivals]
        command += ["--torch-python", settings.torch_python, "--json", str(directory / "benchmark.json")]
        return [[*command, *(["--quick"] if tiny else ["--rounds", "3", "--seconds", "1"])]]
    run, num = directory / "run", 500 if tiny else 50_000
    train = [python, "-m", "jaxgen", "train", "mnist-dcgan", "--directory", str(run)]
    train += ["--num-steps", "10" if tiny else "2000", "--log-every", "5" if tiny else "200"]
    train += ["--features", "8"] if tiny else []
    evaluate = [
        python,
        "-m",
        "jaxgen",
        "evaluate",
        str(run),
        "mnist:test",
        "--metrics",
        "fid",
        "--no-pictures",
        "--json",
    ]
    evaluate += ["--num-images", str(num), "--num-real-images", str(num)] if tiny else ["--num-images", str(num)]
    return [train, evaluate + (["--backbone", str(settings.inception)] if settings.inception else [])]


def run(part: str, settings: argparse.Namespace, directory: pathlib.Path) -> dict[str, Any]:
    """Runs a part; what came of it, with the end of what it said."""
    environment = dict(os.environ)
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch and other parts want memory, too
    if settings.tiny:
        environment["JAX_PLATFORMS"] = "cpu"
    elif part == "tests":  # which would otherwise choose a CPU; and their tolerances are those of float32
        environment["JAX_PLATFORMS"] = environment.get("JAX_PLATFORMS") or settings.platform
        environment["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    elif part == "equality" and settings.platform:  # both, whatever the environment chooses
        environment["JAX_PLATFORMS"] = ",".join(dict.fromkeys((settings.platform, "cpu")))
    begun, text, result = time.monotonic(), "", {"ok": True, "seconds": []}
    limit = LIMITS[part] * settings.patience
    for command in commands_of(part, settings, directory):
        started = time.monotonic()
        try:
            done = subprocess.run(
                command,
                env=environment,
                cwd=SCRIPTS.parent,
                capture_output=True,
                text=True,
                timeout=max(1.0, limit - (started - begun)),
            )
            text, failed = done.stdout, f"exit code {done.returncode}" if done.returncode else ""
            said = done.stderr + done.stdout
        except subprocess.TimeoutExpired as cut:
            failed = f"cut after {limit:.0f} s"
            told, text = (part.decode(errors="replace") if part else "" for part in (cut.stderr, cut.stdout))
            said = told + text
        except OSError as error:
            failed = said = str(error)
        result["seconds"].append(round(time.monotonic() - started, 1))
        if failed:
            result |= {"ok": False, "failed": failed, "said": said[-TAIL:]}
            break
    result["found"] = found(part, text, directory)
    if result["ok"] and isinstance(result["found"], dict) and "failed" in result["found"]:
        result |= {"ok": False, "failed": result["found"]["failed"]}
    return result


def found(part: str, text: str, directory: pathlib.Path) -> Any:
    """The figures of a part, also of one that was cut; None where there are none."""
    try:
        if part in INSIDE:
            return json.loads(text.strip().splitlines()[-1])
        if part == "tests":
            return text.strip().splitlines()[-1]
        if part == "benchmark":
            cases = json.loads((directory / "benchmark.json").read_text())["cases"]
            return {f"{case['case']['name']} {case['case']['dtype']}": figures(case) for case in cases}
        log = [json.loads(line) for line in (directory / "run" / "metrics.jsonl").read_text().splitlines()]
        rates = [line["images_per_second"] for line in log if "images_per_second" in line]
        record = json.loads(text[text.index("{") :]) if "{" in text else {}
        return {"training_images_per_second": rates[-1] if rates else None} | {
            key: record[key] for key in ("numbers", "protocol") if key in record
        }
    except (ValueError, IndexError, KeyError, OSError):
        return None


def figures(case: dict[str, Any]) -> dict[str, Any]:
    """What a record keeps of a case of the benchmark: medians."""
    rivals = {
        rival: {
            key: of[key]["median"] for key in ("steps_per_second", "images_per_second", "share_of_limit") if key in of
        }
        for rival, of in case["rivals"].items()
    }
    limit = case["limit"]["flops_per_second"]["median"]
    return {"rivals": rivals, "limit_flops_per_second": limit, "left_out": case["failed"]}


# The record -----------------------------------------------------------------------------------------------------------


def lines_of(record: dict[str, Any]) -> Iterator[str]:
    """The record in Markdown."""
    device = record["parts"].get("device", {}).get("found") or {}
    kind = "a rehearsal, of which no figure counts" if record["tiny"] else device.get("device", "an unknown device")
    yield f"# jaxgen on {kind}\n\n{record['date']}, {record['seconds']:.0f} s"
    if device:
        versions = ", ".join(f"{name} {version}" for name, version in device["versions"].items())
        yield f"\n{device['num_devices']} x {device['device']} ({device['platform']}); {versions}"
        rates = ", ".join(f"{name} {rate / 1e12:,.2f}" for name, rate in device["matrix_flops_per_second"].items())
        share = device["share_of_published"]
        yield f"\nmatrix products, 1e12 FLOP/s: {rates}" + ("" if share is None else f" ({share:.0%} of the published)")
    yield "\n| part | seconds | result |\n| --- | ---: | --- |"
    for name, part in record["parts"].items():
        said = "done" if part["ok"] else f"**{part['failed']}**"
        said = part["found"] if name == "tests" and part["found"] else said
        yield f"| {name} | {sum(part['seconds']):.0f} | {said} |"
    if cases := record["parts"].get("benchmark", {}).get("found"):
        yield "\n| case | rival | steps/s | images/s | of the matrix rate |\n| --- | --- | ---: | ---: | ---: |"
        for case, of in cases.items():
            for rival, rates in of["rivals"].items():
                share = f"{rates['share_of_limit']:.0%}" if "share_of_limit" in rates else ""
                steps, images = rates["steps_per_second"], rates["images_per_second"]
                yield f"| {case} | {rival} | {steps:,.2f} | {images:,.0f} | {share} |"
    fid = record["parts"].get("fid", {})
    if fid.get("ok"):
        rate = fid["found"]["training_images_per_second"] if fid["found"] else None
        trained = "" if rate is None else f"; the training before it did {rate:,.0f} images/s"
        num = "500" if record["tiny"] else "50,000"
        yield f"\nFID of {num} samples: {fid['seconds'][-1]:.0f} s with its start{trained}"
    for name, part in record["parts"].items():
        if part.get("said"):
            yield f"\n{name}, {part['failed']}:\n\n```\n{part['said'].strip()}\n```"


def main() -> int:
    """Runs all parts and writes the record; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a rehearsal on a CPU, with little of everything")
    parser.add_argument("--parts", nargs="+", choices=tuple(LIMITS), default=list(LIMITS))
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter that has PyTorch")
    parser.add_argument("--inception", type=pathlib.Path, help="weights of Inception v3, for the features of the FID")
    parser.add_argument("--patience", type=float, default=1.0, help="times each time limit, for a slow machine")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("."), help="folder of the record")
    parser.add_argument("--inside", choices=tuple(INSIDE), help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.inside:
        print(json.dumps(INSIDE[settings.inside](settings.tiny)))
        return 0
    settings.platform, begun = "", time.monotonic()
    now = datetime.datetime.now(datetime.UTC)
    record: dict[str, Any] = {"date": now.isoformat(timespec="seconds"), "tiny": settings.tiny, "parts": {}}
    settings.output.mkdir(parents=True, exist_ok=True)
    name = f"accelerator-tiny-{now:%Y-%m-%d}" if settings.tiny else f"accelerator-{now:%Y-%m-%d-%H%M}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        for part in settings.parts:
            print(
                f"[{time.monotonic() - begun:4.0f} s] {part}, at most {LIMITS[part] * settings.patience:.0f} s",
                flush=True,
            )
            record["parts"][part] = run(part, settings, pathlib.Path(directory))
            if part == "device" and record["parts"][part]["found"]:
                of = record["parts"][part]["found"]
                settings.platform = {"gpu": "cuda"}.get(of["platform"], of["platform"])
                if not settings.tiny:
                    name = f"accelerator-{re.sub(r'[^A-Za-z0-9]+', '-', of['device'])}-{now:%Y-%m-%d-%H%M}"
            record["seconds"] = time.monotonic() - begun
            (settings.output / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
            (settings.output / f"{name}.md").write_text("\n".join(lines_of(record)) + "\n")
    print((settings.output / f"{name}.md").read_text())
    failed = [part for part, of in record["parts"].items() if not of["ok"]]
    print(f"{settings.output / name}.json" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
