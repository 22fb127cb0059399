"""ROS images to arrays and back: the only place that touches `Image.data`.

Colours are converted by rosbags-image, at the depth that they have; brightness by core/pixels.py. Row padding, byte
order and planes are undone here first, since it looks at none of them (0.10 reads `step` nowhere, and lays out nv12 by
the image's height). cv_bridge: docs/decisions/no-cv-bridge.md. The rules: docs/images.md.
"""

from __future__ import annotations

import sys
from array import array
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.image.image import convert_color

from segzero_ros.core.contract import Image, SegzeroError
from segzero_ros.core.pixels import check_size, decode_picture, rgb_from_pixels, unsupported
from segzero_ros.core.rvl import decode_rvl

_MOSAICS = {f"bayer_{p}{b}": (f"u{b // 8}", 1) for p in ("rggb", "bggr", "gbrg", "grbg") for b in (8, 16)}
# encoding -> (NumPy's type of a sample, samples of a pixel)
LAYOUTS: dict[str, tuple[str, int]] = {
    **dict.fromkeys(("rgb8", "bgr8", "8UC3"), ("u1", 3)),
    **dict.fromkeys(("rgba8", "bgra8", "8UC4"), ("u1", 4)),
    **dict.fromkeys(("rgb16", "bgr16", "16UC3"), ("u2", 3)),
    **dict.fromkeys(("rgba16", "bgra16", "16UC4"), ("u2", 4)),
    **dict.fromkeys(("mono8", "8UC1"), ("u1", 1)),
    **dict.fromkeys(("mono16", "16UC1"), ("u2", 1)),
    "32FC1": ("f4", 1),
    **_MOSAICS,
    **dict.fromkeys(("yuv422", "uyvy", "yuv422_yuy2", "yuyv"), ("u1", 2)),
    **dict.fromkeys(("nv12", "nv21", "nv24"), ("u1", 1)),
}
_DEPTHS = ("16UC1", "mono16", "32FC1")
_SAME = {"8UC3": "bgr8", "8UC4": "bgra8", "16UC3": "bgr16", "16UC4": "bgra16"}
# A plane of brightness, then one of colours: (rows of the image that share one of colours, its length in such rows).
_PLANES = {"nv12": (2, 1), "nv21": (2, 1), "nv24": (1, 2)}
# nv24's samples to RGB as OpenCV converts nv12's: BT.601, limited range.
_BT601 = np.array(
    [
        [1.164384, 0, 1.596027, -222.921566],
        [1.164384, -0.391762, -0.812968, 135.575408],
        [1.164384, 2.017232, 0, -276.835813],
    ]
)


def image_from_msg(msg: Any) -> Image:
    """sensor_msgs/Image to RGB uint8 (H, W, 3). Sixteen bits are scaled by 255 / 65535; 16UC1 and 32FC1 by their
    largest finite value. Alpha is dropped.

    Raises SegzeroError(UNSUPPORTED_ENCODING) naming what is wrong: encoding, size, step or missing data.
    """
    encoding, height, width = msg.encoding, int(msg.height), int(msg.width)
    if encoding not in LAYOUTS:
        raise unsupported(f"encoding {encoding[:40]!r} is not taken; these are: {', '.join(LAYOUTS)}")
    check_size(height, width)
    if encoding in _PLANES:
        return _rgb_from_planes(np.frombuffer(memoryview(msg.data), np.uint8), encoding, height, width, _step(msg))
    channels = LAYOUTS[encoding][1]
    if channels == 2 and width % 2:
        raise unsupported(f"{encoding} needs an even size, not {width} x {height}")
    pixels = _samples(msg)
    if channels > 1:
        pixels = pixels.reshape(height, width, channels)
    return rgb_from_pixels(_colours(pixels, encoding), depth=encoding == "16UC1")


def depth_from_msg(msg: Any) -> NDArray[np.float32]:
    """Depth as sensor_msgs/Image (16UC1 or mono16: millimetres; 32FC1: metres) or, as image_transport's
    compressedDepth writes them, as CompressedImage, to metres (H, W). What is zero, negative or not finite becomes NaN.

    Raises SegzeroError(UNSUPPORTED_ENCODING) naming what is wrong: encoding, size, step, missing or broken data.
    """
    if hasattr(msg, "format"):
        return _unpacked_depth(msg.format, memoryview(msg.data))
    if msg.encoding not in _DEPTHS:
        raise unsupported(f"encoding {msg.encoding[:40]!r} is no depth; these are: {', '.join(_DEPTHS)}")
    check_size(int(msg.height), int(msg.width))
    return _metres(_samples(msg))


def _unpacked_depth(form: str, data: memoryview) -> NDArray[np.float32]:
    """form: "ENCODING; compressedDepth png". data: an enumeration and two float32, then 16 bits of grey: millimetres,
    or for 32FC1 steps of inverse depth, A / (step - B) with these two."""
    encoding, _, rest = (part.strip() for part in form.partition(";"))
    packing = rest.removeprefix("compressedDepth").strip() or "png"
    if encoding not in _DEPTHS or not rest.startswith("compressedDepth") or packing not in ("png", "rvl"):
        raise unsupported(f"format {form[:60]!r} is no compressed depth, such as '16UC1; compressedDepth png'")
    name = f"the compressed depth ({form[:60]!r}, {len(data)} bytes)"
    try:
        steps = decode_rvl(data[12:]) if packing == "rvl" else decode_picture(data[12:])
    except SegzeroError as error:
        raise SegzeroError(error.status, f"{name} cannot be decoded: {error.message}") from error
    if steps.ndim != 2 or steps.dtype != np.uint16:
        raise unsupported(f"{name} has no 16 bits of grey")
    if encoding != "32FC1":
        return _metres(steps)
    a, b = np.frombuffer(data[4:12], "<f4").astype(np.float32)
    with np.errstate(all="ignore"):
        return _metres(np.where(steps > 0, a / (steps - b), np.float32(0)).astype(np.float32))


def _metres(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Millimetres in uint16 or metres in float32, (H, W)."""
    if samples.dtype == np.uint16:
        metres = np.divide(samples, np.float32(1000), dtype=np.float32)
        metres[samples == 0] = np.nan
        return metres
    with np.errstate(invalid="ignore"):
        return np.where((samples > 0) & (samples < np.inf), samples, np.float32(np.nan))


def compressed_from_msg(msg: Any) -> Image:
    """sensor_msgs/CompressedImage (JPEG, PNG, ...) to RGB uint8 (H, W, 3), not turned by its EXIF orientation.

    The picture's bytes tell what it is. The format string is asked only for what they cannot tell, as image_transport
    writes it, "ENCODING; png compressed STORED": whether 16 bits of grey are 16UC1, and, where STORED is empty because
    nothing was converted, whether grey is a mosaic and whether a TIFF has red and blue in each other's place.

    Raises SegzeroError(UNSUPPORTED_ENCODING).
    """
    encoding, _, rest = msg.format.partition(";")
    if "compressedDepth" in msg.format:
        raise unsupported("compressedDepth is no colour image")
    try:
        pixels = decode_picture(memoryview(msg.data))
    except SegzeroError as error:
        name = f"the compressed image ({msg.format[:40]!r}, {len(msg.data)} bytes)"
        raise SegzeroError(error.status, f"{name} cannot be decoded: {error.message}") from error
    if rest.strip().endswith("compressed"):
        if encoding in _MOSAICS and pixels.ndim == 2 and pixels.dtype == _MOSAICS[encoding][0]:
            pixels = _colours(pixels, encoding)
        elif encoding in ("rgb8", "rgba8", "rgb16", "rgba16") and pixels.ndim == 3 and "tiff" in rest:
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
    return rgb_from_pixels(pixels, depth=encoding == "16UC1" and pixels.ndim == 2 and pixels.dtype == np.uint16)


def _step(msg: Any) -> int:
    """Bytes from one row to the next."""
    kind, channels = LAYOUTS[msg.encoding]
    row = int(msg.width) * channels * np.dtype(kind).itemsize
    step = int(msg.step) or row
    if step < row:
        raise unsupported(f"step is {step} bytes, but a row of {msg.width} {msg.encoding} pixels has {row}")
    return step


def _samples(msg: Any) -> NDArray[Any]:
    """(H, W * channels) of any encoding but planes, in this machine's byte order; a view where nothing is undone."""
    height, step = int(msg.height), _step(msg)
    kind, channels = LAYOUTS[msg.encoding]
    sample = np.dtype(kind).newbyteorder(">" if msg.is_bigendian else "<")
    row = int(msg.width) * channels * sample.itemsize
    data = np.frombuffer(memoryview(msg.data), np.uint8)
    if len(data) < step * (height - 1) + row:  # the last row's padding may be missing
        name = f"{msg.width} x {height} {msg.encoding}"
        raise unsupported(f"the data has {len(data)} bytes, but {name} needs {step * height}")
    return _rows(data, 0, height, row, step).view(sample).astype(kind, copy=False)


def _rows(data: NDArray[np.uint8], start: int, rows: int, row: int, step: int) -> NDArray[np.uint8]:
    """(rows, row) bytes without padding; not a copy if there is none."""
    return np.ascontiguousarray(np.ndarray((rows, row), np.uint8, data, start, (step, 1)))


def _colours(pixels: NDArray[Any], encoding: str) -> NDArray[Any]:
    """Any encoding but planes to RGB (H, W, 3) of the same depth; grey stays grey."""
    if pixels.ndim == 2 and encoding not in _MOSAICS:
        return pixels
    return np.asarray(convert_color(pixels, _SAME.get(encoding, encoding), f"rgb{8 * pixels.itemsize}"))


def _rgb_from_planes(data: NDArray[np.uint8], encoding: str, height: int, width: int, step: int) -> Image:
    shared, length = _PLANES[encoding]
    if shared == 2 and (width % 2 or height % 2):
        raise unsupported(f"{encoding} needs an even size, not {width} x {height}")
    rows, row = height // shared, width * length  # of colours
    if len(data) == step * height == width * height + row * rows:
        step = width  # some drivers divide the size of both planes by the height
    needed = step * height + step * length * rows
    if len(data) < needed - length * (step - width):  # the last row's padding may be missing
        raise unsupported(f"the data has {len(data)} bytes, but {width} x {height} {encoding} needs {needed}")
    luma = _rows(data, 0, height, width, step)
    chroma = _rows(data, step * height, rows, row, step * length).reshape(rows, -1, 2)
    if encoding == "nv24":  # OpenCV has no code for it
        return np.asarray(cv2.transform(np.dstack((np.maximum(luma, 16), chroma)), _BT601), np.uint8)
    code = cv2.COLOR_YUV2RGB_NV12 if encoding == "nv12" else cv2.COLOR_YUV2RGB_NV21
    return np.asarray(cv2.cvtColorTwoPlane(luma, chroma, code), np.uint8)


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
