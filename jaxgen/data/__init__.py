"""Data: sets that ship with the package, image folders, array files, hub sets, toys; batches addressed by step."""

from jaxgen.data import binarisation, decode, toy
from jaxgen.data.arrays import array_file
from jaxgen.data.augmentation import random_flip, random_shift
from jaxgen.data.batches import batch, batch_indices, epoch_permutation, prefetch, process_slice, sequential_batches
from jaxgen.data.check import check_batch, check_images
from jaxgen.data.dataset import Dataset, Factor, fingerprint_of, from_arrays, prepare_default, subset, to_unit_range
from jaxgen.data.emoji import emoji, emoji_captions, emoji_subcategories
from jaxgen.data.factors import factors
from jaxgen.data.folder import image_folder
from jaxgen.data.hub import hub_dataset
from jaxgen.data.mnist import mnist, stacked_mnist

__all__ = [
    "Dataset",
    "Factor",
    "array_file",
    "batch",
    "batch_indices",
    "binarisation",
    "check_batch",
    "check_images",
    "decode",
    "emoji",
    "emoji_captions",
    "emoji_subcategories",
    "epoch_permutation",
    "factors",
    "fingerprint_of",
    "from_arrays",
    "hub_dataset",
    "image_folder",
    "mnist",
    "prefetch",
    "prepare_default",
    "process_slice",
    "random_flip",
    "random_shift",
    "sequential_batches",
    "stacked_mnist",
    "subset",
    "to_unit_range",
    "toy",
]
