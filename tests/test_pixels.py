"""A picture becomes the same pixels whatever its format, depth and alpha; too large or broken, it is one sentence."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PIL
from PIL import ImageOps

from segzero_ros.core import pixels as module
from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.pixels import FORMATS, MAX_PIXELS, decode_picture, read_image, rgb_from_pixels

Array = NDArray[Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of what was broken on purpose

EXACT: dict[str, dict[str, Any]] = {
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
    "PPM": {},
}
NEARLY: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "AVIF": {"quality": 95}}
EVERY: dict[str, dict[str, Any]] = {**EXACT, **NEARLY, "GIF": {}}


def gradient(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 6 * y, 255 - 4 * x], -1).astype(np.uint8)


def encoded(picture: PIL.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def picture_of(form: str, pixels: Array) -> bytes:
    return encoded(PIL.fromarray(pixels), form, **EVERY[form])


def by_opencv(extension: str, pixels: Array) -> bytes:
    return bytes(cv2.imencode(extension, pixels)[1].tobytes())


def read(data: bytes, folder: Path) -> Array:
    (folder / "picture").write_bytes(data)
    return read_image(folder / "picture")


def refusal(data: bytes) -> str:
    with pytest.raises(SegzeroError) as error:
        decode_picture(data)
    assert error.value.status is Status.UNSUPPORTED_ENCODING and len(error.value.message) < 300
    return error.value.message


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def tiff(**tags: int) -> bytes:
    numbers = {"width": 256, "height": 257, "bits": 258, "compression": 259, "kind": 262, "samples": 277} | {
        "tile_width": 322, "tile_height": 323, "offset": 324, "count": 325
    }  # fmt: skip
    entries = sorted((numbers[name], value) for name, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + bytes(100)


def test_no_format_is_forgotten_here() -> None:
    assert sorted(FORMATS) == sorted(EVERY)


@pytest.mark.parametrize("form", EXACT)
def test_what_loses_nothing_comes_back_exactly_in_colour_and_grey(form: str, tmp_path: Path) -> None:
    rgb = gradient()
    for pixels in (rgb, np.ascontiguousarray(rgb[:, :, 0])):
        back = read(picture_of(form, pixels), tmp_path)
        assert back.dtype == np.uint8 and back.flags.c_contiguous
        assert np.array_equal(back, pixels if pixels.ndim == 3 else np.dstack([pixels] * 3))


@pytest.mark.parametrize("form", NEARLY)
def test_what_loses_a_little_comes_back_nearly(form: str, tmp_path: Path) -> None:
    assert np.abs(read(picture_of(form, gradient()), tmp_path).astype(int) - gradient()).mean() < 3


@pytest.mark.parametrize("size", [(1080, 1920), (2160, 3840)])
def test_a_camera_s_whole_frame_comes_back(size: tuple[int, int], tmp_path: Path) -> None:
    rgb = cv2.resize(gradient(), size[::-1])
    assert np.array_equal(read(by_opencv(".png", rgb[:, :, ::-1]), tmp_path), rgb)
    assert np.abs(read(by_opencv(".jpg", rgb[:, :, ::-1]), tmp_path).astype(int) - rgb).mean() < 3


@pytest.mark.parametrize("extension", [".png", ".tiff", ".pgm"])
def test_sixteen_bits_of_grey_are_scaled_by_their_range(extension: str, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 30_000, (20, 30), np.uint16)
    back = read(by_opencv(extension, deep), tmp_path)
    assert np.array_equal(back, np.dstack([(deep / 257).round().astype(np.uint8)] * 3))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_sixteen_bits_of_colour_are_scaled_by_their_range(extension: str, channels: int, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, channels), np.uint16)
    back = read(by_opencv(extension, deep), tmp_path)
    allowed = 0 if extension == ".png" else 1  # Pillow keeps the high byte of a TIFF's colours
    assert np.abs(back.astype(int) - (deep[:, :, 2::-1] / 257).round()).max() <= allowed


def test_a_file_of_floats_is_scaled_by_its_largest(tmp_path: Path) -> None:
    metres = np.array([[np.nan, np.inf, -1], [0, 1, 2]], np.float32)
    assert read(by_opencv(".tiff", metres), tmp_path)[:, :, 0].tolist() == [[0, 0, 0], [0, 128, 255]]


floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.lists(st.lists(floats, min_size=3, max_size=3), min_size=1, max_size=4))
def test_depth_in_metres_is_as_bright_as_its_farthest_finite_pixel(rows: list[list[float]]) -> None:
    metres = np.array(rows, np.float32)
    before = metres.copy()
    rgb = rgb_from_pixels(metres)
    assert np.array_equal(metres, before, equal_nan=True), "the message's own data was changed"
    good = np.where(np.isfinite(metres) & (metres > 0), metres, 0).astype(float)
    expected = good / good.max() * 255 if good.any() else good
    assert rgb.shape == (*metres.shape, 3) and rgb.dtype == np.uint8
    assert np.abs(rgb - expected[:, :, None]).max() <= 0.51
    assert rgb.max() == (255 if good.any() else 0)


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=9))
def test_depth_in_millimetres_and_in_metres_is_equally_bright(values: list[int]) -> None:
    deep = np.array([values], np.uint16)
    assert rgb_from_pixels(deep, depth=True).max() == (255 if any(values) else 0)
    metres = (deep / np.float32(1000)).astype(np.float32)
    assert np.abs(rgb_from_pixels(deep, depth=True).astype(int) - rgb_from_pixels(metres)).max() <= 1


def test_alpha_is_dropped_and_the_colour_below_it_stays(tmp_path: Path) -> None:
    rgb = gradient()
    alpha = np.linspace(0, 255, rgb.shape[1]).astype(np.uint8)[None].repeat(len(rgb), 0)
    grey = rgb[:, :, :1]
    for form in ("PNG", "TIFF"):
        assert np.array_equal(read(picture_of(form, np.dstack([rgb, alpha])), tmp_path), rgb)
        assert np.array_equal(read(picture_of(form, np.dstack([grey, alpha])), tmp_path), grey.repeat(3, 2))
    palette = PIL.fromarray(rgb).quantize(16)
    for seen in (3, bytes(range(0, 256, 16))):  # one colour, or a table
        assert np.array_equal(
            read(encoded(palette, "PNG", transparency=seen), tmp_path), np.asarray(palette.convert("RGB"))
        )
    one_grey_unseen = encoded(PIL.fromarray(rgb[:, :, 0]), "PNG", transparency=100)
    assert np.array_equal(read(one_grey_unseen, tmp_path), grey.repeat(3, 2))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "GIF", "PPM"])
def test_black_and_white_and_palettes_have_their_colours(form: str, tmp_path: Path) -> None:
    for picture in (PIL.fromarray(gradient()).convert("1"), PIL.fromarray(gradient()).quantize(16)):
        if form != "PPM" or picture.mode == "1":
            assert np.array_equal(read(encoded(picture, form), tmp_path), np.asarray(picture.convert("RGB")))


def test_white_may_be_zero(tmp_path: Path) -> None:
    page = PIL.fromarray(gradient()).convert("1")
    fax = encoded(page, "TIFF", compression="group4")
    assert np.array_equal(read(fax, tmp_path), np.asarray(page.convert("RGB")))


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_printing_inks_become_colours(form: str, tmp_path: Path) -> None:
    inks = PIL.fromarray(gradient()).convert("CMYK")
    assert np.abs(read(encoded(inks, form), tmp_path).astype(int) - gradient()).mean() < 4


def test_a_colour_profile_changes_nothing(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for form in ("PNG", "WEBP", "TIFF"):
        data = encoded(PIL.fromarray(gradient()), form, icc_profile=profile, **EVERY[form])
        assert np.array_equal(read(data, tmp_path), gradient())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_file_is_turned_upright_and_a_topic_is_not(form: str, orientation: int, tmp_path: Path) -> None:
    exif = PIL.Exif()
    exif[0x0112] = orientation
    data = encoded(PIL.fromarray(gradient()), form, exif=exif, **EVERY[form])
    upright = np.asarray(ImageOps.exif_transpose(PIL.open(io.BytesIO(data))).convert("RGB"))
    assert np.array_equal(read(data, tmp_path), upright)
    if form != "TIFF":  # every decoder turns it, image_transport's too
        plain = encoded(PIL.fromarray(gradient()), form, **EVERY[form])
        assert np.array_equal(decode_picture(data), decode_picture(plain))


def test_sixteen_bits_and_alpha_are_turned_too(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (4, 6, 4), np.uint16)
    data = by_opencv(".png", deep)
    exif = PIL.Exif()
    exif[0x0112] = 6
    at = data.index(b"IDAT") - 4
    turned = read(data[:at] + chunk(b"eXIf", exif.tobytes()[6:]) + data[at:], tmp_path)
    assert np.array_equal(turned, np.rot90((deep[:, :, 2::-1] / 257).round(), -1))


def test_a_broken_exif_turns_nothing(tmp_path: Path) -> None:
    for illegal in (0, 9, 65535):
        exif = PIL.Exif()
        exif[0x0112] = illegal
        assert np.array_equal(read(encoded(PIL.fromarray(gradient()), "PNG", exif=exif), tmp_path), gradient())
    data = encoded(PIL.fromarray(gradient()), "PNG")
    at = data.index(b"IDAT") - 4
    broken = data[:at] + chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12") + data[at:]
    assert np.array_equal(read(broken, tmp_path), gradient())


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "GIF"])
def test_of_several_pictures_the_first_is_read(form: str, tmp_path: Path) -> None:
    first = PIL.fromarray(gradient())
    second = PIL.fromarray(255 - gradient())
    data = encoded(first, form, save_all=True, append_images=[second], **EVERY[form])
    assert np.array_equal(read(data, tmp_path), read(encoded(first, form, **EVERY[form]), tmp_path))


def test_of_a_phone_s_two_pictures_the_first_is_read(tmp_path: Path) -> None:
    first, second = PIL.fromarray(gradient()), PIL.fromarray(255 - gradient())
    data = encoded(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert PIL.open(io.BytesIO(data)).format == "MPO"
    assert np.abs(read(data, tmp_path).astype(int) - gradient()).mean() < 3
    video = picture_of("JPEG", gradient()) + bytes(5000) + b"video"
    assert np.array_equal(read(video, tmp_path), read(picture_of("JPEG", gradient()), tmp_path))


def huge(form: str) -> bytes:
    """A few bytes that say 20,000 x 20,000 pixels or more."""
    if form == "PNG":
        return png(20_000, 20_000, chunk(b"IDAT", zlib.compress(bytes(1000))))
    if form == "TIFF":
        return tiff(width=20_000, height=20_000, bits=8, compression=8, kind=1, samples=1)
    if form == "PPM":
        return b"P6 20000 20000 255\n" + bytes(100)
    data = bytearray(picture_of(form, gradient(8, 8)))
    if form == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 20_000, 20_000)
    elif form == "GIF":
        data[6:10] = struct.pack("<HH", 20_000, 20_000)
    elif form == "BMP":
        data[18:26] = struct.pack("<ii", 20_000, 20_000)
    elif form == "WEBP":
        at = data.index(b"VP8L") + 9
        data[at : at + 4] = struct.pack("<I", 16_383 | 16_383 << 14)
    else:
        at = data.index(b"ispe") + 8
        data[at : at + 8] = struct.pack(">II", 20_000, 20_000)
    return bytes(data)


@pytest.mark.parametrize("form", EVERY)
def test_a_picture_that_says_it_is_huge_is_refused(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_decode", None)  # nothing is decoded
    sentence = refusal(huge(form))
    assert "pixels" in sentence or form == "AVIF"  # whose library compares the sizes that it reads


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow's own, from 89 million pixels on
def test_the_limit_is_the_number_of_pixels() -> None:
    for width in (MAX_PIXELS + 1, 2**31 - 1):
        assert "pixels" in refusal(png(width, 1, chunk(b"IDAT", zlib.compress(bytes(10)))))
    assert "pixels" not in refusal(png(MAX_PIXELS, 1, chunk(b"IDAT", zlib.compress(bytes(10)))))


def test_a_tile_may_not_be_huge_either() -> None:
    small = {"width": 10, "height": 10, "bits": 8, "compression": 8, "kind": 1, "samples": 1}
    assert "pixels" in refusal(tiff(**small, tile_width=60_000, tile_height=20_000, offset=90, count=20))


def test_a_second_head_does_not_hide_the_first() -> None:
    inner = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 0))
    assert "damaged" in refusal(png(9_000, 9_000, inner, chunk(b"IDAT", zlib.compress(bytes(8)))))


def test_a_file_of_too_many_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with pytest.raises(SegzeroError, match="more than 1,000 bytes"):
        read(picture_of("PNG", gradient()) + bytes(1000), tmp_path)


MEASURE = """
import sys
from segzero_ros.core.contract import SegzeroError
from segzero_ros.core.pixels import decode_picture
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) // 1024
before = peak()
try:
    decode_picture(open(sys.argv[1], "rb").read())
except SegzeroError:
    print(peak() - before, peak())
"""


@pytest.mark.parametrize("form", EVERY)
def test_a_refusal_takes_little_memory(form: str, tmp_path: Path) -> None:
    """Megabytes of a process of its own: beyond what it had, and in all."""
    (tmp_path / "bomb").write_bytes(huge(form))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "bomb")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    grown, whole = map(int, done.stdout.split())
    assert grown < 50 and whole < 200


@pytest.mark.parametrize("kind", [b"IDAT", b"tEXt", b"eXIf"])
def test_what_a_chunk_says_of_its_length_takes_no_memory(kind: bytes, tmp_path: Path) -> None:
    """A file of 80 bytes once took 2 GB in OpenCV."""
    head = picture_of("PNG", gradient())[:33]
    (tmp_path / "bomb").write_bytes(head + struct.pack(">I", 2_000_000_000) + kind + bytes(40))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "bomb")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout.split()[0]) < 50


def test_what_stands_behind_a_pngs_end_is_not_looked_at() -> None:
    data = picture_of("PNG", gradient())
    assert np.array_equal(decode_picture(data + b"\xff" * 100), decode_picture(data))


@pytest.mark.parametrize("form", EVERY)
def test_a_picture_that_is_cut_short_is_refused_or_whole(form: str) -> None:
    data = picture_of(form, gradient())
    whole = decode_picture(data)
    lengths = range(0, len(data), max(1, len(data) // 200))
    refused = 0
    for length in lengths:
        try:
            assert np.array_equal(decode_picture(data[:length]), whole), length
        except SegzeroError as error:
            refused += 1
            assert error.status is Status.UNSUPPORTED_ENCODING
    assert refused > len(lengths) / 2


@pytest.mark.parametrize("form", EVERY)
@settings(max_examples=60, deadline=None)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.floats(0.3, 1),
    head=st.booleans(),
)
def test_a_mutated_picture_is_pixels_or_a_sentence(
    form: str, changes: list[tuple[float, int]], cut: float, head: bool
) -> None:
    data = bytearray(picture_of(form, gradient(12, 18)))
    for place, value in changes:
        data[int(place * (min(len(data), 80) if head else len(data)))] = value
    try:
        pixels = decode_picture(bytes(data[: int(cut * len(data))]))
    except SegzeroError as error:
        assert error.status is Status.UNSUPPORTED_ENCODING and len(error.message) < 300
    else:
        assert rgb_from_pixels(pixels).shape == (*pixels.shape[:2], 3)


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"BM", b"GIF89a"])
)
def test_bytes_that_are_no_picture_are_a_sentence(data: bytes, magic: bytes) -> None:
    refusal(magic + data)


@pytest.mark.parametrize(
    "data", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"8BPS\0\1", b"%PDF-1.7", b"", b"words"]
)
def test_other_formats_are_refused_by_naming_those_that_are_taken(data: bytes) -> None:
    sentence = refusal(data)
    assert all(form in sentence for form in FORMATS)


def test_kinds_of_pixels_that_are_not_taken_are_named() -> None:
    assert "kind LAB" in refusal(encoded(PIL.new("LAB", (4, 4)), "TIFF"))
    assert "kind I " in refusal(encoded(PIL.new("I", (4, 4)), "TIFF"))


def test_a_missing_file_is_the_system_s_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.png", tmp_path):
        with pytest.raises(OSError):
            read_image(path)


def test_too_little_memory_is_told_apart_from_a_broken_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise cv2.error("(-4:Insufficient memory) Failed to allocate 3000000 bytes")

    monkeypatch.setattr(cv2, "imdecode", fail)
    with pytest.raises(SegzeroError) as error:
        decode_picture(picture_of("PNG", gradient()))
    assert error.value.status is Status.OUT_OF_MEMORY
