"""What the codes of a run are good for, by its own images: labels, factors, active units, how bounds generalise."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import building, data, loading, opening, traversal, vae
from jaxgen.evaluation import of_runs
from jaxgen.metrics import amortisation, comparison, disentanglement, representation
from jaxgen.progress import Progress, no_progress
from jaxgen.system import System
from jaxgen.watching import make_evaluate

NUM_CODES = 20_000  # of each split, by default
NUM_OPTIMISED = 64  # images whose posteriors are optimised
# Settings of these metrics, which stand beside their numbers.
SEARCH: dict[str, Any] = {"num_steps": 300, "learning_rate": 0.03, "num_samples": 4, "eval_samples": 100}
PROBE: dict[str, Any] = {"decay": 1e-3}
NEIGHBOURS: dict[str, Any] = {"num_neighbours": 5}
BINS: dict[str, Any] = {"num_bins": 20}
TREE: dict[str, Any] = {"max_depth": 10, "least_rows": 10}


class Represented(NamedTuple):
    """What was found.

    record: `metrics`, `protocol` and `settings`, as `metrics.protocol` stores them.
    test: the images that were encoded.
    units: latents, those first whose codes vary most over these.
    names: of factors.
    tables: title -> [D, K], what each latent says of each factor.
    is_flat: whether codes are vectors as they come from the encoder, and not maps.
    """

    record: dict[str, Any]
    test: data.Dataset
    units: np.ndarray
    names: tuple[str, ...]
    tables: dict[str, np.ndarray]
    is_flat: bool


def code_shape(trained: loading.Trained, who: str) -> tuple[int, ...]:
    """The shape of an image's code, of a run that encodes images to real numbers.

    Args:
      trained: the run.
      who: asks, such as "--representation".

    Raises:
      MissingCapability: for a run that encodes nothing.
      ValueError: for one whose codes are numbers of a codebook, or several arrays.
    """
    encode = trained.system.need("encode", who)
    variables = jax.eval_shape(trained.system.variables, trained.system.shapes)
    leaves = jax.tree.leaves(jax.eval_shape(encode, variables, trained.spec.example(2)))
    if len(leaves) != 1 or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        kinds = ", ".join(f"{leaf.dtype} {list(leaf.shape)}" for leaf in leaves)
        raise ValueError(
            f"{who} is of codes that are real numbers, and {trained.system.name} encodes two images to {kinds}"
        )
    return leaves[0].shape[1:]


def rows_of(
    trained: loading.Trained, dataset: data.Dataset, key: jax.Array, *, measured_by: System | None = None
) -> dict[str, np.ndarray]:
    """Codes of all images of a data set, with what belongs to each: "codes" [N, D], "label" [N], "factor" [N, K].

    Args:
      trained: a run that encodes.
      dataset: the images.
      key: of what is random in the data and in the measure.
      measured_by: a system whose `measure` also says its numbers of each image, under the names that it gives them.
    """
    encode, measure = trained.system.need("encode", "codes"), None if measured_by is None else measured_by.measure

    def of_batch(variables, batch, key):
        found = {} if measure is None else dict(measure.of_batch(variables, batch, key))
        found |= {name: batch[name] for name in ("label", "factor") if name in batch}
        return found | {"codes": encode(variables, batch).reshape(len(batch["image"]), -1)}

    rows: Any = make_evaluate(of_batch, dict, dataset, key=key, variables=trained.system.variables)(trained.state)
    return rows


def represented(
    trained: loading.Trained,
    name: str,
    *,
    seed: int = 0,
    num: int | None = None,
    samples: int | None = None,
    progress: Progress = no_progress,
) -> Represented:
    """The numbers of a run's codes, on the test and the training split of its own data.

    Args:
      trained: a run that was made from a preset, and encodes images to vectors.
      name: what to call it.
      seed: of what is random in the data, in the measure, and in the search for better posteriors.
      num: images of each split, evenly spaced; up to 20,000 by default.
      samples: k of the bound, instead of `eval_samples`.
      progress: shows it.

    Returns:
      A `Represented`. Numbers of labels are there where the data have labels, those of factors where they have factors,
      bounds where the system measures one, and the amortisation gap of a system with `inference`.

    Raises:
      MissingCapability, ValueError: for a run that encodes nothing, or no vectors; for data that cannot be opened.
    """
    shape = code_shape(trained, "--representation")
    asked, system = opening.data_of(trained, name), trained.system
    config: Any = of_runs.with_samples(trained, trained.config, samples)
    if samples is not None:
        system = building.build_system(config, trained.spec)
    test = opening.open_test_split(asked, name).dataset
    of_runs.check_same_kind(trained, test, name)
    train = opening.open_training_images(trained, name)
    if train is None:
        raise ValueError(f"probes learn from codes of the images that {name} was trained on, which are not there")
    num = NUM_CODES if num is None else num
    train, test = (data.subset(dataset, min(num, dataset.num_examples)) for dataset in (train, test))
    building.warn_of_few(test, asked)
    key, sides = jax.random.key(seed), []
    for side, dataset in enumerate((train, test)):
        for _ in progress([None], 1, f"encoding {dataset.num_examples:,} images of {dataset.name}"):
            sides.append(rows_of(trained, dataset, jax.random.fold_in(key, side), measured_by=system))
    of_train, of_test = sides
    metrics: dict[str, Any] = {}
    settings: dict[str, dict[str, Any]] = {}
    tables: dict[str, np.ndarray] = {}
    names: tuple[str, ...] = ()
    if test.class_names:
        for _ in progress([None], 1, "labels by a linear probe and nearest neighbours"):
            metrics |= _of_labels(of_train, of_test)
        settings |= {"probe_accuracy": PROBE, "neighbours_accuracy": NEIGHBOURS}
    if "factor" in of_test:
        for _ in progress([None], 1, "factors by MIG, DCI and SAP"):
            found, tables, names = _of_factors(of_train, of_test, test)
        metrics |= found
        settings |= {n: {**(TREE if n.startswith("dci") else BINS), "factors": " ".join(names)} for n in found}
    metrics |= {"latent_dim": of_test["codes"].shape[1], "active_units": _active(of_test["codes"])}
    settings["active_units"] = {"variance_above": vae.ACTIVE_UNIT_VARIANCE}
    metrics |= generalisation(system, of_train, of_test)
    if system.inference is not None:
        search = f"optimising posteriors of {min(NUM_OPTIMISED, test.num_examples)} images, {SEARCH['num_steps']} steps"
        for _ in progress([None], 1, search):
            found = amortised(trained, test, jax.random.fold_in(key, 2))
        metrics |= found
        count = {"images": min(NUM_OPTIMISED, test.num_examples), "optimiser": "adam, cosine to 0"}
        settings |= dict.fromkeys(found, {**SEARCH, **count})
    protocol: dict[str, Any] = {"samples": config.eval_samples} if hasattr(config, "eval_samples") else {}
    protocol |= {"codes": "posterior means" if system.inference is not None else "what encode returns"}
    protocol |= {"data": dataclasses.asdict(asked), "split": "test"}
    protocol |= {"n_real": test.num_examples, "n_train": train.num_examples}
    protocol |= {entry: text for entry, text in system.protocol.items() if entry not in of_runs.OF_DRAWING}
    protocol |= {"reference_sha256": comparison.content_digest(test), "train_sha256": comparison.content_digest(train)}
    record = {"metrics": metrics, "protocol": protocol, "settings": settings}
    return Represented(record, test, traversal.most_active(of_test["codes"]), names, tables, len(shape) == 1)


def _of_labels(of_train, of_test):
    sides = of_train["codes"], of_train["label"], of_test["codes"], of_test["label"]
    return {
        "probe_accuracy": representation.linear_probe(*sides, **PROBE),
        "neighbours_accuracy": representation.k_nearest_neighbours(*sides, **NEIGHBOURS),
        "accuracy_by_chance": float(np.max(np.bincount(of_test["label"])) / len(of_test["label"])),
    }


def _of_factors(of_train, of_test, dataset):
    """(numbers, tables, names of the factors)."""
    codes, factors = of_test["codes"], of_test["factor"]
    names = tuple(f.name for f in dataset.factors) or tuple(map(str, range(factors.shape[1])))
    varied = [k for k in range(factors.shape[1]) if len(np.unique(factors[:, k])) > 1]
    if len(varied) < len(names):
        left_out = ", ".join(name for k, name in enumerate(names) if k not in varied)
        warnings.warn(f"factors that do not vary in {dataset.name} are left out: {left_out}", stacklevel=3)
    names, factors, own = tuple(names[k] for k in varied), factors[:, varied], of_train["factor"][:, varied]
    categorical = [i for i, k in enumerate(varied) if dataset.factors and dataset.factors[k].categorical]
    gap = disentanglement.mutual_information_gap(codes, factors, **BINS)
    separated = disentanglement.sap(codes, factors, categorical=categorical, **BINS)
    found = disentanglement.dci(of_train["codes"], own, codes, factors, **TREE)
    numbers = {
        "mig": gap.score,
        "mig_by_factor": gap.of_factors.tolist(),
        "dci_disentanglement": found.disentanglement,
        "dci_completeness": found.completeness,
        "dci_informativeness": found.informativeness,
        "dci_accuracy_by_factor": found.accuracy.tolist(),
        "sap": separated.score,
        "sap_by_factor": separated.of_factors.tolist(),
    }
    tables = {"mutual information / entropy": gap.table, "importance": found.importance}
    return numbers, tables, names


def _active(codes) -> int:
    return int(np.sum(np.var(codes, axis=0, dtype=np.float64) > vae.ACTIVE_UNIT_VARIANCE))


def generalisation(
    system: System, of_train: Mapping[str, np.ndarray], of_test: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """What a system measures on test images, beside the same of training images.

    Args:
      system: whose `measure` made the rows, if it has one.
      of_train, of_test: rows of images, as of `rows_of`.

    Returns:
      Each number, with `_of_train` beside it; and `generalisation_gap`, by how much training images are better in what
      the measure is judged by, such as nats of the ELBO, with its standard error over images. {} without a measure.
    """
    if system.measure is None:
        return {}
    found, seen = system.measure.summarize(of_test), system.measure.summarize(of_train)
    numbers: dict[str, float] = {}
    for name in found:
        numbers |= {name: found[name], f"{name}_of_train": seen[name]}
    best = system.measure.best
    if best is not None:
        sign = 1 if system.measure.mode == "max" else -1
        numbers["generalisation_gap"] = sign * (seen[best] - found[best])
        sides = [np.asarray(rows[best], np.float64) for rows in (of_train, of_test) if best in rows]
        if len(sides) == 2 and min(len(side) for side in sides) > 1:
            errors = [np.var(side, ddof=1) / len(side) for side in sides]
            numbers["generalisation_gap_standard_error"] = float(sum(errors) ** 0.5)
    return numbers


def amortised(trained: loading.Trained, test: data.Dataset, key: jax.Array) -> dict[str, float]:
    """`metrics.amortisation` of some test images: bounds of the encoder's and of optimised posteriors, and the gap."""
    inference = trained.system.inference
    assert inference is not None
    few = data.subset(test, min(NUM_OPTIMISED, test.num_examples))
    batch = few.prepare(few.fetch(np.arange(few.num_examples)), jax.random.fold_in(key, 0))
    variables = trained.variables
    found = amortisation.amortisation(
        jax.jit(inference.posterior)(variables, batch),
        lambda posterior, noise, variables, batch: inference.bound(variables, batch, posterior, noise),
        jax.random.fold_in(key, 1),
        variables,
        batch,
        **SEARCH,
    )
    return {
        "elbo_of_encoder": float(np.mean(found.of_encoder, dtype=np.float64)),
        "elbo_optimised": float(np.mean(found.optimised, dtype=np.float64)),
        "amortisation_gap": found.gap,
        "amortisation_gap_standard_error": found.standard_error,
    }
