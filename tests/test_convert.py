"""ROS images become the same picture whatever their encoding, padding and byte order; what is no picture is refused."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PIL
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.pixels import MAX_PIXELS, read_image
from segzero_ros.ros.convert import (
    LAYOUTS,
    bytes_array,
    compressed_from_msg,
    compressed_to_msg,
    depth_from_msg,
    image_from_msg,
    image_to_msg,
)

Array = NDArray[Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of what was broken on purpose

MOSAICS = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}
BAYER = [f"bayer_{name}{bits}" for name in MOSAICS for bits in (8, 16)]
PACKED = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "8UC1": 1, "8UC3": 3, "8UC4": 4, "mono8": 1}
WIDE = {"rgb16": 3, "bgr16": 3, "rgba16": 4, "bgra16": 4, "16UC3": 3, "16UC4": 4, "mono16": 1}
DEPTH = ["16UC1", "32FC1"]
YUV422 = ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"]
NV = ["nv12", "nv21"]
EVERY = [*PACKED, *WIDE, *DEPTH, *BAYER, *YUV422, *NV, "nv24"]
BLUE_FIRST = {"bgr8", "bgra8", "8UC3", "8UC4", "bgr16", "bgra16", "16UC3", "16UC4"}
ORDERED = [*WIDE, *DEPTH, *(b for b in BAYER if b.endswith("16"))]  # whose bytes have an order


def data_shape(encoding: str, height: int, width: int) -> tuple[int, int]:
    """Rows, and bytes in a row without padding."""
    if encoding in NV or encoding == "nv24":
        return (3 * height if encoding == "nv24" else 3 * height // 2), width
    if encoding in WIDE:
        return height, 2 * WIDE[encoding] * width
    if encoding == "32FC1":
        return height, 4 * width
    if encoding in YUV422 or encoding.endswith("16") or encoding == "16UC1":
        return height, 2 * width
    return height, width * PACKED.get(encoding, 1)


def padded(rows: Array, padding: int) -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, (len(rows), padding), np.uint8)
    return np.hstack([rows, noise]).tobytes()


def message(encoding: str, rows: Array, height: int, width: int, big: bool = False, padding: int = 0) -> Image:
    """The rows (bytes) with noise as padding behind each. A row of nv24's colours is as long as two of the image."""
    data = padded(rows, padding)
    if encoding == "nv24":
        data = padded(rows[:height], padding) + padded(rows[height:].reshape(height, -1), 2 * padding)
    return Image(
        encoding=encoding,
        height=height,
        width=width,
        step=rows.shape[1] + padding,
        is_bigendian=int(big),
        data=bytes_array(data),
    )


def noise(encoding: str, height: int, width: int, big: bool = False, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    if encoding == "32FC1":
        return rng.normal(2, 1, (height, width)).astype(">f4" if big else "<f4").view(np.uint8)
    return rng.integers(0, 256, data_shape(encoding, height, width), np.uint8)


def noise_message(
    encoding: str, height: int = 6, width: int = 8, seed: int = 0, big: bool = False, padding: int = 0
) -> Image:
    return message(encoding, noise(encoding, height, width, big, seed), height, width, big, padding)


def rgb_of_yuv(y: Array, u: Array, v: Array) -> Array:
    """BT.601, limited range."""
    y, u, v = 255 / 219 * (y.astype(float) - 16), u.astype(float) - 128, v.astype(float) - 128
    y = np.maximum(y, 0)
    return np.stack([y + 1.596 * v, y - 0.813 * v - 0.391 * u, y + 2.018 * u], -1).round().clip(0, 255)


def expected(encoding: str, rows: Array, height: int, width: int, big: bool) -> Array:
    order = ">" if big else "<"
    if encoding in PACKED or encoding in WIDE:
        samples = rows.view(order + "u2") / 257 if encoding in WIDE else rows
        pixels = samples.reshape(height, width, -1)
        if pixels.shape[2] == 1:
            return pixels.repeat(3, 2)
        return pixels[:, :, [2, 1, 0]] if encoding in BLUE_FIRST else pixels[:, :, :3]
    if encoding in DEPTH:
        value = rows.view(order + ("u2" if encoding == "16UC1" else "f4")).astype(float).clip(0)
        return (value / value.max() * 255)[:, :, None].repeat(3, 2)
    if encoding in YUV422:
        a, b, c, d = rows.reshape(height, width // 2, 4).transpose(2, 0, 1)
        u, y1, v, y2 = (a, b, c, d) if encoding in ("yuv422", "uyvy") else (b, a, d, c)
        return rgb_of_yuv(np.stack([y1, y2], -1).reshape(height, width), u.repeat(2, 1), v.repeat(2, 1))
    if encoding == "nv24":
        u, v = rows[height:].reshape(height, width, 2).transpose(2, 0, 1)
        return rgb_of_yuv(rows[:height], u, v)
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
@pytest.mark.parametrize("encoding", [e for e in EVERY if e not in BAYER])
def test_colours_are_what_the_encoding_says(encoding: str, big: bool) -> None:
    rows = noise(encoding, 16, 24, big, seed=2)
    image = image_from_msg(message(encoding, rows, 16, 24, big))
    assert image.dtype == np.uint8 and image.shape == (16, 24, 3) and image.flags.c_contiguous
    allowed = 0 if encoding in PACKED else 0.51 if encoding in (*WIDE, *DEPTH) else 2
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
    wide = noise_message(encoding, height, width, seed, big=big, padding=padding)
    assert np.array_equal(image_from_msg(wide), plain)
    wide.data = wide.data[: len(wide.data) - padding * (2 if encoding == "nv24" else 1)]
    assert np.array_equal(image_from_msg(wide), plain)
    wide.data = wide.data[:-1]
    assert "needs" in refusal(wide)


@pytest.mark.parametrize("encoding", [*NV, "nv24"])
def test_a_step_that_is_both_planes_divided_by_the_height_means_no_padding(encoding: str) -> None:
    msg = noise_message(encoding)
    plain = image_from_msg(msg)
    msg.step = len(msg.data) // msg.height
    assert np.array_equal(image_from_msg(msg), plain)


@pytest.mark.parametrize("encoding", ORDERED)
def test_byte_order_changes_nothing(encoding: str) -> None:
    little, big = noise_message(encoding), noise_message(encoding, big=True)
    kind = "f4" if encoding == "32FC1" else "u2"
    big.data = bytes_array(np.frombuffer(little.data, "<" + kind).astype(">" + kind).tobytes())
    assert np.array_equal(image_from_msg(little), image_from_msg(big))


@pytest.mark.parametrize("encoding", ["mono16", "bayer_gbrg16"])
def test_the_brightest_sixteen_bits_are_white(encoding: str) -> None:
    assert image_from_msg(message(encoding, np.full((6, 16), 255, np.uint8), 6, 8)).min() == 255


def test_a_depth_image_is_as_bright_as_its_farthest_pixel() -> None:
    depth = np.array([[0, 500, 1000]], "<u2")
    assert image_from_msg(message("16UC1", depth.view(np.uint8), 1, 3))[0, :, 0].tolist() == [0, 128, 255]
    assert not image_from_msg(message("16UC1", np.zeros((2, 6), np.uint8), 2, 3)).any()
    metres = np.array([[np.nan, 0.5, 1], [-np.inf, -1, np.inf]], "<f4")
    assert image_from_msg(message("32FC1", metres.view(np.uint8), 2, 3))[:, :, 1].tolist() == [[0, 128, 255], [0, 0, 0]]
    assert not image_from_msg(message("32FC1", np.full((1, 3), np.nan, "<f4").view(np.uint8), 1, 3)).any()


def test_a_step_of_zero_means_no_padding() -> None:
    msg = noise_message("rgb8")
    plain = image_from_msg(msg)
    msg.step = 0
    assert np.array_equal(image_from_msg(msg), plain)


@pytest.mark.parametrize("encoding", ["64FC1", "16SC1", "RGB8", "", "jpeg", "\0" * 500])
def test_an_unknown_encoding_is_named_with_those_that_are_taken(encoding: str) -> None:
    msg = noise_message("rgb8")
    msg.encoding = encoding
    sentence = refusal(msg)
    assert repr(encoding[:40]) in sentence and all(known in sentence for known in LAYOUTS)
    assert len(sentence) < 500


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


SAVED = {"rgb8": ("u1", 3), "rgb16": ("u2", 3), "mono8": ("u1", 1), "mono16": ("u2", 1)}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SAVED)), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_a_picture_is_the_same_as_raw_topic_compressed_topic_and_file(
    tmp_path_factory: pytest.TempPathFactory, encoding: str, height: int, width: int, seed: int
) -> None:
    kind, channels = SAVED[encoding]
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256 if kind == "u1" else rng.integers(2, 65536), (height, width, channels), kind)
    png = encoded(".png", pixels[:, :, ::-1], f"{encoding}; png compressed {'bgr' if channels == 3 else ''}")
    raw = image_from_msg(image_to_msg(pixels if channels == 3 else pixels[:, :, 0], encoding, Header()))
    file = tmp_path_factory.mktemp("one") / "picture.png"
    file.write_bytes(png.data)
    assert np.array_equal(compressed_from_msg(png), raw) and np.array_equal(read_image(file), raw)


def test_sixteen_bits_of_grey_are_a_depth_image_where_the_topic_says_so() -> None:
    depth = np.tile(np.linspace(300, 3000, 64).astype(np.uint16), (40, 1))
    raw = {name: image_from_msg(image_to_msg(depth, name, Header())) for name in ("16UC1", "mono16")}
    assert raw["16UC1"].max() == 255 and raw["mono16"].max() == 12
    for extension in (".png", ".tiff"):
        for form in ("16UC1; png compressed ", "16UC1; png compressed", "16UC1;tiff compressed "):
            assert np.array_equal(compressed_from_msg(encoded(extension, depth, form)), raw["16UC1"])
        for form in ("mono16; png compressed ", "png", "", "rgb8; jpeg compressed bgr8"):
            assert np.array_equal(compressed_from_msg(encoded(extension, depth, form)), raw["mono16"])
    metres = (depth / 1000).astype(np.float32)
    assert np.array_equal(
        compressed_from_msg(encoded(".tiff", metres, "32FC1; tiff compressed ")),
        image_from_msg(image_to_msg(metres, "32FC1", Header())),
    )
    eight = (depth // 256).astype(np.uint8)  # what no converter makes of 16UC1
    assert np.array_equal(compressed_from_msg(encoded(".png", eight, "16UC1; png compressed "))[:, :, 0], eight)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "rgb16", "bgr16", "rgba16", "bgra16"])
def test_colours_are_right_in_every_format_that_image_transport_writes(encoding: str) -> None:
    """JPEG and PNG from blue first, and it says so behind "compressed"; TIFF from whatever the message has."""
    kind, channels = LAYOUTS[encoding]
    depth = 8 * np.dtype(kind).itemsize
    pixels = np.dstack([gradient(), np.full((40, 60), 9, np.uint8)])[:, :, :channels].astype(kind) * (depth // 8) ** 8
    raw = image_from_msg(image_to_msg(pixels, encoding, Header()))
    blue_first = pixels if encoding.startswith("bgr") else pixels[:, :, [2, 1, 0]]
    png = encoded(".png", blue_first[:, :, :3], f"{encoding}; png compressed bgr{depth}")
    assert np.array_equal(compressed_from_msg(png), raw)
    assert np.array_equal(
        compressed_from_msg(encoded(".png", blue_first[:, :, :3], f"{encoding}; png compressed")), raw
    )
    eight = (blue_first[:, :, :3] // (1 if depth == 8 else 256)).astype(np.uint8)
    jpeg = compressed_from_msg(encoded(".jpg", eight, f"{encoding}; jpeg compressed bgr8"))
    assert np.abs(jpeg.astype(int) - raw).mean() < 4
    tiff = compressed_from_msg(encoded(".tiff", pixels, f"{encoding}; tiff compressed "))
    assert np.abs(tiff.astype(int) - raw).max() <= (0 if depth == 8 else 1)


@pytest.mark.parametrize("encoding", BAYER)
def test_a_mosaic_is_a_mosaic_in_a_compressed_topic_too(encoding: str) -> None:
    raw = noise_message(encoding, 10, 12)
    mosaic = np.frombuffer(raw.data, "u1" if encoding.endswith("8") else "<u2").reshape(10, 12)
    assert np.array_equal(
        compressed_from_msg(encoded(".png", mosaic, f"{encoding}; png compressed ")), image_from_msg(raw)
    )
    grey = compressed_from_msg(encoded(".png", mosaic, f"{encoding}; jpeg compressed mono8"))
    assert (grey == grey[:, :, :1]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_topic_is_not_turned_by_its_exif(orientation: int) -> None:
    exif = PIL.Exif()
    exif[0x0112] = orientation
    for form in ("JPEG", "PNG"):
        file = io.BytesIO()
        PIL.fromarray(gradient()).save(file, form, exif=exif)
        msg = CompressedImage(format=form.lower(), data=bytes_array(file.getvalue()))
        assert np.abs(compressed_from_msg(msg).astype(int) - gradient()).mean() < 3


def bomb(kind: str) -> Image | CompressedImage:
    if kind == "step":
        return Image(encoding="rgb8", height=1, width=240, step=2**32 - 1, data=bytes_array(bytes(720)))
    if kind == "rows":
        return Image(encoding="mono16", height=10_000, width=10_000, step=2**32 - 1, data=bytes_array(bytes(720)))
    file = io.BytesIO()
    PIL.new("1", (20_000, 20_000)).save(file, "PNG")
    return CompressedImage(format="png", data=bytes_array(file.getvalue()))


def kept_from(call: Callable[[], Any]) -> tuple[str, int]:
    """What became of it, and the most bytes that Python, NumPy and OpenCV's arrays took meanwhile."""
    tracemalloc.start()
    try:
        image = call()
    except SegzeroError as error:
        assert error.status is Status.UNSUPPORTED_ENCODING and len(error.message) < 500
        return error.message, tracemalloc.get_traced_memory()[1]
    else:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        return "", tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("kind", "refused"), [("step", ""), ("rows", "needs"), ("png", "pixels")])
def test_a_small_message_takes_little_memory(kind: str, refused: str) -> None:
    msg = bomb(kind)
    said, peak = kept_from(lambda: (image_from_msg if isinstance(msg, Image) else compressed_from_msg)(msg))
    assert refused in said and bool(said) == bool(refused) and peak < 5_000_000


sizes = st.integers(0, 40) | st.sampled_from([2**16, MAX_PIXELS, 2**31, 2**32 - 1])


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(EVERY) | st.text(max_size=50),
    sizes,
    sizes,
    st.integers(0, 400) | st.sampled_from([2**31, 2**32 - 1]),
    st.integers(0, 6000),
    st.booleans(),
)
def test_any_message_is_a_picture_of_its_size_or_a_sentence_and_takes_memory_by_its_data(
    encoding: str, height: int, width: int, step: int, length: int, big: bool
) -> None:
    data = np.random.default_rng(length).integers(0, 256, length, np.uint8).tobytes()
    msg = Image(encoding=encoding.replace("\0", ""), height=height, width=width, step=step, is_bigendian=int(big))
    msg.data = bytes_array(data)
    said, peak = kept_from(lambda: image_from_msg(msg))
    assert said or image_from_msg(msg).shape == (height, width, 3)
    assert peak < 40 * length + 100_000


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([".png", ".jpg", ".tiff"]),
    st.sampled_from(["", "16UC1; png compressed ", "bayer_rggb8; png compressed ", "rgb8; tiff compressed "]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=5),
    st.floats(0, 1),
    st.booleans(),
)
def test_a_mutated_compressed_image_is_a_picture_or_a_sentence(
    extension: str, form: str, changes: list[tuple[float, int]], cut: float, grey: bool
) -> None:
    pixels = gradient(12, 18)
    data = bytearray(encoded(extension, pixels[:, :, 0].astype(np.uint16) if grey else pixels).data)
    for place, value in changes:
        data[int(place * len(data))] = value
    msg = CompressedImage(format=form, data=bytes_array(bytes(data[: int(len(data) * max(cut, 0.2))])))
    kept_from(lambda: compressed_from_msg(msg))


@pytest.mark.parametrize("size", [(1080, 1920), (2160, 3840)])
@pytest.mark.parametrize("encoding", ["bgr8", "rgba16", "16UC1", "32FC1", "bayer_rggb16", "nv12", "nv24"])
def test_a_camera_s_whole_frame_is_right_in_every_corner(encoding: str, size: tuple[int, int]) -> None:
    rows = noise(encoding, *size)
    image = image_from_msg(message(encoding, rows, *size, padding=64))
    assert image.shape == (*size, 3)
    if encoding not in BAYER:
        corner = np.s_[-4:, -4:]
        assert np.abs(image[corner] - expected(encoding, rows, *size, False)[corner]).max() <= 2


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


# -- depth in metres


def depth_image(samples: Array, encoding: str, *, big: bool = False, padding: int = 0) -> Image:
    """With rows that are padded with noise, in either byte order."""
    rows = samples.astype(samples.dtype.newbyteorder(">" if big else "<")).view(np.uint8).reshape(len(samples), -1)
    return Image(
        encoding=encoding,
        height=len(samples),
        width=samples.shape[1],
        step=rows.shape[1] + padding,
        is_bigendian=int(big),
        data=bytes_array(padded(rows, padding)),
    )


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.booleans(), st.integers(0, 3))
def test_depth_is_metres_whatever_its_padding_and_byte_order(
    height: int, width: int, seed: int, big: bool, padding: int
) -> None:
    millimetres = np.random.default_rng(seed).integers(1, 65536, (height, width), np.uint16)
    metres = (millimetres / 1000).astype(np.float32)
    for name in ("16UC1", "mono16"):
        assert np.allclose(depth_from_msg(depth_image(millimetres, name, big=big, padding=padding)), metres, atol=1e-6)
    found = depth_from_msg(depth_image(metres, "32FC1", big=big, padding=padding))
    assert np.array_equal(found, metres) and found.dtype == np.float32 and found.dtype.isnative


def test_what_was_not_measured_is_a_hole() -> None:
    metres = np.array([[0.0, -0.0, -1.0, np.nan, np.inf, -np.inf, 0.5, 1e-40]], np.float32)
    assert np.isnan(depth_from_msg(depth_image(metres, "32FC1"))).tolist() == [[True] * 6 + [False] * 2]
    millimetres = np.array([[0, 1, 65535]], np.uint16)
    found = depth_from_msg(depth_image(millimetres, "16UC1"))
    assert np.isnan(found[0, 0]) and np.allclose(found[0, 1:], [0.001, 65.535])


def test_the_message_s_own_depth_is_not_changed() -> None:
    msg = depth_image(np.array([[0.0, np.inf, 2.0]], np.float32), "32FC1")
    before = bytes(msg.data)
    depth_from_msg(msg)[:] = 9
    assert bytes(msg.data) == before


def refused_depth(msg: Image | CompressedImage) -> str:
    with pytest.raises(SegzeroError) as error:
        depth_from_msg(msg)
    assert error.value.status is Status.UNSUPPORTED_ENCODING and len(error.value.message) < 400
    return error.value.message


def test_a_colour_image_and_broken_sizes_are_no_depth() -> None:
    assert "encoding 'rgb8' is no depth; these are: 16UC1" in refused_depth(noise_message("rgb8"))
    assert "0 x 0" in refused_depth(Image(encoding="16UC1"))
    assert "needs 48" in refused_depth(Image(encoding="16UC1", height=4, width=6, data=bytes_array(bytes(45))))
    short = Image(encoding="32FC1", height=4, width=6, step=12, data=bytes_array(bytes(96)))
    assert refused_depth(short) == "step is 12 bytes, but a row of 6 32FC1 pixels has 24"


def compressed_depth(steps: Array, form: str, a: float = 0.0, b: float = 0.0) -> CompressedImage:
    data = np.zeros(1, "<i4").tobytes() + np.array([a, b], "<f4").tobytes()
    data += packed_rvl(steps) if form.endswith("rvl") else cv2.imencode(".png", steps)[1].tobytes()
    return CompressedImage(format=form, data=bytes_array(data))


def packed_rvl(depth: Array) -> bytes:
    """As RvlCodec::CompressRVL of image_transport_plugins writes it, behind the width and height."""
    groups: list[int] = []

    def write(value: int) -> None:
        while True:
            groups.append(value & 7 | (8 if value > 7 else 0))
            value >>= 3
            if not value:
                return

    left, previous = depth.reshape(-1).tolist(), 0
    while left:
        zeros = next((n for n, v in enumerate(left) if v), len(left))
        values = left[zeros : next((n for n, v in enumerate(left) if n >= zeros and not v), len(left))]
        write(zeros)
        write(len(values))
        for value in values:
            delta = value - previous
            write(2 * delta if delta >= 0 else -2 * delta - 1)
            previous = value
        left = left[zeros + len(values) :]
    groups += [0] * (-len(groups) % 8)
    words = [sum(g << (28 - 4 * n) for n, g in enumerate(groups[i : i + 8])) for i in range(0, len(groups), 8)]
    return np.array([depth.shape[1], depth.shape[0], *words], "<u4").tobytes()


@settings(deadline=None)
@given(
    st.sampled_from(["png", "rvl", ""]),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 99),
    st.sampled_from([4, 900, 65536]),
)
def test_compressed_millimetres_come_back_exactly(packing: str, height: int, width: int, seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    millimetres = rng.integers(0, most, (height, width), np.uint16) * rng.integers(0, 2, (height, width), np.uint16)
    msg = compressed_depth(millimetres, f"16UC1; compressedDepth {packing}".strip())
    raw = depth_from_msg(depth_image(millimetres, "16UC1"))
    assert np.array_equal(depth_from_msg(msg), raw, equal_nan=True)


@pytest.mark.parametrize("packing", ["png", "rvl"])
def test_compressed_metres_are_steps_of_inverse_depth(packing: str) -> None:
    """By image_transport's own defaults: 10 m at most, 100 steps."""
    metres = np.array([[0.3, 0.5, 1.0], [2.0, 5.0, 9.9]], np.float32)
    a = 100.0 * 101.0
    b = 1 - a / 10.0
    steps = (a / metres + b).astype(np.uint16)
    steps[0, 1] = 0
    found = depth_from_msg(compressed_depth(steps, f"32FC1; compressedDepth {packing}", a, b))
    assert np.isnan(found[0, 1])
    assert np.allclose(np.delete(found, 1), np.delete(metres, 1), rtol=2e-3)


@pytest.mark.parametrize(("a", "b"), [(np.nan, 0), (np.inf, 0), (1, 5), (-1, 0), (0, 0), (1, np.inf)])
def test_quantisation_that_is_none_makes_holes_and_no_warning(a: float, b: float) -> None:
    found = depth_from_msg(compressed_depth(np.full((2, 2), 5, np.uint16), "32FC1; compressedDepth png", a, b))
    assert np.isnan(found).all()


def test_compressed_depth_that_is_none_is_refused() -> None:
    steps = np.full((4, 6), 500, np.uint16)
    for form in ("16UC1; png compressed ", "8UC1; compressedDepth png", "16UC1; compressedDepth h264", "", "x" * 500):
        assert "is no compressed depth" in refused_depth(compressed_depth(steps, form))
    eight = compressed_depth(steps.astype(np.uint8), "16UC1; compressedDepth png")
    assert "has no 16 bits of grey" in refused_depth(eight)
    for packing in ("png", "rvl"):
        whole = compressed_depth(steps, f"16UC1; compressedDepth {packing}")
        for length in (0, 5, 12, 16, 20, len(whole.data) - 4):
            cut = CompressedImage(format=whole.format, data=whole.data[:length])
            assert "cannot be decoded" in refused_depth(cut)


@pytest.mark.parametrize("size", [(2**32 - 1, 2**32 - 1), (100_000, 1000), (0, 5), (4000, 4000)])
def test_a_size_that_rvl_does_not_hold_takes_little_memory(size: tuple[int, int]) -> None:
    data = bytes(12) + np.array([*size, 0, 0], "<u4").tobytes()
    msg = CompressedImage(format="16UC1; compressedDepth rvl", data=bytes_array(data))
    tracemalloc.start()
    refused_depth(msg)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "words",
    [
        [0x07777000],  # no zero, then more values than pixels
        [0x80000000, 0x00000000],  # a number of eight groups and more
        [0xFFFFFFFF, 0xFF750000, 0x00000000],  # one that would be negative
        [0xFFFFFFFF, 0x00000000],  # more zeros than pixels
        [0x00000000],  # nothing, and again
        [],
    ],
)
def test_numbers_that_make_no_picture_are_refused(words: list[int]) -> None:
    data = bytes(12) + np.array([2, 2, *words], "<u4").tobytes()
    msg = CompressedImage(format="16UC1; compressedDepth rvl", data=bytes_array(data))
    assert "damaged or cut short" in refused_depth(msg)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["16UC1; compressedDepth rvl", "32FC1; compressedDepth rvl", "16UC1; compressedDepth png"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=5),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_mutated_compressed_depth_is_depth_or_a_sentence(
    form: str, changes: list[tuple[float, int]], cut: float, seed: int
) -> None:
    steps = np.random.default_rng(seed).integers(0, 600, (7, 9), np.uint16)
    data = bytearray(compressed_depth(steps, form, 10100.0, -1009.0).data)
    for place, value in changes:
        data[int(place * len(data))] = value
    msg = CompressedImage(format=form, data=bytes_array(bytes(data[: int(len(data) * max(cut, 0.2))])))
    try:
        found = depth_from_msg(msg)
    except SegzeroError as error:
        assert len(error.message) < 400
    else:
        assert found.dtype == np.float32 and not (found <= 0).any() and not np.isinf(found).any()
