"""Settings that systems share: small groups that build what they name, and one table from each name to a function.

A group is a frozen dataclass, every field of which the command line can set. `Data.open` gives the data set,
`Optimizer.build` the optax transformation. What a published system has beside these stands in its file in `systems/`.
"""

import contextlib
import dataclasses
import difflib
import os
import re
import typing
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import optax

from jaxgen import (
    augmentation,
    data,
    gan,
    local_path,
    network,
    optim,
    pair_options,
    ranges,
    rematerialisation,
    state_sharding,
)
from jaxgen import gradients as ways
from jaxgen.data.dataset import Dataset
from jaxgen.losses import adversarial, variational
from jaxgen.metrics import comparison
from jaxgen.ranges import Count, CountOrZero, Norm, Positive, Range, Seed, Share, Weight, WholeShare

# Names -> functions ---------------------------------------------------------------------------------------------------

LOSSES = {
    "non_saturating": adversarial.non_saturating,
    "minimax": adversarial.minimax,
    "least_squares": adversarial.least_squares,
    "hinge": adversarial.hinge,
    "wasserstein": adversarial.wasserstein,
    "relativistic": adversarial.relativistic,
    "relativistic_average": adversarial.relativistic_average,
}
UPDATE_RULES = {
    "alternating": gan.alternating,
    "simultaneous": gan.simultaneous,
    "extragradient": gan.extragradient,
}
AUGMENTATIONS = {  # of what the discriminator sees, for batches of a size
    "none": lambda batch_size: None,
    "diff": lambda batch_size: augmentation.diff_augment(),
    "adaptive": augmentation.adaptive,
    "pseudo": augmentation.pseudo,
}
OPTIMIZERS = {
    "adam": lambda o, rate: optax.adam(rate, b1=o.b1, b2=o.b2, eps=o.eps),
    "adamw": lambda o, rate: optax.adamw(rate, b1=o.b1, b2=o.b2, eps=o.eps, weight_decay=o.weight_decay),
    "adamax": lambda o, rate: optax.adamax(rate, b1=o.b1, b2=o.b2, eps=o.eps),
    "rmsprop": lambda o, rate: optax.rmsprop(rate, decay=o.b2, eps=o.eps, momentum=o.b1 or None),
    "sgd": lambda o, rate: optax.sgd(rate, momentum=o.b1 or None),
}
SCHEDULES = {
    "constant": lambda rate, steps: optax.constant_schedule(rate),
    "linear": lambda rate, steps: optax.linear_schedule(rate, 0.0, steps),
    "linear_half": lambda rate, steps: optim.linear_at_last(rate, steps),
    "linear_quarter": lambda rate, steps: optim.linear_at_last(rate, steps, 0.25),
    "cosine": lambda rate, steps: optax.cosine_decay_schedule(rate, steps),
    "stages": optim.in_stages,
}
LIKELIHOODS = {
    "bernoulli": variational.bernoulli,
    "gaussian": variational.gaussian,
    "discretized_logistic": variational.discretized_logistic,
}
BINARISATIONS = {
    "none": data.binarisation.none,
    "dynamic": data.binarisation.dynamic,
    "static": data.binarisation.static,
    "threshold": data.binarisation.threshold,
}
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
STATES = {"replicated": state_sharding.replicated, "sharded": state_sharding.by_largest_dimension}
DATASETS = {
    "mnist": lambda d, split: data.mnist(split, image_size=d.image_size or 28, binarise=_binarise(d)),
    "stacked_mnist": lambda d, split: data.stacked_mnist(split, image_size=d.image_size or 28, binarise=_binarise(d)),
    "emoji": lambda d, split: data.emoji(split, image_size=d.image_size or 64, drawn_by=d.drawn_by),
    "factors": lambda d, split: data.factors(split, image_size=d.image_size or 32, binarise=_binarise(d)),
    "folder": lambda d, split: _open_folder(d, split),
    "arrays": lambda d, split: _open_arrays(d, split),
    "pairs": pair_options.open_pairs,
    "halves": pair_options.open_halves,
    "unpaired": pair_options.open_unpaired,
    "unpaired_emoji": lambda d, split: data.unpaired_emoji(split, image_size=d.image_size or 64, drawn_by=d.drawn_by),
    "hub": lambda d, split: data.hub_dataset(
        _needs_path(d),
        image_size=d.image_size or 64,
        split=split,
        image_key=d.image_key,
        label_key=d.label_key,
        labelled=d.labelled,
        channels=d.channels,
        background=d.background,
        max_broken_share=d.max_broken_share,
        tell=data.reading.as_warning,
    ),
    "records": lambda d, split: data.record_files(
        _needs_path(d),
        image_size=d.image_size,
        split=split,
        labelled=d.labelled,
        channels=d.channels if d.channels == 1 else None,
        background=d.background,
        max_broken_share=d.max_broken_share,
        tell=data.reading.as_warning,
    ),
}
_OF_PAIRS = ("pairs", "halves", "unpaired")
OF_DATA = {  # settings of data that are for some sets only
    "path": ("folder", "arrays", "hub", "records", *_OF_PAIRS),
    "target_path": ("pairs", "unpaired"),
    "test_path": ("folder", "arrays", *_OF_PAIRS),
    "test_target_path": ("pairs", "unpaired"),
    "direction": ("halves",),
    "labelled": ("folder", "arrays", "hub", "records"),
    "channels": ("folder", "hub", "records", *_OF_PAIRS),
    "background": ("folder", "arrays", "hub", "records", *_OF_PAIRS),
    "validation_share": ("folder", *_OF_PAIRS),
    "max_broken_share": ("folder", "hub", "records", *_OF_PAIRS),
    "workers": ("folder", "hub", "records", *_OF_PAIRS),
    "value_range": ("arrays",),
    "image_key": ("arrays", "hub"),
    "label_key": ("arrays", "hub"),
    "binarise": ("mnist", "stacked_mnist", "factors"),
    "drawn_by": ("emoji", "unpaired_emoji"),
}

# Configurations -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Data:
    """Which images, and how they are prepared."""

    name: Literal[*DATASETS] = "mnist"
    """An embedded set, or with a path `folder`, `arrays` (.npz, .npy), `hub`, `records` (by `jaxgen convert`); and
    with sources `pairs` (files of one name in two folders), `halves` (of a picture), `unpaired` (two folders)."""
    path: str | None = None
    """Of the folder or array file; or the hub's owner/name. Of `pairs` and `unpaired`: the folder of the sources."""
    target_path: str | None = None
    """For `pairs` and `unpaired`: the folder of what should come out."""
    test_path: str | None = None
    """The folder or array file that evaluation uses; of a folder with train/ and test/ in it the latter by default."""
    test_target_path: str | None = None
    """For `pairs` and `unpaired` with a test_path: the folder of what should come out of it."""
    direction: Literal[*data.pairs.DIRECTIONS] = "left-to-right"
    """For `halves`: which half goes in, and which should come out."""
    labelled: bool | None = None
    """For folders, arrays, records and hub sets: whether there are labels; by default where what there is can be."""
    image_size: Count | None = None
    """Side in pixels; the set's own by default (28 for MNIST, 64 for folders, ...). Arrays are taken as they are."""
    channels: Literal[1, 3] = 3
    """For folders, records and hub sets: 1 for grey, 3 for colour; records of grey pixels stay grey."""
    background: str = "white"
    """For folders, arrays, records and hub sets: what transparent images are composited on."""
    validation_share: Share = 0.05
    """For folders without test images of their own: share of the files held out for evaluation."""
    num_examples: Count | None = None
    """Train on so many images, evenly spaced in the order of the set; all by default. What is held out stays whole."""
    max_broken_share: WholeShare = 0.01
    """For folders, records and hub sets: share of broken images that is tolerated; one alone is, unless this is 0."""
    value_range: tuple[float, float] | None = None
    """For `arrays`: the values of black and white, such as 0 1."""
    image_key: str | None = None
    """For `arrays` and hub sets: the name of the array or column of images, where it cannot be guessed."""
    label_key: str | None = None
    """For `arrays` and hub sets: that of the labels."""
    workers: CountOrZero = 0
    """Processes that read ahead, for sets that are too large for memory (pip install "jaxgen[grain]"); 0: threads."""
    binarise: Literal[*BINARISATIONS] = "none"
    """For MNIST and factors: a Bernoulli draw at each visit (dynamic) or once (static), a threshold, or grey levels."""
    drawn_by: Literal["noto", "twemoji"] = "noto"
    """For emoji: the house that drew what should come out; the other one's drawings are beside it."""

    def open(self, split: Literal["train", "test"]) -> data.Dataset:
        """The data set.

        Raises:
          ValueError, FileNotFoundError and others: what opening the data raises.
        """
        dataset = lookup(DATASETS, self.name, "data set")(self, split)
        if split == "train" and self.num_examples is not None:
            dataset = data.subset(dataset, self.num_examples)
        dataset = dataclasses.replace(dataset, workers=self.workers)
        if self.labelled and not dataset.class_names:
            raise ValueError(
                f"--data.labelled is True, but {dataset.name} has no labels: put images into one folder a class, save "
                "the labels of arrays as `label`, or name them with --data.label-key"
            )
        return dataset

    @property
    def has_test_split(self) -> bool:
        """Whether there are images to evaluate on."""
        if self.name == "folder":
            return self.validation_share > 0 or test_folder(self) is not None
        if self.name in _OF_PAIRS:
            return self.validation_share > 0 or pair_options.test_folders(self) is not None
        if self.name == "records":
            return data.records.has_split(self.path or "", "test")
        return self.test_path is not None if self.name == "arrays" else self.name != "hub"


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimiser with its clip, skip and schedule."""

    name: Literal[*OPTIMIZERS] = "adam"
    """The rule."""
    learning_rate: Positive = 2e-4
    """At the start of the schedule."""
    b1: Annotated[float, Range(-1, 1, open_most=True)] = 0.9
    """Decay of the first moment; momentum for sgd and rmsprop."""
    b2: Share = 0.999
    """Decay of the second moment; for sgd without meaning."""
    eps: Weight = 1e-8
    """Added to the denominator."""
    weight_decay: Weight = 0.0
    """For adamw."""
    schedule: Literal[*SCHEDULES] = "constant"
    """Of the rate over num_steps: linear (all of them, or the last half or quarter) and cosine end at 0, stages (of the
    IWAE paper) at a tenth."""
    warmup_steps: CountOrZero = 0
    """First updates, over which the learning rate rises linearly from 0 to its schedule."""
    clip_norm: Norm | None = None
    """Scale the gradient down to this global norm."""
    skip_norm: Norm | None = None
    """Skip an update whose gradient has this global norm or more before the clip, or is not finite."""
    max_skips: Count | None = None
    """Skipped updates in a row after which a large one is done, so that none of them stops a run; None: no limit."""

    def rate(self, num_steps: int) -> optax.Schedule:
        """The learning rate as a function of the step."""
        return self._warmed_up(lookup(SCHEDULES, self.schedule, "schedule")(self.learning_rate, num_steps))

    def _warmed_up(self, rate: optax.Schedule) -> optax.Schedule:
        if not self.warmup_steps:
            return rate
        rising = optax.linear_schedule(0.0, 1.0, self.warmup_steps)
        return lambda step: rising(step) * rate(step)

    def rule(self, rate: Any) -> optax.GradientTransformation:
        """The optimiser alone, at a rate or a schedule."""
        return lookup(OPTIMIZERS, self.name, "optimiser")(self, rate)

    def build(
        self, num_steps: int, *, rate: optax.Schedule | None = None, b2: optax.Schedule | None = None
    ) -> optax.GradientTransformation:
        """skip(chain(clip, optimiser)).

        Args:
          num_steps: of the training, over which a schedule goes.
          rate, b2: functions of the step in the place of the group's own numbers.

        Raises:
          ValueError: for numbers that `check` refuses, such as a rate of zero.
        """
        check(self)
        rate = self.rate(num_steps) if rate is None else self._warmed_up(rate)
        if b2 is None:
            transformation = self.rule(rate)
        else:
            of_b2 = optax.inject_hyperparams(lambda b2: dataclasses.replace(self, b2=b2).rule(rate))
            transformation = of_b2(b2=b2)
        if self.clip_norm is not None:
            transformation = optax.chain(optim.clip_by_global_norm(self.clip_norm), transformation)
        if self.skip_norm is not None:
            transformation = optim.skip_large_updates(transformation, self.skip_norm, most_in_a_row=self.max_skips)
        return transformation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What all experiments have."""

    data: Data = Data()
    """Which images, and how they are prepared."""
    batch_size: Count = 64
    """Images in a step (for each discriminator step), over all devices and hosts."""
    num_steps: Count = 10_000
    """Train steps in all, counted from the run's beginning."""
    seed: Seed = 0
    """Of the initialisation, the noise and the order of the data."""
    precision: Literal[*PRECISIONS] = "float32"
    """Of the computation; parameters are always float32."""
    num_devices: Count | None = None
    """All by default."""
    state: Literal[*STATES] = "replicated"
    """Parameters, optimisers and averages: on every device, or divided over them, for networks too big for one."""
    remat: Literal[*rematerialisation.FORMS] = "none"
    """What is computed again on the way back instead of kept: less memory, more time, the same numbers."""
    log_every: Count = 100
    """Steps between lines of the log and of the console, each a mean over these steps."""
    sample_every: CountOrZero = 1000
    """Steps between pictures of samples."""
    evaluate_every: CountOrZero = 0
    """Steps between evaluations; 0: only at the end, as for all intervals but log_every."""
    checkpoint_every: CountOrZero = 1000
    """Steps between checkpoints: what a kill may cost, or twice that while the newest one is still being written."""
    keep_last: Count = 3
    """How many of the newest checkpoints to keep, beside the best."""
    max_rollbacks: CountOrZero = 0
    """How often to go back to the last checkpoint when a loss is not finite; 0: stop."""
    ema_half_life: Weight = 0.0
    """Of the moving average of the weights, in images; 0: the latest weights."""
    micro_batches: Count = 1
    """Slices of a batch whose gradients are added up: the memory of one slice."""
    eval_metric: Literal["none", *comparison.OF_EVALUATION] = "none"
    """Of what is drawn, against the test split, every evaluate_every steps; the best checkpoint by it is kept."""
    eval_images: Count = 2000
    """How many images to draw for it, and how many of the test split to compare them with."""

    def wrap(self, dataset: Dataset, split: Literal["train", "test"]) -> Dataset:
        """What the system makes of its data before it reads them: the same images, here as they are.

        Settings of a system that makes images of images override this, to put a `source` or a `mask` beside them, see
        `data.degraded`. The data may be a stand-in that has the right shapes and names, and no content.
        """
        del split
        return dataset

    def open(self, split: Literal["train", "test"]) -> Dataset:
        """The data as the system reads them; `data.open` gives the images alone, which others are compared with.

        Raises:
          ValueError, FileNotFoundError and others: what opening the data raises.
        """
        return self.wrap(self.data.open(split), split)

    @property
    def dtype(self) -> Any:
        """Of the computation."""
        return lookup(PRECISIONS, self.precision, "precision")

    @property
    def state_rule(self) -> state_sharding.Rule:
        """Where the state lies."""
        return lookup(STATES, self.state, "place of the state")

    @property
    def ema_decay(self) -> network.Decay:
        """The half-life as decay a step; the average starts as a plain mean, free of the initialisation."""
        return network.warmed_up(0.5 ** (self.batch_size / self.ema_half_life)) if self.ema_half_life > 0 else 0.0

    @property
    def gradients(self) -> ways.Way:
        """How gradients are taken."""
        return ways.accumulated(self.micro_batches)

    @property
    def weights(self) -> dict[str, str]:
        """Which weights are evaluated, and the precision in which they compute, in words."""
        half_life = self.ema_half_life
        weights = f"moving average, half-life {half_life:,.0f} images" if half_life > 0 else "the latest"
        return {"weights": weights, "precision": self.precision}

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """The groups of settings that are optimisers."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Optimizer)}


# Looking names up -----------------------------------------------------------------------------------------------------


MOST_TO_LIST = 60
"""Names in an error; of more, the nearest."""


def lookup(table: Mapping[str, Any], name: str, kind: str) -> Any:
    """table[name], or a ValueError that suggests the nearest name."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name.lower(), table, n=6, cutoff=0.4)
    if len(table) > MOST_TO_LIST and near:
        others = f" (or {', '.join(near[1:])})" if near[1:] else ""
        raise ValueError(f"there is no {kind} {name!r}; did you mean {near[0]!r}{others}? There are {len(table)}")
    hint = f"did you mean {near[0]!r}? There is" if near else "there is"
    raise ValueError(f"there is no {kind} {name!r}; {hint}: {', '.join(table)}")


def _binarise(config: Data) -> Callable:
    return lookup(BINARISATIONS, config.binarise, "binarisation")


def _open_folder(config: Data, split: str) -> data.Dataset:
    path, settings = folder_of(config, split)
    return data.image_folder(
        path,
        image_size=config.image_size or 64,
        channels=config.channels,
        background=config.background,
        **settings,
    )


def folder_of(config: Data, split: str) -> tuple[str, dict[str, Any]]:
    """Where the images of a split of a folder lie, and which: the arguments of `data.folder.find_images`."""
    root, test = _needs_path(config), test_folder(config)
    common = {"max_broken_share": config.max_broken_share, "tell": data.reading.as_warning}
    train = os.path.join(root, data.folder.split_folders(root).get("train", ""))
    if test is None:
        part = {"train": "train", "test": "validation"}[split]
        share = config.validation_share
        return train, {"labelled": config.labelled, "split": part, "validation_share": share} | common
    if split == "train":
        return train, {"labelled": config.labelled} | common
    # The same class has the same number on both sides, also where one of them lacks some.
    names = () if config.labelled is False else data.folder.class_names_of(train, config.labelled)
    return test, {"labelled": bool(names), "class_names": names or None} | common


def test_folder(config: Data) -> str | None:
    """The folder of held-out images that are not a share of the others."""
    if config.test_path:
        return config.test_path
    with contextlib.suppress(OSError):
        folder = config.path or ""
        splits = data.folder.split_folders(folder)
        for name in ("test", "validation"):
            if name in splits:
                return os.path.join(folder, splits[name])
    return None


def _open_arrays(config: Data, split: str) -> data.Dataset:
    train, names = _needs_path(config), tuple[str, ...]()
    path = train if split == "train" else _needs_path(config, "test_path")
    if split == "test" and config.labelled is not False:
        with contextlib.suppress(OSError, ValueError):  # training images that are not there name no classes
            if data.arrays.class_names_of(path, config.label_key):
                names = data.arrays.class_names_of(train, config.label_key)
    dataset = data.array_file(
        path,
        value_range=config.value_range,
        image_key=config.image_key,
        label_key=config.label_key,
        class_names=names,
        labelled=config.labelled,
        background=config.background,
        tell=data.reading.as_warning,
    )
    height, width = dataset.image_shape[:2]
    if config.image_size is not None and (height, width) != (config.image_size, config.image_size):
        warnings.warn(
            f"--data.image-size {config.image_size} (perhaps the preset's) does not apply to array files: the images "
            f"of {path} are {width}x{height}, and taken as they are. Resize the arrays, or save them as pictures in a "
            "folder, which are resized",
            stacklevel=4,
        )
    return dataset


def check_data(config: Data, stored: Mapping[str, Any]) -> None:
    """Refuses settings that mean nothing for the kind of data, which would be ignored.

    Args:
      config: what is asked.
      stored: of the run that goes on, which may have been begun before this was refused; {} for a new one.

    Raises:
      ValueError: naming the setting as its flag is, and what to do.
    """
    for field in dataclasses.fields(config):
        kinds, value = OF_DATA.get(field.name), getattr(config, field.name)
        if kinds is None or config.name in kinds or value == field.default:
            continue
        as_json = list(value) if isinstance(value, tuple) else value
        if stored.get("name") == config.name and stored.get(field.name, field.default) in (value, as_json):
            continue
        flag = f"--data.{field.name.replace('_', '-')}"
        raise ValueError(
            f"{flag} is {value}, which means nothing for --data.name {config.name}: it is for {', '.join(kinds)}. Give "
            f"{flag} {field.default} (a preset may have brought it), or another --data.name"
        )


def _needs_path(config: Data, field: str = "path") -> str:
    value = getattr(config, field)
    if not value:
        raise ValueError(f"the data set {config.name!r} needs --data.{field.replace('_', '-')}")
    return value


# Checked settings -----------------------------------------------------------------------------------------------------


def square_size(image_shape: tuple[int, int, int], model: str) -> int:
    """The side of square images [H, W, C].

    Raises:
      ValueError: for others, naming what needs them.
    """
    height, width, _ = image_shape
    if height != width:
        raise ValueError(
            f"{model} makes square images, but the data are {height}x{width}; see --data.image-size, which is for "
            "folders and hub sets; arrays must be square themselves"
        )
    return height


def check(settings: Any, prefix: str = "") -> None:
    """Refuses settings that mean nothing, before anything long starts. What the data must fit is checked with them.

    Args:
      settings: a configuration, or a group of one.
      prefix: of its settings' names.

    Raises:
      ValueError: naming the setting as its flag is, its value and what is allowed.
    """
    for name, kind, value in ranges.fields(settings):
        if dataclasses.is_dataclass(value) and dataclasses.is_dataclass(kind):
            check(value, f"{prefix}{name}.")
        elif dataclasses.is_dataclass(kind):
            raise ValueError(f"{ranges.flag(name, prefix)} is a group of settings, not {value!r:.80}")
        elif typing.get_origin(kind) is Literal and isinstance(value, str):  # the nearest is suggested
            if isinstance(settings, Run):  # those of a group are looked up where it is used
                lookup(dict.fromkeys(map(str, typing.get_args(kind))), value, name)
        elif allowed := ranges.broken(kind, value):
            raise ValueError(f"{ranges.flag(name, prefix)} must be {allowed}, not {value!r:.80}")
    if isinstance(settings, Data) and settings.name in ("folder", "arrays", "records", *_OF_PAIRS):
        for name in ("path", "target_path", "test_path", "test_target_path"):
            if getattr(settings, name) is not None:
                local_path.local(getattr(settings, name), ranges.flag(name, prefix))


def flags_named_in(text: str, config: Any, prefix: str = "") -> list[str]:
    """The flags of settings that a message of the library calls by their names in Python, such as `max_broken_share`.

    Names of one word count with a value only, such as `labelled=False`: `name` and `path` are English, too.
    """
    flags = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flags += flags_named_in(text, value, f"{prefix}{field.name}.")
        elif re.search(rf"(?<![\w/.]){field.name}" + (r"(?![\w/])" if "_" in field.name else "=(True|False)"), text):
            flags.append(f"--{prefix}{field.name}".replace("_", "-"))
    return flags
