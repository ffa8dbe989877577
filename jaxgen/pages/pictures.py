"""Pictures as pages hold them: a PNG file and how large it is shown."""

import struct
from typing import NamedTuple

LARGE = (760, 940)  # pixels that a picture may take on a wide screen


class Picture(NamedTuple):
    """A PNG file.

    label: what stands below it, such as its step; nothing stands there if it is empty.
    data: its bytes.
    width, height: in pixels.
    """

    label: str
    data: bytes
    width: int
    height: int

    @classmethod
    def of(cls, data: bytes, label: str = "") -> "Picture":
        """The picture of these bytes; ValueError for bytes that are no PNG file."""
        if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 33:
            raise ValueError("these bytes are no PNG file; give those of one")
        return cls(label, data, *struct.unpack(">II", data[16:24]))

    @property
    def shown_width(self) -> int:
        """On a wide screen. Whole factors only, so that pixels stay square; a small grid would be a stamp otherwise."""
        return self.width * self._factor

    @property
    def shown_height(self) -> int:
        """Of the same."""
        return self.height * self._factor

    @property
    def _factor(self) -> int:
        return max(1, min(LARGE[0] // max(self.width, 1), LARGE[1] // max(self.height, 1)))
