"""What fixes the shapes of a two-dimensional convolution."""

from typing import NamedTuple


class Geometry(NamedTuple):
    """Image size, kernel size, strides and padding."""

    image_size: tuple[int, ...]  # of the convolution's input, which is the transposed convolution's output
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # (before, after) along height and width
    groups: int = 1  # channels and outputs are divided into as many, of which none sees another

    @property
    def output_size(self) -> tuple[int, ...]:
        """Height and width of the convolution's output."""
        return tuple(
            (n + before + after - k) // s + 1
            for n, k, s, (before, after) in zip(
                self.image_size, self.kernel_size, self.strides, self.padding, strict=True
            )
        )
