"""Times how fast training is fed: folders, files of records, workers, and torch's DataLoader on the same files.

    python scripts/benchmark_data.py                                       # without PyTorch
    python scripts/benchmark_data.py --torch-python ~/torch/bin/python     # PyTorch and Pillow of another environment
    python scripts/benchmark_data.py --num-images 20000 --num-files 500 --seconds 1   # a rehearsal

`stream`: a million grey 32x32 images as raw records (1 GB), each read once in the order of an epoch, in batches. The
rate, and the resident memory after a tenth, a half and all of them: a loader that kept what it read would grow.

`files`: JPEG files of 256x256 pixels, read in the order of an epoch, the largest square brought to 64x64 by area
averages. Rivals take turns in rounds; each reads batches for some seconds after a first one that is not timed.

    folder              data.image_folder, threads
    folder, N workers   the same, read by N processes
    records             the same files to the byte in records, threads
    records, N workers
    records, png        brought to 64x64 by `jaxgen convert`, stored as PNG
    records, raw        the same, stored as pixels
    torch, N workers    torch.utils.data.DataLoader over the files, with Pillow; 0 workers is its own default

That PyTorch reads the same pixels is checked: the sum of the first batch's bytes must be equal.

`training`: images a second of `mnist-dcgan` on its digits in memory, and read from records, with the share of the time
in which data were waited for.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import benchmark_memory
import numpy as np
from PIL import Image

from jaxgen import data
from jaxgen.data import conversion, convertible, folder, records

SIZE, SIDE = 64, 256  # pixels of an image as it is read, and of its file
MARKS = (0.1, 0.5, 1.0)


def synthetic(num: int) -> convertible.Source:
    """`num` grey 32x32 images whose first four pixels are their number."""

    def read(rows):
        pixels = np.random.RandomState(rows[0]).randint(0, 256, (len(rows), 32, 32, 1), np.uint8)
        pixels[:, 0, :4, 0] = np.array(rows, "<u4")[:, None].view(np.uint8)
        return [records.Record(image, row % 10) for row, image in zip(rows, pixels, strict=True)]

    names = tuple(map(str, range(10)))
    return convertible.Source("synthetic", num, read, lambda row: f"row {row}", names, (32, 32, 1), f"synthetic {num}")


def stream(directory: pathlib.Path, num: int, batch_size: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Reads each of `num` records once, shuffled; the rate, and the resident memory on the way."""
    say(f"stream: writing {num:,} images")
    resident = {"start": benchmark_memory.resident()}
    begun = time.monotonic()
    path = conversion.convert({"train": synthetic(num)}, directory / "stream")
    written = time.monotonic() - begun
    resident["written"] = benchmark_memory.resident()
    dataset = data.record_files(path, max_bytes_in_memory=0)
    rows = functools.partial(data.batch_rows, dataset, batch_size=batch_size, seed=0)
    num_steps = num // batch_size
    seen = np.zeros(num, bool)
    marks = {max(1, int(mark * num_steps)): f"{mark:.0%}" for mark in MARKS}
    begun = time.monotonic()
    with contextlib.closing(data.prefetch(dataset.fetch, rows, stop_step=num_steps)) as batches:
        for step, raw in enumerate(batches, 1):
            numbers = np.ascontiguousarray(raw["image"][:, 0, :4, 0]).view("<u4")[:, 0]
            if not np.array_equal(numbers, rows(step - 1)) or not np.array_equal(raw["label"], numbers % 10):
                raise RuntimeError(f"the batch of step {step - 1} holds other images than it should")
            seen[numbers] = True
            if step in marks:
                resident[marks[step]] = benchmark_memory.resident()
                say(f"stream: {marks[step]} read, {step * batch_size / (time.monotonic() - begun):,.0f} images/s")
    seconds = time.monotonic() - begun
    return {
        "num_images": num,
        "bytes": sum(file.stat().st_size for file in path.glob("*.array_record")),
        "written_per_second": num / written,
        "images_per_second": num_steps * batch_size / seconds,
        "distinct_images": int(seen.sum()),
        "resident_bytes": resident,
    }


def write_files(directory: pathlib.Path, num: int) -> pathlib.Path:
    """JPEG files of smooth random colours with some grain: of about the size of a photograph's."""
    path = directory / "files"
    path.mkdir()
    for i in range(num):
        random = np.random.RandomState(i)
        coarse = Image.fromarray(random.randint(0, 256, (16, 16, 3), np.uint8))
        pixels = np.asarray(coarse.resize((SIDE + 32, SIDE), Image.Resampling.BICUBIC)).astype(np.int16)
        grain = random.randint(-12, 13, pixels.shape, np.int16)
        Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(path / f"{i:06d}.jpg", quality=90)
    return path


def rate_of(batches: Iterator, batch_size: int, seconds: float) -> float:
    """Images a second of batches, after a first one that is not timed."""
    next(batches)
    begun, count = time.monotonic(), 0
    while (passed := time.monotonic() - begun) < seconds:
        next(batches)
        count += batch_size
    return count / passed


def ours(dataset: data.Dataset, workers: int, batch_size: int, seconds: float) -> float:
    """Of a data set of jaxgen, as the training loop reads it."""
    rows = functools.partial(data.batch_rows, dataset, batch_size=batch_size, seed=0)
    with contextlib.closing(data.prefetch(dataset.fetch, rows, num_workers=workers)) as batches:
        return rate_of(batches, batch_size, seconds)


def torchs(python: str, path: pathlib.Path, workers: int, batch_size: int, seconds: float) -> dict[str, Any]:
    """Of torch's DataLoader, in another process, perhaps of another environment."""
    script = pathlib.Path(__file__).with_name("benchmark_data_torch.py")
    command = [python, str(script), str(path), *map(str, (workers, batch_size, seconds, SIZE))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it ended without a word")
    return json.loads(done.stdout)


def measure_files(directory: pathlib.Path, settings: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Rounds in which all rivals take turns."""
    say(f"files: writing {settings.num_files:,} JPEG files")
    path, batch_size = write_files(directory, settings.num_files), settings.batch_size
    found = folder.find_images(path)
    opened = functools.partial(data.record_files, image_size=SIZE, max_bytes_in_memory=0)
    kinds = {}
    for name, options in (
        ("records", {}),
        ("records, png", {"encoding": "png", "image_size": SIZE}),
        ("records, raw", {"encoding": "raw", "image_size": SIZE}),
    ):
        say(f"files: converting to {name}")
        source = {"train": convertible.of_folder(found, **options)}
        kinds[name] = opened(conversion.convert(source, directory / name.replace(", ", "-")))
    kinds = {"folder": data.image_folder(path, image_size=SIZE, max_bytes_in_memory=0)} | kinds
    rivals: dict[str, Callable[[], float]] = {}
    for name, dataset in kinds.items():
        rivals[name] = functools.partial(ours, dataset, 0, batch_size, settings.seconds)
        if name in ("folder", "records") and settings.workers:
            several = functools.partial(ours, dataset, settings.workers, batch_size, settings.seconds)
            rivals[f"{name}, {settings.workers} workers"] = several
    first = int(kinds["folder"].fetch(np.arange(batch_size))["image"].sum(dtype=np.int64))
    result: dict[str, Any] = {"num_files": len(found.files), "mean_bytes": float(found.sizes.mean()), "failed": {}}
    for workers in sorted({0, settings.workers}):
        name = f"torch, {workers} workers"
        try:
            tried = torchs(settings.torch_python, path, workers, batch_size, 0.1)
        except (RuntimeError, OSError) as error:
            say(f"{name} is left out: {error}")
            result["failed"][name] = str(error)
            continue
        if tried["first_batch"] != first:
            raise RuntimeError(f"{name} reads other pixels: {tried['first_batch']} and not {first}")
        result["torch"] = tried["version"]
        rivals[name] = lambda workers=workers: torchs(
            settings.torch_python, path, workers, batch_size, settings.seconds
        )["images_per_second"]
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for i in range(settings.rounds):
        for name, measure in rivals.items():
            rates[name].append(measure())
            say(f"files: round {i + 1} of {settings.rounds}: {name} {rates[name][-1]:,.0f} images/s")
    result["images_per_second"] = {
        name: {"median": statistics.median(of), "min": min(of), "max": max(of)} for name, of in rates.items()
    }
    return result


def measure_training(directory: pathlib.Path, num_steps: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Images a second of a GAN whose digits are in memory, and in records."""
    import jaxgen
    from jaxgen import building
    from jaxgen.run_directory import metrics_log
    from jaxgen.system import Spec
    from jaxgen.systems import PRESETS

    config, digits = PRESETS["mnist-dcgan"].config, data.mnist()
    path = conversion.convert({"train": convertible.of_dataset(digits, encoding="raw")}, directory / "digits")
    result = {}
    for name, dataset in {"memory": digits, "records": data.record_files(path, max_bytes_in_memory=0)}.items():
        say(f"training: mnist-dcgan from {name}")
        system, run = building.build_system(config, Spec.of(dataset)), directory / f"run-{name}"
        jaxgen.train(system, dataset, run, num_steps=num_steps, log_every=num_steps // 2)
        last = metrics_log.read_metrics(run)[-1]
        result[name] = {key: last[key] for key in ("images_per_second", "data_wait") if key in last}
    return result


def lines_of(result: dict[str, Any]) -> Iterator[str]:
    """The result as a table in Markdown."""
    machine = result["machine"]
    yield f"{machine['processor']}, {machine['cores']} cores, load {machine['load_before']:.1f}, {result['date']}"
    if "stream" in result:
        of = result["stream"]
        memory = ", ".join(f"{mark} {value / 2**20:,.0f} MB" for mark, value in of["resident_bytes"].items() if value)
        rate = of["images_per_second"]
        yield f"stream: {of['num_images']:,} images, {of['bytes'] / 1e9:.2f} GB, {rate:,.0f} images/s"
        yield f"stream: resident memory at {memory}; {of['distinct_images']:,} distinct images"
    if "files" in result:
        yield "\n| read from | images/s | least | most |\n| --- | ---: | ---: | ---: |"
        for name, of in result["files"]["images_per_second"].items():
            yield f"| {name} | {of['median']:,.0f} | {of['min']:,.0f} | {of['max']:,.0f} |"
    for name, of in result.get("training", {}).items():
        waited = f", {of['data_wait']:.1%} of the time waiting for data" if "data_wait" in of else ""
        yield f"training from {name}: {of['images_per_second']:,.0f} images/s{waited}"


def main() -> None:
    """Measures, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("stream", "files", "training")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--num-images", type=int, default=1_000_000, help="of the stream")
    parser.add_argument("--num-files", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 leaves them out")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a rival in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-steps", type=int, default=200, help="of the training")
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--directory", type=pathlib.Path, help="for the files, which are removed; by default temporary")
    parser.add_argument("--json", type=pathlib.Path, help="where the result goes")
    settings = parser.parse_args()
    records.import_grain()
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - begun:5.0f} s] {line}", file=sys.stderr, flush=True)

    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_before": os.getloadavg()[0],
        },
    }
    with contextlib.suppress(OSError):
        names = [line for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
        result["machine"]["processor"] = names[0].partition(":")[2].strip()
    with tempfile.TemporaryDirectory(dir=settings.directory, ignore_cleanup_errors=True) as temporary:
        directory = pathlib.Path(temporary)
        if "stream" in settings.parts:
            result["stream"] = stream(directory, settings.num_images, settings.batch_size, say)
        if "files" in settings.parts:
            result["files"] = measure_files(directory, settings, say)
        if "training" in settings.parts:
            result["training"] = measure_training(directory, settings.num_steps, say)
    print("\n".join(lines_of(result)))
    if settings.json:
        settings.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
