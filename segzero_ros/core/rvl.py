"""RVL, the fast lossless packing of 16-bit depth that image_transport's compressedDepth may use (Wilson, ISS 2017).

After the width and height the data is words of 32 bits, each with eight groups of four from the top down. A number is
the groups up to the first without its highest bit, their lower three bits each, lowest first. The numbers are, in turn:
how many pixels are zero, how many are not, and for each of these its difference to the one before, zigzag.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.contract import SegzeroError
from segzero_ros.core.pixels import check_size, unsupported

MOST_GROUPS = 10  # of a number that fits into 31 bits
MOST_PIXELS = 10_000_000  # some 4 bytes of data each, and ten times as many while they are read


def decode_rvl(data: bytes | memoryview) -> NDArray[np.uint16]:
    """(H, W). Raises SegzeroError(UNSUPPORTED_ENCODING) for data that is no picture or has a size that is not taken."""
    if len(data) < 8:
        raise _damaged()
    width, height = (int(n) for n in np.frombuffer(data[:8], "<u4"))
    check_size(height, width)
    if height * width > MOST_PIXELS:
        raise unsupported(f"RVL of {width} x {height} pixels is not taken; it may have up to {MOST_PIXELS:,}")
    size = min(len(data) - 8, 4 * height * width + 8) // 4 * 4
    numbers = _numbers(np.frombuffer(data[8 : 8 + size], np.uint8))
    pixels = np.zeros(height * width, np.uint16)
    valid, steps = _runs(numbers, len(pixels))
    # One chain of differences runs through all that is not zero; modulo 65536, as it was packed.
    pixels[valid] = np.cumsum((steps >> 1) ^ -(steps & 1), dtype=np.int64).astype(np.uint16)
    return pixels.reshape(height, width)


def _runs(numbers: NDArray[np.int32], pixels: int) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Which of the pixels are not zero, and the numbers that tell how they differ."""
    valid, is_step = np.zeros(pixels, np.bool_), np.zeros(len(numbers), np.bool_)
    at = done = 0
    while done < pixels:
        if at + 2 > len(numbers):
            raise _damaged()
        done += int(numbers[at])
        count = int(numbers[at + 1])
        if numbers[at] + count == 0 or done + count > pixels or at + 2 + count > len(numbers):
            raise _damaged()
        valid[done : done + count] = True
        is_step[at + 2 : at + 2 + count] = True
        done, at = done + count, at + 2 + count
    return valid, numbers[is_step]


def _numbers(data: NDArray[np.uint8]) -> NDArray[np.int32]:
    """All whole numbers of the words, not negative."""
    from_top = data.reshape(-1, 4)[:, ::-1].reshape(-1)
    groups = np.stack([from_top >> 4, from_top & 15], axis=1).reshape(-1)
    ends = np.flatnonzero(groups < 8).astype(np.int32)
    lengths = np.diff(ends, prepend=np.int32(-1))
    most = int(lengths.max(initial=0))
    if most > MOST_GROUPS:
        raise _damaged()
    numbers = np.zeros(len(ends), np.int32)
    for n in range(most):  # from the last group of each number to its first
        numbers <<= np.where(lengths > n, 3, 0).astype(np.int32)
        numbers |= np.where(lengths > n, groups[np.maximum(ends - n, 0)] & 7, 0).astype(np.int32)
    return numbers


def _damaged() -> SegzeroError:
    return unsupported("it is damaged or cut short")
