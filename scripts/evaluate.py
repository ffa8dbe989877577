#!/usr/bin/env python
"""Evaluate a run: `evaluate.py RUN`. Prints numbers with how they were made, and keeps them in RUN/evaluation/."""

import dataclasses
import json
import warnings
from pathlib import Path

import tyro

from jaxgen import __version__, command_line


def evaluate(
    run: tyro.conf.Positional[Path],
    /,
    classifier: Path | None = None,
    num: int | None = None,
    seed: int = 0,
    step: int | None = None,
    samples: int | None = None,
) -> dict:
    """Evaluate a run's newest good checkpoint (its moving average).

    A VAE or classifier is evaluated on the test split of its data. A GAN on Stacked MNIST draws images, whose modes are
    counted by the classifier of digits in this package. Another GAN, or a VAE, with --classifier draws images, and
    a classifier run tells how many it is sure of and how often it sees each class; the same of its own test
    images stands beside it.

    Args:
      run: The run directory that train.py wrote.
      classifier: Run directory of a classifier trained on the same kind of images.
      num: How many images to draw; 10,000 by default, and 26,000 for Stacked MNIST, as is usual.
      seed: Of the latents.
      step: Of the checkpoint; the newest by default.
      samples: For a VAE: k of the importance-weighted bound; as configured by default.

    Returns:
      The record: `metrics`, and under `protocol` everything that they depend on.

    Raises:
      ValueError: for a GAN without a classifier, or one for images of another shape.
    """
    import jax
    import numpy as np

    from jaxgen import checkpoint, data, experiment, presets, run_directory
    from jaxgen.metrics.confidence import class_confidence

    trained = experiment.load(run, step=step)
    is_stacked = (
        classifier is None and isinstance(trained.config, presets.GAN) and (trained.config.data.name == "stacked_mnist")
    )
    num = (26_000 if is_stacked else 10_000) if num is None else num
    protocol = {"run": str(run), "step": int(trained.state.step), "seed": seed, "jaxgen": __version__}
    if is_stacked:
        from jaxgen import evaluation
        from jaxgen.metrics import features

        record = evaluation.stacked_mnist(
            trained, features.shipped("mnist-cnn"), num=num, seed=seed, progress=command_line.progress
        )
        metrics, protocol = record["metrics"], protocol | record["protocol"]
    elif classifier is None:
        if trained.networks.eval_step is None:
            raise ValueError(f"{run} is a GAN: give --classifier the run of a classifier of such images")
        config = dataclasses.replace(trained.config, seed=seed, num_devices=None)
        if samples is not None:
            if not isinstance(config, presets.VAE) or samples < 1:
                raise ValueError(f"--samples is for a VAE, and at least 1; got {samples} for {run}")
            config = dataclasses.replace(config, eval_samples=samples)
        if isinstance(config, presets.VAE):
            protocol["samples"] = config.eval_samples
        if not experiment.has_test_split(config.data):
            raise ValueError(f"the data {config.data.name!r} of {run} have no test split to evaluate on")
        built = experiment.build(config)
        stored = run_directory.load_config(run)["images"].get("data_fingerprint")
        if stored != built.dataset.fingerprint:
            warnings.warn(f"the data of {run} have changed since it was trained", stacklevel=2)
        metrics = built.evaluate(trained.state)
        protocol |= {"data": dataclasses.asdict(config.data), "split": "test"}
    else:
        judge = experiment.load(classifier)
        if judge.networks.classify is None:
            raise ValueError(f"{classifier} is no classifier but a {type(judge.config).__name__}")
        shapes = [tuple(run_directory.load_config(r)["images"]["image_shape"]) for r in (run, classifier)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{run} draws images {shapes[0]}, but {classifier} classifies images {shapes[1]}")
        drawn = experiment.generate(trained, num, jax.random.key(seed))
        classify = jax.jit(judge.networks.classify)

        def confidence(images):
            images = np.array_split(images, max(1, len(images) // 500))
            return class_confidence(np.concatenate([classify(judge.state.ema, part) for part in images]))

        metrics = confidence(drawn)
        test = experiment.load_data(judge.config.data, "test")
        real = [
            np.asarray(test.prepare(raw, jax.random.key(0))["image"])[:valid]
            for raw, valid in data.sequential_batches(test, 500)
        ]
        metrics["confident_share_of_test_images"] = confidence(np.concatenate(real))["confident_share"]
        digest = checkpoint.read_record(classifier / "checkpoints", judge.record["step"])["crc32"]
        protocol |= {"num": num, "classifier": str(classifier), "classifier_digest": digest, "threshold": 0.9}
    record = {"metrics": metrics, "protocol": protocol}
    path = run / "evaluation" / f"{protocol['step']:08d}{'' if classifier is None else '_confidence'}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        run_directory.write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:  # somebody else's run, for example: the numbers are still printed
        warnings.warn(f"the numbers could not be kept: {error}", stacklevel=2)
    return record


def main(arguments: list[str] | None = None) -> int:
    """Evaluates, and prints the record."""
    command_line.use_compilation_cache()
    print(json.dumps(tyro.cli(evaluate, args=arguments, prog="evaluate.py"), indent=2))
    return 0


if __name__ == "__main__":
    command_line.run(main)
