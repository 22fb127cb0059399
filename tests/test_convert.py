"""ROS images become the same picture whatever their encoding, padding and byte order; what is no picture is refused."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.ros.convert import (
    LAYOUTS,
    bytes_array,
    compressed_from_msg,
    compressed_to_msg,
    image_from_msg,
    image_to_msg,
)

Array = NDArray[Any]

MOSAICS = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}
BAYER = [f"bayer_{name}{bits}" for name in MOSAICS for bits in (8, 16)]
PACKED = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "8UC1": 1, "8UC3": 3, "mono8": 1}
DEEP = ["mono16", "16UC1"]
YUV422 = ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"]
NV = ["nv12", "nv21"]
EVERY = [*PACKED, *DEEP, *BAYER, *YUV422, *NV]


def data_shape(encoding: str, height: int, width: int) -> tuple[int, int]:
    """Rows, and bytes in a row without padding."""
    if encoding in NV:
        return height * 3 // 2, width
    if encoding in YUV422:
        return height, 2 * width
    if encoding in DEEP or encoding.endswith("16"):
        return height, 2 * width
    return height, width * PACKED.get(encoding, 1)


def message(encoding: str, rows: Array, height: int, width: int, big: bool = False, padding: int = 0) -> Image:
    """The rows (bytes) with noise as padding behind each."""
    noise = np.random.default_rng(1).integers(0, 256, (len(rows), padding), np.uint8)
    data = np.hstack([rows, noise]).tobytes()
    return Image(
        encoding=encoding,
        height=height,
        width=width,
        step=rows.shape[1] + padding,
        is_bigendian=int(big),
        data=bytes_array(data),
    )


def noise_message(encoding: str, height: int = 6, width: int = 8, seed: int = 0, **more: Any) -> Image:
    shape = data_shape(encoding, height, width)
    return message(encoding, np.random.default_rng(seed).integers(0, 256, shape, np.uint8), height, width, **more)


def rgb_of_yuv(y: Array, u: Array, v: Array) -> Array:
    """BT.601, limited range."""
    y, u, v = 255 / 219 * (y.astype(float) - 16), u.astype(float) - 128, v.astype(float) - 128
    y = np.maximum(y, 0)
    return np.stack([y + 1.596 * v, y - 0.813 * v - 0.391 * u, y + 2.018 * u], -1).round().clip(0, 255)


def expected(encoding: str, rows: Array, height: int, width: int, big: bool) -> Array:
    if encoding in PACKED:
        pixels = rows.reshape(height, width, -1)
        if pixels.shape[2] == 1:
            return pixels.repeat(3, 2)
        return pixels[:, :, [2, 1, 0]] if encoding in ("bgr8", "bgra8", "8UC3") else pixels[:, :, :3]
    if encoding in DEEP:
        high, low = rows.reshape(height, width, 2).astype(float).transpose(2, 0, 1)[:: 1 if big else -1]
        value = 256 * high + low
        return (value / (65535 if encoding == "mono16" else value.max()) * 255)[:, :, None].repeat(3, 2)
    if encoding in YUV422:
        a, b, c, d = rows.reshape(height, width // 2, 4).transpose(2, 0, 1)
        u, y1, v, y2 = (a, b, c, d) if encoding in ("yuv422", "uyvy") else (b, a, d, c)
        return rgb_of_yuv(np.stack([y1, y2], -1).reshape(height, width), u.repeat(2, 1), v.repeat(2, 1))
    chroma = rows[height:].reshape(height // 2, width // 2, 2).repeat(2, 0).repeat(2, 1)
    u, v = chroma.transpose(2, 0, 1)[:: 1 if encoding == "nv12" else -1]
    return rgb_of_yuv(rows[:height], u, v)


def refusal(msg: Any) -> str:
    read = compressed_from_msg if isinstance(msg, CompressedImage) else image_from_msg
    with pytest.raises(SegzeroError) as error:
        read(msg)
    assert error.value.status is Status.UNSUPPORTED_ENCODING
    return error.value.message


def test_no_encoding_is_forgotten_here() -> None:
    assert sorted(LAYOUTS) == sorted(EVERY)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", [*PACKED, *DEEP, *YUV422, *NV])
def test_colours_are_what_the_encoding_says(encoding: str, big: bool) -> None:
    rows = np.random.default_rng(2).integers(0, 256, data_shape(encoding, 16, 24), np.uint8)
    image = image_from_msg(message(encoding, rows, 16, 24, big))
    assert image.dtype == np.uint8 and image.shape == (16, 24, 3) and image.flags.c_contiguous
    allowed = 0 if encoding in PACKED else 1 if encoding in DEEP else 2
    assert np.abs(image - expected(encoding, rows, 16, 24, big)).max() <= allowed


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", BAYER)
def test_a_mosaic_of_one_colour_becomes_that_colour(encoding: str, big: bool) -> None:
    colour = {"R": 200, "G": 90, "B": 30}
    tile = np.array([colour[c] for c in MOSAICS[encoding[6:10]]], np.uint8).reshape(2, 2)
    mosaic = np.tile(tile, (5, 6))
    rows = mosaic
    if encoding.endswith("16"):
        rows = (mosaic.astype(np.uint16) * 257).astype(">u2" if big else "<u2").view(np.uint8)
    image = image_from_msg(message(encoding, rows, 10, 12, big, padding=6))
    assert np.abs(image[2:-2, 2:-2].astype(int) - [200, 90, 30]).max() <= 1


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(EVERY), st.integers(1, 9), st.integers(1, 9), st.integers(0, 17), st.booleans(), st.integers(0, 99)
)
def test_padding_changes_nothing(encoding: str, height: int, width: int, padding: int, big: bool, seed: int) -> None:
    if encoding in (*YUV422, *NV):
        height, width = 2 * height, 2 * width
    plain = image_from_msg(noise_message(encoding, height, width, seed, big=big))
    padded = noise_message(encoding, height, width, seed, big=big, padding=padding)
    assert np.array_equal(image_from_msg(padded), plain)
    padded.data = padded.data[: len(padded.data) - padding]
    assert np.array_equal(image_from_msg(padded), plain)
    padded.data = padded.data[:-1]
    assert "needs" in refusal(padded)


@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "bayer_rggb16"])
def test_byte_order_changes_nothing(encoding: str) -> None:
    little, big = noise_message(encoding), noise_message(encoding, big=True)
    big.data = bytes_array(np.frombuffer(little.data, "<u2").astype(">u2").tobytes())
    assert np.array_equal(image_from_msg(little), image_from_msg(big))


@pytest.mark.parametrize("encoding", ["mono16", "bayer_gbrg16"])
def test_the_brightest_sixteen_bits_are_white(encoding: str) -> None:
    assert image_from_msg(message(encoding, np.full((6, 16), 255, np.uint8), 6, 8)).min() == 255


def test_a_depth_image_is_as_bright_as_its_farthest_pixel() -> None:
    depth = np.array([[0, 500, 1000]], "<u2")
    assert image_from_msg(message("16UC1", depth.view(np.uint8), 1, 3))[0, :, 0].tolist() == [0, 127, 255]
    assert not image_from_msg(message("16UC1", np.zeros((2, 6), np.uint8), 2, 3)).any()


def test_a_step_of_zero_means_no_padding() -> None:
    msg = noise_message("rgb8")
    plain = image_from_msg(msg)
    msg.step = 0
    assert np.array_equal(image_from_msg(msg), plain)


@pytest.mark.parametrize("encoding", ["32FC1", "rgb16", "RGB8", "", "jpeg", "\0" * 500])
def test_an_unknown_encoding_is_named_with_those_that_are_taken(encoding: str) -> None:
    msg = noise_message("rgb8")
    msg.encoding = encoding
    sentence = refusal(msg)
    assert repr(encoding[:40]) in sentence and all(known in sentence for known in LAYOUTS)
    assert len(sentence) < 1000


def test_a_step_that_is_smaller_than_a_row_is_refused() -> None:
    msg = noise_message("rgb8", 2, 4)
    msg.step = 11
    assert refusal(msg) == "step is 11 bytes, but a row of 4 rgb8 pixels has 12"


@pytest.mark.parametrize("encoding", EVERY)
def test_too_little_data_is_refused(encoding: str) -> None:
    msg = noise_message(encoding)
    need = len(msg.data)
    for count in (0, 1, need - 1):
        msg.data = bytes_array(bytes(count))
        assert f"{count} bytes" in refusal(msg) and str(need) in refusal(msg)


@pytest.mark.parametrize("encoding", EVERY)
@pytest.mark.parametrize(("height", "width"), [(0, 0), (0, 8), (8, 0), (2**32 - 1, 2**32 - 1)])
def test_a_size_that_no_camera_has_is_refused(encoding: str, height: int, width: int) -> None:
    assert f"{width} x {height}" in refusal(Image(encoding=encoding, height=height, width=width))


@pytest.mark.parametrize(
    ("encoding", "height", "width"), [*((e, 2, 3) for e in (*YUV422, *NV)), *((e, 3, 2) for e in NV)]
)
def test_subsampled_colours_need_an_even_size(encoding: str, height: int, width: int) -> None:
    msg = Image(encoding=encoding, height=height, width=width, step=6, data=bytes_array(bytes(100)))
    assert "even size" in refusal(msg)


@pytest.mark.parametrize("encoding", YUV422)
def test_packed_yuv_may_have_an_odd_height(encoding: str) -> None:
    assert image_from_msg(noise_message(encoding, 3, 4)).shape == (3, 4, 3)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_an_array_comes_back_from_its_message(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    header = Header(frame_id="camera")
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    msg = image_to_msg(rgb, "rgb8", header)
    assert (msg.header, msg.height, msg.width, msg.step) == (header, height, width, 3 * width)
    assert np.array_equal(image_from_msg(msg), rgb)
    assert np.array_equal(image_from_msg(image_to_msg(rgb[:, :, ::-1], "bgr8", header)), rgb)
    grey = rng.integers(0, 256, (height, width), np.uint8)
    assert np.array_equal(image_from_msg(image_to_msg(grey, "mono8", header))[:, :, 1], grey)
    deep = rng.integers(0, 65536, (height, width), np.uint16)
    assert np.abs(image_from_msg(image_to_msg(deep, "mono16", header))[:, :, 2] - deep / 257).max() <= 1


def gradient(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 6 * y, 255 - 4 * x], -1).astype(np.uint8)


def encoded(extension: str, pixels: Array, form: str | None = None) -> CompressedImage:
    data = cv2.imencode(extension, pixels)[1].tobytes()
    return CompressedImage(format=extension[1:] if form is None else form, data=bytes_array(data))


def test_png_comes_back_exactly_and_jpeg_nearly() -> None:
    rgb = gradient()
    assert np.array_equal(compressed_from_msg(encoded(".png", rgb[:, :, ::-1], "rgb8; png compressed bgr8")), rgb)
    jpeg = compressed_from_msg(encoded(".jpg", rgb[:, :, ::-1]))
    assert np.abs(jpeg.astype(int) - rgb).mean() < 3
    assert jpeg.dtype == np.uint8 and jpeg.flags.c_contiguous


def test_the_data_counts_not_the_named_format() -> None:
    assert compressed_from_msg(encoded(".png", gradient(), "")).shape == (40, 60, 3)
    assert compressed_from_msg(encoded(".png", gradient(), "jpeg")).shape == (40, 60, 3)


def test_grey_alpha_and_sixteen_bit_files_become_rgb_too() -> None:
    rgb = gradient()
    grey = compressed_from_msg(encoded(".png", rgb[:, :, 0]))
    assert np.array_equal(grey, rgb[:, :, :1].repeat(3, 2))
    alpha = np.dstack([rgb[:, :, ::-1], np.full((40, 60), 9, np.uint8)])
    assert np.array_equal(compressed_from_msg(encoded(".png", alpha)), rgb)
    deep = compressed_from_msg(encoded(".png", rgb[:, :, ::-1].astype(np.uint16) * 257))
    assert np.abs(deep.astype(int) - rgb).max() <= 1


def test_what_is_no_picture_is_refused() -> None:
    whole = encoded(".png", gradient())
    for data in (b"", b"\xff", b"garbage" * 100, bytes(10_000), bytes(whole.data)[:20]):
        said = refusal(CompressedImage(format="jpeg" * 50, data=bytes_array(data)))
        assert "cannot be decoded" in said and len(said) < 300


def test_compressed_depth_is_refused_by_name() -> None:
    assert "compressedDepth" in refusal(encoded(".png", gradient()[:, :, 0], "16UC1; compressedDepth png"))


def test_a_picture_comes_back_from_its_jpeg() -> None:
    header = Header(frame_id="camera")
    msg = compressed_to_msg(gradient(), header, quality=95)
    assert msg.header == header and "jpeg" in msg.format and bytes(msg.data[:2]) == b"\xff\xd8"
    assert np.abs(compressed_from_msg(msg).astype(int) - gradient()).mean() < 3
    assert len(compressed_to_msg(gradient(), header, quality=20).data) < len(msg.data)
