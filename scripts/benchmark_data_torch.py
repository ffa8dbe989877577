"""The rival of `benchmark_data.py`: torch's DataLoader over a folder, with Pillow. Prints JSON; needs no jaxgen."""

import json
import pathlib
import sys
import time

import numpy as np
import torch
from PIL import Image


class Files(torch.utils.data.Dataset):
    """uint8 [3, H, W] of a file: the largest square in the middle, brought to a size by area averages."""

    def __init__(self, path: str, size: int) -> None:
        self.files, self.size = sorted(pathlib.Path(path).iterdir()), size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> torch.Tensor:
        with Image.open(self.files[row]) as image:
            image = image.convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((self.size, self.size), Image.Resampling.BOX)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def endless(loader):
    """Epoch after epoch."""
    while True:
        yield from loader


def main() -> None:
    """Times batches after a first one."""
    path, workers, batch_size, seconds, size = sys.argv[1], *map(float, sys.argv[2:])
    files, workers, batch_size = Files(path, int(size)), int(workers), int(batch_size)
    first = sum(int(files[row].sum(dtype=torch.int64)) for row in range(batch_size))
    options = {"batch_size": batch_size, "shuffle": True, "num_workers": workers, "drop_last": True}
    batches = endless(torch.utils.data.DataLoader(files, persistent_workers=workers > 0, **options))
    next(batches)
    begun, count = time.monotonic(), 0
    while (passed := time.monotonic() - begun) < seconds:
        next(batches)
        count += batch_size
    print(json.dumps({"images_per_second": count / passed, "first_batch": first, "version": torch.__version__}))


if __name__ == "__main__":
    main()
