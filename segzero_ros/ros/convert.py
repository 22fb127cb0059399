"""ROS images to arrays and back: the only place that touches `Image.data`.

Colours are converted by rosbags-image. Row padding and byte order are undone here first, since it looks at neither
(0.10 reads `step` nowhere, and lays out nv12 by the image's height). cv_bridge: docs/decisions/no-cv-bridge.md.
"""

from __future__ import annotations

import sys
from array import array
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.image.image import convert_color

from segzero_ros.core.contract import Image, SegzeroError, Status

# encoding -> (bytes per channel, channels, rows of data per image row)
_BAYER = {f"bayer_{p}{b}": (b // 8, 1, 1.0) for p in ("rggb", "bggr", "gbrg", "grbg") for b in (8, 16)}
LAYOUTS: dict[str, tuple[int, int, float]] = {
    "rgb8": (1, 3, 1.0),
    "bgr8": (1, 3, 1.0),
    "rgba8": (1, 4, 1.0),
    "bgra8": (1, 4, 1.0),
    "8UC1": (1, 1, 1.0),
    "8UC3": (1, 3, 1.0),
    "mono8": (1, 1, 1.0),
    "mono16": (2, 1, 1.0),
    "16UC1": (2, 1, 1.0),
    **_BAYER,
    "yuv422": (1, 2, 1.0),
    "uyvy": (1, 2, 1.0),
    "yuv422_yuy2": (1, 2, 1.0),
    "yuyv": (1, 2, 1.0),
    "nv12": (1, 1, 1.5),
    "nv21": (1, 1, 1.5),
}
_SAME = {"8UC1": "mono8", "8UC3": "bgr8", "16UC1": "mono16"}
MAX_PIXELS = 100_000_000


def image_from_msg(msg: Any) -> Image:
    """sensor_msgs/Image to RGB uint8 (H, W, 3). Sixteen bits are scaled by 255 / 65535; 16UC1 by its largest value.

    Raises SegzeroError(UNSUPPORTED_ENCODING) naming what is wrong: encoding, size, step or missing data.
    """
    encoding, height, width = msg.encoding, int(msg.height), int(msg.width)
    if encoding not in LAYOUTS:
        raise _unsupported(f"encoding {encoding[:40]!r} is not taken; these are: {', '.join(LAYOUTS)}")
    depth, channels, rows_per_row = LAYOUTS[encoding]  # depth: bytes per channel
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise _unsupported(f"an image of {width} x {height} pixels is not taken")
    if (channels == 2 and width % 2) or (rows_per_row == 1.5 and (width % 2 or height % 2)):
        raise _unsupported(f"{encoding} needs an even size, not {width} x {height}")
    rows, row = int(height * rows_per_row), width * channels * depth
    step = int(msg.step) or row
    if step < row:
        raise _unsupported(f"step is {step} bytes, but a row of {width} {encoding} pixels has {row}")
    data = np.frombuffer(memoryview(msg.data), np.uint8)
    # The last row's padding may be missing.
    if len(data) < step * (rows - 1) + row:
        raise _unsupported(f"the data has {len(data)} bytes, but {width} x {height} {encoding} needs {step * rows}")
    if len(data) < step * rows:
        data = np.concatenate((data, np.zeros(step * rows - len(data), np.uint8)))
    pixels = np.ascontiguousarray(data[: step * rows].reshape(rows, step)[:, :row])
    if depth == 2:
        pixels = pixels.view(">u2" if msg.is_bigendian else "<u2").astype(np.uint16)
    pixels = pixels.reshape((rows, width, channels) if channels > 1 else (rows, width))
    if encoding == "16UC1":
        brightest = int(pixels.max())
        pixels = (pixels.astype(np.float32) * (255.0 / brightest if brightest else 0.0)).astype(np.uint8)
        encoding = "mono8"
    return np.ascontiguousarray(convert_color(pixels, _SAME.get(encoding, encoding), "rgb8"), dtype=np.uint8)


def compressed_from_msg(msg: Any) -> Image:
    """sensor_msgs/CompressedImage (JPEG, PNG, ...) to RGB uint8 (H, W, 3).

    Raises SegzeroError(UNSUPPORTED_ENCODING).
    """
    if "compressedDepth" in msg.format:
        raise _unsupported("compressedDepth is no colour image")
    data = np.frombuffer(memoryview(msg.data), np.uint8)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except cv2.error as error:
        raise _unsupported(f"the compressed image cannot be decoded: {str(error).splitlines()[0]}") from error
    if image is None:
        raise _unsupported(f"the compressed image ({msg.format[:40]!r}, {len(data)} bytes) cannot be decoded")
    return np.ascontiguousarray(image[:, :, ::-1])


def image_to_msg(pixels: NDArray[np.generic], encoding: str, header: Any) -> Any:
    """An array (H, W) or (H, W, C) as sensor_msgs/Image with this header."""
    from sensor_msgs.msg import Image as ImageMsg

    pixels = np.ascontiguousarray(pixels)
    msg = ImageMsg(header=header, height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    msg.step = pixels.strides[0]
    msg.is_bigendian = int(sys.byteorder == "big")
    msg.data = bytes_array(pixels.tobytes())
    return msg


def compressed_to_msg(pixels: Image, header: Any, quality: int = 85) -> Any:
    """RGB (H, W, 3) as a JPEG in sensor_msgs/CompressedImage."""
    from sensor_msgs.msg import CompressedImage

    _, jpeg = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=bytes_array(jpeg.tobytes()))


def bytes_array(data: bytes) -> array:  # type: ignore[type-arg]
    """The one type that every distribution's message setters take without looking at each byte."""
    out = array("B")
    out.frombytes(data)
    return out


def _unsupported(sentence: str) -> SegzeroError:
    return SegzeroError(Status.UNSUPPORTED_ENCODING, sentence)
