"""What image files, their names and annotation files of one's own become: read right, or refused with a sentence."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from datasets import load_from_disk
from PIL import Image as PIL

from training.data import prepare
from training.data.image_names import ImageFolder, find_image
from training.data.images import AS_STORED, IN_DOUBT, ON_WHITE, open_picture, read_image
from training.data.readers.labelme import read_labelme
from training.data.readers.reasonseg import NO_UTF_8, paint, read_reasonseg
from training.data.samples import Problem, Sample, Source
from training.data.sources import WrongUse, grey_range
from training.data.text_files import load_json

WIDTH, HEIGHT = 64, 48
SHADES = np.broadcast_to(np.linspace(0, 255, WIDTH).astype(np.uint8)[None, :, None], (HEIGHT, WIDTH, 3)).copy()
RED = (200, 30, 30)


def photo(path: Path, shade: int = 120, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.new("RGB", (WIDTH, HEIGHT), (shade, 60, 30)).save(path, **how)
    return path


def oriented(number: int) -> PIL.Exif:
    exif = PIL.Exif()
    exif[0x0112] = number
    return exif


def coco(folder: Path, *names: str, size: tuple[int, int] = (WIDTH, HEIGHT), word: str = "mug") -> Path:
    """A COCO file with one object on each image."""
    data: dict[str, Any] = {"categories": [{"id": 1, "name": word}]}
    data["images"] = [{"id": n, "file_name": name, "width": size[0], "height": size[1]} for n, name in enumerate(names)]
    data["annotations"] = [
        {"id": n, "image_id": n, "category_id": 1, "segmentation": [[4, 4, 24, 4, 24, 14, 4, 14]], "iscrowd": 0}
        for n, _ in enumerate(names)
    ]
    path = folder / "my.json"
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path


def prepared(path: Path, images: Path, out: Path, *more: str) -> tuple[int, dict[str, Any], list[str]]:
    """Exit code, the rows' boxes and pictures, and what was said of every sample."""
    words = ["--coco", str(path), "--images", str(images), "--out", str(out), "--square", "56", "--page", "0", *more]
    code = prepare.main(words)
    said = [json.loads(line)["reason"] for line in (out / "problems.jsonl").open()] if out.exists() else []
    rows = load_from_disk(str(out))["train"] if code == 0 else []
    return code, {"rows": rows}, said


# Names: what is annotated, which files are there, which of them is meant (None: none), what is said.

FOUND_BY_END = "found by the end of its name, which differs from the file's in "
NAMES: list[tuple[str, str, list[str], str | None, str]] = [
    ("as it is", "a.png", ["a.png", "sub/a.png"], "a.png", ""),
    ("in a folder", "sub/a.png", ["a.png", "sub/a.png"], "sub/a.png", ""),
    ("with a point before it", "./a.png", ["a.png"], "a.png", ""),
    ("Windows, folder there", "sub\\a.png", ["sub/a.png"], "sub/a.png", "Windows' separators"),
    ("Windows, folder not there", "images\\a.png", ["a.png"], "a.png", "Windows' separators and leading folders"),
    ("a Windows disk", "C:\\Users\\me\\photos\\a.png", ["a.png"], "a.png", "Windows' separators and leading folders"),
    ("a folder of the exporter", "images/a.png", ["a.png"], "a.png", "leading folders"),
    ("CVAT's subset", "a.png", ["default/a.png"], "default/a.png", "leading folders"),
    ("the longest end wins", "x/sub/a.png", ["a.png", "sub/a.png"], "sub/a.png", "leading folders"),
    ("upper-case ending", "a.jpg", ["a.JPG"], "a.JPG", "upper and lower case"),
    ("lower-case ending", "IMG_1.JPG", ["IMG_1.jpg"], "IMG_1.jpg", "upper and lower case"),
    ("percent-encoded", "my%20photo.png", ["my photo.png"], "my photo.png", "percent-encoding"),
    ("percent-encoded file", "my photo.png", ["my%20photo.png"], "my%20photo.png", "percent-encoding"),
    ("a percent of its own", "50%.png", ["50%.png"], "50%.png", ""),
    ("composed", "caf\u00e9.png", ["cafe\u0301.png"], "cafe\u0301.png", "Unicode's form"),
    ("decomposed", "cafe\u0301.png", ["caf\u00e9.png"], "caf\u00e9.png", "Unicode's form"),
    ("Label Studio's prefix", "abcd1234-photo.png", ["photo.png"], "photo.png", "Label Studio's prefix"),
    (
        "Label Studio's upload",
        "/data/upload/3/abcd1234-my_photo_1.png",
        ["sub/my photo (1).png"],
        "sub/my photo (1).png",
        "Label Studio's prefix and leading folders",
    ),
    ("Label Studio's local file", "/data/local-files/?d=sub%2Fa.png", ["sub/a.png"], "sub/a.png", "percent-encoding"),
    ("prefixed file there", "abcd1234-a.png", ["abcd1234-a.png", "a.png"], "abcd1234-a.png", ""),
    ("another prefix", "monday-photo.png", ["photo.png"], None, "is missing"),
    ("a longer name", "cam_left_000.png", ["000.png"], None, "is missing"),
    ("another folder", "monday/000.png", ["tuesday/000.png"], None, "if it is meant, say --images"),
    ("two files fit", "a.png", ["x/a.png", "y/a.png"], None, "fits 2 files under"),
    ("two spellings fit", "x/photo.jpg", ["PHOTO.JPG", "Photo.jpg"], None, "fits 2 files under"),
    ("upwards", "../secret.png", ["a.png"], None, "leads out of"),
    ("upwards, inside", "sub/../../secret.png", ["a.png"], None, "leads out of"),
    ("encoded upwards", "%2e%2e/secret.png", ["a.png"], None, "is missing"),
    ("absolute", "/etc/passwd", ["a.png"], None, "leads out of"),
    ("a folder", "sub", ["sub/a.png"], None, "is missing"),
    ("nothing", "..", ["a.png"], None, "is none"),
    ("a null", "a\0.png", ["a.png"], None, "is none"),
    ("far too long", "a" * 5000 + ".png", ["a.png"], None, "is missing"),
]


@pytest.mark.parametrize(("name", "files", "meant", "said"), [c[1:] for c in NAMES], ids=[c[0] for c in NAMES])
def test_a_name_finds_the_file_that_it_means_or_none(
    name: str, files: list[str], meant: str | None, said: str, tmp_path: Path
) -> None:
    photo(tmp_path / "secret.png")
    for file in files:
        photo(tmp_path / "photos" / file)
    if meant is None:
        with pytest.raises(ValueError, match=r".") as error:
            find_image(tmp_path / "photos", name)
        assert said in str(error.value) and len(str(error.value)) < 1000
        return
    found = find_image(tmp_path / "photos", name)
    assert found.path == tmp_path / "photos" / meant
    assert bool(found.mended) == bool(said)
    assert all(FOUND_BY_END in why and said in why for why in found.mended)


def test_two_names_are_never_one_file(tmp_path: Path) -> None:
    photo(tmp_path / "000.png")
    names = ("monday/000.png", "tuesday/000.png")
    folder = ImageFolder(tmp_path, names=names)
    for name in names:
        with pytest.raises(ValueError, match=r"fits no file but '000.png', as '.*day/000.png' does"):
            folder.find(name)
    photo(tmp_path / "one" / "a.jpg")
    with pytest.raises(ValueError, match="fits no file but"):
        ImageFolder(tmp_path, names=("one/a.jpg", "two/a.jpg", "A.jpg")).find("A.jpg")
    beside = ImageFolder(tmp_path, names=("000.png", "monday/000.png"))  # the one that is there is no other's
    assert beside.find("000.png").path == tmp_path / "000.png"
    with pytest.raises(ValueError, match=r"fits no file but '000.png', as '000.png' does"):
        beside.find("monday/000.png")
    assert ImageFolder(tmp_path, names=("x/000.png", "x\\000.png")).find("x\\000.png")  # one name, written in two ways


def test_the_folder_to_give_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "train" / "a.png")
    (above,) = find_image(tmp_path / "images", "images/train/a.png").mended
    assert above.endswith(f"; --images {tmp_path} has it by its whole name")
    (below,) = find_image(tmp_path / "images", "a.png").mended
    assert below.endswith(f"; --images {tmp_path / 'images' / 'train'} has it by its whole name")


def test_links_to_images_are_followed_and_one_without_its_file_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "cache" / "blob.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").symlink_to(tmp_path / "cache" / "blob.png")
    (tmp_path / "photos" / "deep").symlink_to(tmp_path / "cache")
    (tmp_path / "photos" / "round").symlink_to(tmp_path / "photos")  # a circle
    (tmp_path / "photos" / "gone.png").symlink_to(tmp_path / "cache" / "gone.png")
    assert find_image(tmp_path / "photos", "a.png").mended == ()
    assert find_image(tmp_path / "photos", "x/blob.png".replace("x", "deep")).size == (HEIGHT, WIDTH)
    assert find_image(tmp_path / "photos", "BLOB.png").path == tmp_path / "photos" / "deep" / "blob.png"
    with pytest.raises(ValueError, match="it is a link to a file that is not there"):
        find_image(tmp_path / "photos", "gone.png")


def test_files_are_told_apart_as_realpath_tells_them(tmp_path: Path) -> None:
    photo(tmp_path / "cache" / "a.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "cache" / "a.png")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "cache")
    (tmp_path / "again").symlink_to(tmp_path / "photos")
    folder = ImageFolder(tmp_path / "again")
    for name in ("link.png", "linked/a.png", "./linked/../linked/a.png"):
        assert folder.file_of(name) == str(tmp_path.resolve() / "cache" / "a.png")
    assert folder.file_of("linked") is None and folder.file_of("b.png") is None


def test_a_large_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(50):
        photo(tmp_path / f"{n}.png")
    walks: list[Path] = []
    walk = os.walk

    def counted(folder: Path, **how: Any) -> Any:
        walks.append(folder)
        return walk(folder, **how)

    monkeypatch.setattr(os, "walk", counted)
    folder = ImageFolder(tmp_path)
    assert {folder.find(f"images\\{n}.png").path.name for n in range(50)} == {f"{n}.png" for n in range(50)}
    assert len(walks) == 1


# Pixels: how a file is written, what of it is shown at the left and right end, and what is said.

LEFT, RIGHT = (24, 2), (24, WIDTH - 3)
Write = Callable[[Path], None]


def alpha(path: Path, under: int, opaque: bool = False) -> None:
    pixels = np.dstack([np.full((HEIGHT, WIDTH, 3), under, np.uint8), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    pixels[:, : WIDTH // 2, 3] = 255 if opaque else 0
    PIL.fromarray(pixels).save(path)


def palette(path: Path, transparent: bool) -> None:
    image = PIL.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([0, 0, 0, *RED])
    image.paste(1, (WIDTH // 2, 0, WIDTH, HEIGHT))
    how: dict[str, Any] = {"transparency": 0} if transparent else {}
    image.save(path, **how)


def deep(path: Path, kind: Any, low: float, high: float, colours: bool = False) -> None:
    values = np.broadcast_to(np.linspace(low, high, WIDTH)[None], (HEIGHT, WIDTH)).astype(kind)
    cv2.imwrite(str(path), np.dstack([values] * 3) if colours else values)


def nan_tiff(path: Path) -> None:
    values = np.broadcast_to(np.linspace(0, 1, WIDTH)[None], (HEIGHT, WIDTH)).astype(np.float32).copy()
    values[:, :8] = np.nan
    PIL.fromarray(values).save(path)


PIXELS: list[tuple[str, str, Write, Any, Any, str]] = [
    ("RGB", "a.png", lambda p: PIL.fromarray(SHADES).save(p), 8, 247, ""),
    ("grey of eight bits", "a.png", lambda p: PIL.fromarray(SHADES[..., 0]).save(p), 8, 247, ""),
    ("bits", "a.png", lambda p: PIL.fromarray(SHADES[..., 0] > 127).save(p), 0, 255, ""),
    ("bits in a TIFF", "a.tif", lambda p: PIL.fromarray(SHADES[..., 0] > 127).save(p), 0, 255, ""),
    ("CMYK", "a.jpg", lambda p: PIL.fromarray(SHADES).convert("CMYK").save(p, quality=98), 8, 247, ""),
    ("RGB in a TIFF", "a.tif", lambda p: PIL.fromarray(SHADES).save(p), 8, 247, ""),
    ("WebP", "a.webp", lambda p: PIL.fromarray(SHADES).save(p, lossless=True), 8, 247, ""),
    ("BMP", "a.bmp", lambda p: PIL.fromarray(SHADES).save(p), 8, 247, ""),
    ("GIF", "a.gif", lambda p: palette(p, False), (0, 0, 0), RED, ""),
    ("a palette", "a.png", lambda p: palette(p, False), (0, 0, 0), RED, ""),
    ("a palette with alpha", "a.png", lambda p: palette(p, True), 255, RED, ON_WHITE),
    ("black under alpha", "a.png", lambda p: alpha(p, 0), 255, 0, ON_WHITE),
    ("alpha in a WebP", "a.webp", lambda p: alpha(p, 0), 255, 0, ON_WHITE),
    ("alpha that hides nothing", "a.png", lambda p: alpha(p, 90, opaque=True), 90, 90, ""),
    (
        "several pictures",
        "a.gif",
        lambda p: PIL.fromarray(SHADES).save(p, save_all=True, append_images=[PIL.new("RGB", (WIDTH, HEIGHT))]),
        8,
        247,
        "of which the first is read",
    ),
]


@pytest.mark.parametrize(
    ("name", "write", "left", "right", "said"), [c[1:] for c in PIXELS], ids=[c[0] for c in PIXELS]
)
def test_an_image_is_shown_as_it_looks(
    name: str, write: Write, left: Any, right: Any, said: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    found = find_image(tmp_path, name, (HEIGHT, WIDTH))
    pixels = found.pixels()
    assert pixels.shape == (HEIGHT, WIDTH, 3) and pixels.dtype == np.uint8
    for at, expected in ((LEFT, left), (RIGHT, right)):
        assert np.abs(pixels[at].astype(int) - expected).max() <= 6
    assert [said in why for why in found.mended] == ([True] if said else [])


DEEP: list[tuple[str, str, Write, str]] = [
    ("12 of 16 bits", "a.png", lambda p: deep(p, np.uint16, 0, 4095), "16-bit grey"),
    ("a narrow range", "a.png", lambda p: deep(p, np.uint16, 20_000, 21_000), "16-bit grey"),
    ("a TIFF of 16 bits", "a.tif", lambda p: deep(p, np.uint16, 0, 4095), "16-bit grey"),
    ("floating point", "a.tif", lambda p: deep(p, np.float32, 0, 1), "floating-point grey"),
    ("holes", "a.tif", nan_tiff, "floating-point grey"),
    ("32 bits", "a.tif", lambda p: deep(p, np.int32, 0, 70_000), "32-bit grey"),
    ("colours of 16 bits", "a.png", lambda p: deep(p, np.uint16, 0, 1023, colours=True), "16-bit colours"),
    ("colours of 16 bits, TIFF", "a.tif", lambda p: deep(p, np.uint16, 0, 1023, colours=True), "16-bit colours"),
    ("PGM of 16 bits", "a.pgm", lambda p: deep(p, np.uint16, 0, 4095), "16-bit grey"),
]


@pytest.mark.parametrize(("name", "write", "kind"), [c[1:] for c in DEEP], ids=[c[0] for c in DEEP])
def test_more_than_eight_bits_are_refused_unless_a_range_is_given(
    name: str, write: Write, kind: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f"has {kind}, .* --grey-range LOW HIGH.* --grey-range auto"):
        find_image(tmp_path, name)
    with pytest.raises(ValueError, match="nothing says which value is white"):
        read_image(tmp_path / name)
    found = ImageFolder(tmp_path, "auto").find(name)
    assert found.mended == (f"its {kind} is shown between the file's own extremes",)
    pixels = found.pixels()
    assert pixels[LEFT].max() < 20 and pixels[RIGHT].min() > 235 and pixels.shape == (HEIGHT, WIDTH, 3)


def test_a_given_range_is_the_same_for_every_file(tmp_path: Path) -> None:
    deep(tmp_path / "a.png", np.uint16, 0, 4095)
    deep(tmp_path / "flat.png", np.uint16, 1000, 1000)
    folder = ImageFolder(tmp_path, (0, 2000))
    pixels = folder.find("a.png").pixels()
    assert folder.find("a.png").mended == ()
    assert abs(int(pixels[24, 16, 0]) - 255 * (16 / 63 * 4095) / 2000) < 3 and pixels[RIGHT].min() == 255
    assert folder.find("flat.png").pixels()[LEFT].tolist() == [128] * 3
    with pytest.raises(ValueError, match="all of its pixels have the same value"):
        ImageFolder(tmp_path, "auto").find("flat.png").pixels()
    assert grey_range(["0", "4095"]) == (0, 4095) and grey_range(["auto"]) == "auto" and grey_range(None) is None
    for wrong in (["5"], ["9", "3"], ["0", "nan"], ["a", "b"], ["auto", "3"], ["1", "2", "3"]):
        with pytest.raises(WrongUse, match="--grey-range"):
            grey_range(wrong)


def test_what_is_larger_than_the_library_takes_says_so_and_how_large_it_is(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 20_000, 8, 2, 0, 0, 0))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    with pytest.raises(ValueError, match=r"has 600,000,000 pixels, more than the 178,956,970 that the library takes"):
        find_image(tmp_path, "a.png")


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("number", range(1, 9))
def test_orientation_is_applied_unless_the_annotations_are_of_the_stored_pixels(
    number: int, kind: str, tmp_path: Path
) -> None:
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[:16, :16] = 255  # a corner that tells how it is turned
    how: dict[str, Any] = {"quality": 98} if kind in ("jpg", "webp") else {}
    PIL.fromarray(stored).save(tmp_path / f"a.{kind}", exif=oriented(number), **how)
    turns: dict[int, Callable[[Any], Any]] = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }
    upright = turns[number](stored)
    found = find_image(tmp_path, f"a.{kind}", upright.shape[:2])
    assert found.size == upright.shape[:2]
    assert np.abs(found.pixels().astype(int) - upright).max() < 60
    assert found.mended == ((IN_DOUBT,) if number in (2, 3, 4) else ())
    raw = find_image(tmp_path, f"a.{kind}", (HEIGHT, WIDTH))
    if number >= 5:
        assert raw.mended == (AS_STORED,) and raw.size == (HEIGHT, WIDTH)
        assert np.abs(raw.pixels().astype(int) - stored).max() < 60
    else:
        assert raw == found


def test_a_square_that_is_turned_is_in_doubt(tmp_path: Path) -> None:
    PIL.new("RGB", (48, 48)).save(tmp_path / "a.jpg", exif=oriented(6))
    assert open_picture(tmp_path / "a.jpg", (48, 48)).mended == (IN_DOUBT,)


def test_raw_annotations_of_a_turned_photo_make_a_row_in_which_they_fit(tmp_path: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[4:14, 4:24] = 255  # where the object is annotated
    (tmp_path / "photos").mkdir()
    PIL.fromarray(pixels).save(tmp_path / "photos" / "a.jpg", exif=oriented(6), quality=98)
    code, found, said = prepared(coco(tmp_path, "a.jpg"), tmp_path / "photos", tmp_path / "rows")
    assert code == 0 and said == [AS_STORED]
    (row,) = found["rows"]
    x1, y1, x2, y2 = json.loads(row["solution"])[0]["bbox_2d"]
    shown = np.asarray(row["image"])
    assert shown[y1 + 1 : y2, x1 + 1 : x2].min() > 200 and shown[y2 + 4 :].max() < 60
    code, _, said = prepared(coco(tmp_path, "a.jpg"), tmp_path / "photos", tmp_path / "strict", "--strict")
    assert code == 1 and said == [f"{AS_STORED} (--strict)"]


# Annotation files' encodings: what is in the file, what is asked for, what is read (or said).

WORD = "红色的方块"
FILES: list[tuple[str, bytes, str | None, str]] = [
    ("UTF-8", WORD.encode(), None, WORD),
    ("UTF-8 with its mark", "\ufeff".encode(), None, ""),
    ("GBK", WORD.encode("gbk"), None, "!is not UTF-8 (byte"),
    ("GBK, asked for", WORD.encode("gbk"), "gbk", WORD),
    ("Shift-JIS, asked for", "赤い".encode("shift_jis"), "shift_jis", "赤い"),
    ("Windows-1252", "café".encode("cp1252"), None, "!--encoding NAME, such as gbk or cp1252"),
    ("Windows-1252, asked for", "café".encode("cp1252"), "cp1252", "café"),
    ("UTF-8 that GBK would misread", WORD.encode(), "gbk", "!is UTF-8, and in gbk it would be other words"),
    ("GBK that is no ASCII", WORD.encode("gbk"), "ascii", "!is not in ascii"),
    ("no such encoding", b"", "klingon", "!there is no such encoding"),
    ("no encoding of texts", b"", "base64", "!there is no such encoding"),
    ("a path", b"", "../../etc", "!there is no such encoding"),
]


@pytest.mark.parametrize(("data", "encoding", "read"), [c[1:] for c in FILES], ids=[c[0] for c in FILES])
def test_annotations_are_utf_8_or_what_is_asked_for(
    data: bytes, encoding: str | None, read: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data + b'""' if data == b"\xef\xbb\xbf" else b'"' + data + b'"')
    if not read.startswith("!"):
        assert load_json(path, encoding) == read
        return
    with pytest.raises(ValueError, match=r".") as error:
        load_json(path, encoding)
    assert read[1:] in str(error.value)


@pytest.mark.parametrize("name", ["utf-16", "utf-32"])
def test_other_unicode_is_refused_with_the_option_that_takes_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(f'"{WORD}"'.encode(name))
    with pytest.raises(ValueError, match=f"say --encoding {name}"):
        load_json(path)
    assert load_json(path, name) == WORD


def test_a_file_in_gbk_makes_no_row_until_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photo(tmp_path / "photos" / "a.png")
    path = coco(tmp_path, "a.png", word=WORD)
    path.write_bytes(path.read_text(encoding="utf-8").encode("gbk"))
    assert prepared(path, tmp_path / "photos", tmp_path / "rows")[0] == 2
    assert "--encoding NAME" in capsys.readouterr().err and not (tmp_path / "rows").exists()
    assert prepared(path, tmp_path / "photos", tmp_path / "rows", "--encoding", "klingon")[0] == 2
    assert "there is no such encoding" in capsys.readouterr().err
    code, found, _ = prepared(path, tmp_path / "photos", tmp_path / "rows", "--encoding", "gbk")
    assert code == 0 and found["rows"]["problem"] == [WORD]


# ReasonSeg's form and labelme's: shapes, images, encodings.


def shape(label: str, kind: str | None, *points: tuple[float, float], **more: Any) -> dict[str, Any]:
    return {"label": label, "points": [list(p) for p in points], **({"shape_type": kind} if kind else {}), **more}


def painted(*shapes: dict[str, Any]) -> np.ndarray:
    return paint(list(shapes), HEIGHT, WIDTH)[0]


def test_rectangles_and_circles_are_what_labelme_means_by_them() -> None:
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    box = (xs >= 10) & (xs <= 30) & (ys >= 5) & (ys <= 20)
    assert np.array_equal(painted(shape("target", "rectangle", (10, 5), (30, 20))), box)
    assert np.array_equal(painted(shape("target", "rectangle", (30, 5), (10, 20))), box)  # the other two corners
    assert np.array_equal(painted(shape("target", "rectangle", (10, 5), (30, 5), (30, 20), (10, 20))), box)
    round_ = (xs - 30) ** 2 + (ys - 20) ** 2 <= 100
    assert np.array_equal(painted(shape("target", "circle", (30, 20), (36, 28))), round_)  # centre, a point of the edge
    cut = (xs - 2) ** 2 + (ys - 3) ** 2 <= 100
    assert np.array_equal(painted(shape("target", "circle", (2, 3), (12, 3))), cut)
    corners = ((10, 5), (30, 5), (20, 20))
    assert np.array_equal(painted(shape("target", None, *corners)), painted(shape("target", "polygon", *corners)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (shape("target", "line", (1, 1), (9, 9)), "its shape_type is 'line'"),
        (shape("target", "linestrip", (1, 1), (9, 9), (3, 5)), "its shape_type is 'linestrip'"),
        (shape("target", "point", (1, 1)), "its shape_type is 'point'"),
        (shape("target", "points", (1, 1), (2, 2)), "its shape_type is 'points'"),
        (shape("target", "mask", (1, 1), (9, 9), mask="iVBOR"), "its shape_type is 'mask'"),
        (shape("target", "oriented_rectangle", (1, 1), (9, 9)), "its shape_type is 'oriented_rectangle'"),
        (shape("target", "rectangle", (1, 1)), "a rectangle has 1 points"),
        (shape("target", "circle", (1, 1), (9, 9), (3, 5)), "a circle has 3 points"),
        ({"label": "target", "shape_type": 7, "points": [[1, 1]]}, "its shape_type is '7'"),
        ({"label": "target", "points": [["1", "2"]]}, "its points are no numbers"),
        ({"label": "target", "points": [[True, 2]]}, "its points are no numbers"),
    ],
)
def test_shapes_without_a_known_area_are_refused_by_name(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        painted(shape("target", "rectangle", (1, 1), (9, 9)), wrong)
    assert "shape 1 (target)" in str(error.value) and said in str(error.value)


def annotated(path: Path, *shapes: dict[str, Any], encoding: str = "utf-8", **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps({"shapes": list(shapes), **more}, ensure_ascii=False).encode(encoding))
    return path


def read(source: Source) -> tuple[list[Sample], list[str]]:
    every = list(source)
    samples = [one for one in every if isinstance(one, Sample)]
    return samples, [one.reason for one in every if isinstance(one, Problem)]


MUG = shape("target", "rectangle", (10, 5), (30, 20))
BESIDE: list[tuple[str, list[str], dict[str, Any], str | None, str]] = [
    ("as published", ["1.jpg"], {}, "1.jpg", ""),
    ("a PNG", ["1.png"], {}, "1.png", ""),
    ("upper-case ending", ["1.JPG"], {}, "1.JPG", ""),
    ("imagePath", ["photo.png"], {"imagePath": "photo.png"}, "photo.png", ""),
    ("imagePath of Windows", ["photo.png"], {"imagePath": "..\\raw\\photo.png"}, "photo.png", "Windows' separators"),
    ("imagePath before the name", ["1.jpg", "photo.png"], {"imagePath": "photo.png"}, "photo.png", ""),
    ("imagePath that is gone", ["1.png"], {"imagePath": "old.png"}, "1.png", "its imagePath is not there"),
    ("the annotated size", ["1.jpg"], {"imageHeight": HEIGHT, "imageWidth": WIDTH}, "1.jpg", ""),
    ("the size as text", ["1.jpg"], {"imageHeight": "48", "imageWidth": "64.0"}, "1.jpg", "written as text"),
    ("another size as text", ["1.jpg"], {"imageHeight": "64", "imageWidth": "48"}, None, "the annotations say 48 x 64"),
    ("no size", ["1.jpg"], {"imageHeight": 0, "imageWidth": 0}, "1.jpg", ""),
    ("no number", ["1.jpg"], {"imageHeight": "high", "imageWidth": 64}, None, "'high', no whole number"),
    ("another size", ["1.jpg"], {"imageHeight": HEIGHT, "imageWidth": 65}, None, "the annotations say 65 x 48"),
    ("two of its name", ["1.jpg", "1.png"], {}, None, "there are 2 images of its name"),
    ("none", [], {"imagePath": "photo.png"}, None, "is missing"),
    ("upwards", [], {"imagePath": "../secret.png"}, None, "leads out of"),
]


@pytest.mark.parametrize(("files", "more", "meant", "said"), [c[1:] for c in BESIDE], ids=[c[0] for c in BESIDE])
def test_a_file_of_shapes_finds_its_image(
    files: list[str], more: dict[str, Any], meant: str | None, said: str, tmp_path: Path
) -> None:
    photo(tmp_path / "secret.png")
    annotated(tmp_path / "val" / "1.json", MUG, text=["the mug"], **more)
    for file in files:
        photo(tmp_path / "val" / file)
    found, problems = read(read_reasonseg(tmp_path / "val"))
    if meant is None:
        assert not found and said in problems[0]
        return
    (one,) = found
    assert one.image.path == tmp_path / "val" / meant and one.masks[0].sum() == 21 * 16  # type: ignore[union-attr]
    assert [said in why for why in one.mended] == ([True] if said else [])


def test_windows_1252_is_read_in_reasonseg_alone_and_counted(tmp_path: Path) -> None:
    annotated(tmp_path / "1.json", MUG, text=["the owner’s café"], encoding="cp1252")
    annotated(tmp_path / "2.json", MUG, text=["the mug"])
    annotated(tmp_path / "3.json", MUG, text=[WORD], encoding="gbk")
    for n in (1, 2, 3):
        photo(tmp_path / f"{n}.jpg")
    found, problems = read(read_reasonseg(tmp_path))
    assert [(one.text, one.mended) for one in found] == [("the owner’s café", (NO_UTF_8,)), ("the mug", ())]
    assert len(problems) == 1 and "3.json is not UTF-8" in problems[0]
    (chinese,) = [one for one in read(read_reasonseg(tmp_path, encoding="gbk"))[0] if one.id == "3"]
    assert chinese.text == WORD and not chinese.mended


def test_a_folder_of_labelme_is_prepared(tmp_path: Path) -> None:
    mugs = (
        shape("red_mug", "rectangle", (2, 2), (12, 12)),
        shape("Red mug", "polygon", (20, 2), (30, 2), (30, 12), (20, 12), group_id=1),
        shape("red_mug", "polygon", (20, 30), (30, 30), (30, 40), (20, 40), group_id=1),  # the same mug, behind a pole
    )
    circle = shape("duck", "circle", (50, 20), (50, 26))
    annotated(tmp_path / "1.json", *mugs, circle, imagePath="1.png", imageHeight=HEIGHT, imageWidth=WIDTH)
    annotated(tmp_path / "2.json", shape("duck", "line", (1, 1), (5, 5)), imagePath="2.png")
    annotated(tmp_path / "3.json", shape("_background_", "polygon", (1, 1), (5, 5), (1, 5)), imagePath="1.png")
    photo(tmp_path / "1.png")
    photo(tmp_path / "2.png")
    found, problems = read(read_labelme(tmp_path))
    assert {one.text: len(one.masks) for one in found} == {"red mug": 2, "duck": 1}
    assert found[0].masks[1].sum() == 2 * 11 * 11
    assert len(problems) == 1 and "its shape_type is 'line'" in problems[0]
    words = ["--source", "labelme", "--root", str(tmp_path), "--out", str(tmp_path / "rows"), "--square", "56"]
    assert prepare.main(words) == 0
    assert list(load_from_disk(str(tmp_path / "rows"))["train"]["problem"]) == ["red mug", "duck"]


def test_labelme_ignores_what_it_says_it_ignores(tmp_path: Path) -> None:
    annotated(tmp_path / "1.json", MUG, shape("__ignore__", "rectangle", (40, 30), (49, 39)))
    photo(tmp_path / "1.png")
    ((one,), problems) = read(read_labelme(tmp_path))
    assert one.text == "target" and one.ignore is not None and one.ignore.sum() == 100 and not problems


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": [1], "a": []}', "a.json: the key 'a' is given twice in one object, with different values"),
        ('{"b": [{"text": "mug", "text": "cup"}]}', "a.json: the key 'text' is given twice"),
        ("[" + "9" * 5000 + "]", "a.json is no JSON: "),
    ],
)
def test_json_that_would_lose_something_is_refused_by_its_name(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=reason):
        load_json(tmp_path / "a.json")


def test_a_key_that_is_given_twice_with_one_value_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1], "a": [1]}')
    assert load_json(tmp_path / "a.json") == {"a": [1]}
