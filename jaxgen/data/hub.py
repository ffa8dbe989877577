"""Image data sets by name from the Hugging Face hub, through the optional `datasets` library."""

import os
from collections.abc import Callable

import numpy as np

from jaxgen.data import decode, reading
from jaxgen.data.dataset import Dataset, fingerprint_of, function_name
from jaxgen.data.labels import check_label


def hub_dataset(
    name: str,
    *,
    image_size: int | tuple[int, int],
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
    labelled: bool | None = True,
    channels: int = 3,
    background: str = "white",
    crop: decode.Crop = decode.centre_crop,
    resize: decode.Resize = decode.area,
    max_broken_share: float = 0.01,
    max_bytes_in_memory: int = reading.MAX_BYTES_IN_MEMORY,
    num_threads: int | None = None,
    tell: Callable[[str], None] = reading.logger.warning,
) -> Dataset:
    """Open a data set of the hub, or one saved with `datasets.Dataset.save_to_disk`.

    The library downloads it once and caches it. Images are decoded by `jaxgen.data.decode.decode_image`, as those of a
    folder: the same rules for orientation, transparency and 16 bits, the same treatment of broken ones.

    Args:
        name: "owner/name" on the hub, or the path of a saved data set.
        image_size: the side of a square, or (height, width).
        split: as the data set calls it.
        config_name: for a data set with several configurations.
        revision: a tag or commit of its repository; name one to make a run repeatable.
        image_key: the column of images; needed only if there are several of type Image.
        label_key: the column of integers, class labels or strings (then sorted); found if there is one class label or
            a column called "label".
        labelled: False ignores labels. None does so where what is found cannot be labels, and tells it.
        channels, background, crop, resize: as for `decode_image`.
        max_broken_share, max_bytes_in_memory, num_threads, tell: as for `image_folder`.

    Returns:
        A `Dataset` with `image` [N, H, W, C] and, if there are labels, `label` [N].

    Raises:
        ImportError: if `datasets` is not installed; says how to install it.
        ValueError: if it cannot be loaded, a column is missing or ambiguous, or too many images are broken.
    """
    height, width = decode.image_size_pair(image_size)
    decode.check_pixel_options(channels, background)
    try:
        import datasets
    except ImportError as error:
        raise ImportError('data sets of the hub need one more library: pip install "jaxgen[hub]"') from error
    table = _load(datasets, name, config_name, split, revision)
    if len(table) == 0:
        raise ValueError(f"hub data set {name!r}: split {split!r} is empty")
    image_key = _find_images(datasets, name, table, image_key)
    label, class_names = None, tuple[str, ...]()
    if labelled in (True, None):
        try:
            column = _find_labels(datasets, name, table, label_key)
            if column is not None:
                label, class_names = _labels(datasets, name, table, column)
        except ValueError as error:
            if labelled or label_key is not None:
                raise
            tell(f"{error}. The images are taken without labels")
    # Encoded bytes rather than Pillow images: decode_image then applies the same rules as to files.
    encoded = table.select_columns([image_key]).cast_column(image_key, datasets.Image(decode=False))

    def read(row):
        value = encoded[row][image_key]
        if value is None:
            raise ValueError("no image in this row")
        return decode.decode_image(
            value["path"] if value["bytes"] is None else value["bytes"],
            image_size=(height, width),
            channels=channels,
            background=background,
            crop=crop,
            resize=resize,
        )

    options = (height, width, channels, background, function_name(crop), function_name(resize))
    labels = "unlabelled" if label is None else label
    return reading.from_reader(
        f"hub:{name}/{split}",
        read,
        lambda row: f"row {row}",
        num_examples=len(table),
        image_shape=(height, width, channels),
        label=label,
        class_names=class_names,
        fingerprint=fingerprint_of("hub", name, config_name, split, revision, len(table), options, class_names, labels),
        max_bytes_in_memory=max_bytes_in_memory,
        max_broken_share=max_broken_share,
        num_threads=num_threads,
        tell=tell,
    )


def _load(datasets, name, config_name, split, revision):
    try:
        if os.path.isdir(name) and any(
            os.path.exists(os.path.join(name, file)) for file in ("state.json", "dataset_dict.json")
        ):
            table = datasets.load_from_disk(name)
            if not isinstance(table, datasets.DatasetDict):
                return table
            if split not in table:
                raise ValueError(f"no split {split!r}, only {', '.join(table)}")
            return table[split]
        return datasets.load_dataset(name, config_name, split=split, revision=revision)
    except Exception as error:  # The library raises many kinds: not found, gated, offline, unknown split, ...
        raise ValueError(
            f"hub data set {name!r} (configuration {config_name!r}, split {split!r}) could not be loaded: "
            f"{reading.describe_error(error)}. Check the name, the split and the network; a gated set needs "
            "`hf auth login`"
        ) from error


def _find_images(datasets, name, table, column):
    images = [key for key, feature in table.features.items() if isinstance(feature, datasets.Image)]
    if column is not None:
        if column not in images:
            state = "is not of type Image" if column in table.features else "does not exist"
            raise ValueError(
                f"hub data set {name!r}: column {column!r} {state}; image columns: {', '.join(images) or 'none'}"
            )
        return column
    if len(images) != 1:
        raise ValueError(
            f"hub data set {name!r}: {len(images)} columns of type Image ({', '.join(images) or 'none'}) among "
            f"{', '.join(table.features)}: choose one with image_key"
        )
    return images[0]


def _find_labels(datasets, name, table, column):
    if column is not None:
        if column not in table.features:
            raise ValueError(f"hub data set {name!r}: no column {column!r}, only {', '.join(table.features)}")
        return column
    labels = [key for key, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(labels) > 1 and "label" not in labels:
        raise ValueError(
            f"hub data set {name!r}: several label columns ({', '.join(labels)}): choose one with label_key, or "
            "pass labelled=False"
        )
    if "label" in table.features:
        return "label"
    return labels[0] if labels else None


def _labels(datasets, name, table, column) -> tuple[np.ndarray | None, tuple[str, ...]]:
    where = f"hub data set {name!r}, column {column!r}"
    values = table[column][:]
    num_missing = sum(value is None for value in values)
    if num_missing:
        raise ValueError(
            f"{where}: {num_missing} of {len(values)} labels are missing; pass labelled=False to ignore them"
        )
    label = np.asarray(values)
    if label.dtype.kind in "iu" and (label == -1).all():  # how the hub marks a test set without labels
        return None, ()
    if label.dtype.kind == "U":
        names, label = np.unique(label, return_inverse=True)
        return label.astype(np.int32), tuple(str(class_name) for class_name in names)
    feature = table.features[column]
    class_names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) and feature.names else ()
    check_label(label, len(table), class_names, where)
    return label.astype(np.int32), class_names or tuple(str(i) for i in range(int(label.max()) + 1))
