"""How the settings of data open what comes with sources: pairs of files, halves of pictures, two sets without pairs.

Where images are held out: in folders of their own (`--data.test-path`, `--data.test-target-path`), in `test/` beside
`train/` in both folders, in `testA/` and `testB/` beside `trainA/` and `trainB/` (as CycleGAN's sets), or as a share.
"""

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

from jaxgen import data
from jaxgen.data import folder, pairs, reading

_LETTERS = (("trainA", "trainB"), ("testA", "testB"))


def open_pairs(config: Any, split: str) -> data.Dataset:
    """`--data.name pairs`: files of one name in the folders path and target_path."""
    paths, share = _folders(config, split)
    return _opened(config, pairs.pair_folders, split, share)(*paths)


def open_halves(config: Any, split: str) -> data.Dataset:
    """`--data.name halves`: pictures of the folder path, whose halves are source and image."""
    paths, share = _folders(config, split)
    return _opened(config, pairs.halves, split, share)(*paths, direction=config.direction)


def open_unpaired(config: Any, split: str) -> data.Dataset:
    """`--data.name unpaired`: sources of the folder path, images of target_path."""
    paths, share = _folders(config, split)
    opened = _opened(config, folder.image_folder, split, share)
    return data.unpaired(*(opened(path, labelled=False) for path in paths))


def _opened(config: Any, function: Callable, split: str, share: bool) -> Callable:
    held_out = {"split": {"train": "train", "test": "validation"}[split], "validation_share": config.validation_share}
    return functools.partial(
        function,
        image_size=config.image_size or 64,
        channels=config.channels,
        background=config.background,
        max_broken_share=config.max_broken_share,
        tell=reading.as_warning,
        **(held_out if share else {}),
    )


def _folders(config: Any, split: str) -> tuple[tuple[str, ...], bool]:
    """The folders of a split, and whether they hold both splits, of which it is a share."""
    test = test_folders(config)
    if split == "test" and test is not None:
        return test, False
    return _train_folders(config), test is None


def _train_folders(config: Any) -> tuple[str, ...]:
    root = _needs(config, "path")
    if config.name == "unpaired" and (found := _of_letters(root, _LETTERS[0])) and config.target_path is None:
        return found
    roots = (root,) if config.name == "halves" else (root, _needs(config, "target_path"))
    return tuple(os.path.join(path, folder.split_folders(path).get("train", "")) for path in roots)


def test_folders(config: Any) -> tuple[str, ...] | None:
    """The folders of held-out images that are not a share of the others; None without."""
    if config.test_path:
        return (
            (config.test_path,) if config.name == "halves" else (config.test_path, _needs(config, "test_target_path"))
        )
    root, target = config.path or "", config.target_path or ""
    if config.name == "unpaired" and config.target_path is None:
        return _of_letters(root, _LETTERS[1])
    with contextlib.suppress(OSError):
        roots = (root,) if config.name == "halves" else (root, target)
        splits = [folder.split_folders(path) for path in roots]
        for name in ("test", "validation"):
            if all(name in found for found in splits):
                return tuple(os.path.join(path, found[name]) for path, found in zip(roots, splits, strict=True))
    return None


def _of_letters(root: str, names: tuple[str, str]) -> tuple[str, ...] | None:
    found = tuple(os.path.join(root, name) for name in names)
    return found if all(map(os.path.isdir, found)) else None


def _needs(config: Any, field: str) -> str:
    value = getattr(config, field)
    if not value:
        raise ValueError(f"the data set {config.name!r} needs --data.{field.replace('_', '-')}")
    return value
