"""ReasonSeg's files: which are Windows-1252, and photos whose orientation is in doubt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PIL

from training.data.images import AS_STORED, IN_DOUBT
from training.data.readers.coco import read_coco
from training.data.readers.english import foreign_text, is_english
from training.data.readers.labelme import read_labelme
from training.data.readers.reasonseg import read_reasonseg
from training.data.samples import Problem, Sample, Source

WIDTH, HEIGHT = 64, 48
CORNERS = [[10, 5], [30, 5], [30, 20], [10, 20]]
MUG = {"label": "target", "shape_type": "polygon", "points": CORNERS}


def photo(path: Path, orientation: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    exif = PIL.Exif()
    exif[0x112] = orientation
    PIL.new("RGB", size, (120, 60, 30)).save(path, exif=exif)


def annotated(path: Path, encoding: str = "utf-8", **more: Any) -> None:
    path.write_bytes(json.dumps({"shapes": [MUG], **more}, ensure_ascii=False).encode(encoding))


def read(source: Source) -> tuple[list[Sample], list[str]]:
    every = list(source)
    samples = [one for one in every if isinstance(one, Sample)]
    return samples, [one.reason for one in every if isinstance(one, Problem)]


ENGLISH = [
    *("the", "mug", "that's", "cup", "left-hand", "I", "2", "what", "sign", "(blue)", "table,", "duck?"),
    *("café", "Café’s", "crème", "brûlée", "naïve", "déjà", "fiancée", "piñata", "façade", "Zoë", "Köln", "tête"),
    *("owner’s", "’90s", "“hot", "mug”", "‘red", "one’", "“‘no’”", "so…", "20°", "3×4", "wait—what", "5–6", "10\xa0cm"),
]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(ENGLISH), max_size=9), st.sampled_from([" ", " – ", " — ", ", "]))
def test_english_with_typographic_signs_and_loanwords_is_windows_1252(words: list[str], between: str) -> None:
    text = between.join(["the mug", *words, "on the left"])
    assert is_english(text.encode("cp1252").decode("cp1252"))
    assert foreign_text(json.dumps({"text": [text, 'a "café"\n']}, ensure_ascii=False)) == ""


def test_the_first_string_of_a_file_that_is_not_english_is_named() -> None:
    assert foreign_text('{"text": ["the mug’s", "IKEA “\\n"], "label": "êðóæêà"}') == "IKEA “ "


CYRILLIC = ("абвгдежзийклмнопрстуфхцчшщъыьэюя", ["cp1251", "koi8-r", "iso8859-5", "cp866", "mac_cyrillic"])
GREEK = ("αβγδεζηθικλμνξοπρστυφχψω", ["cp1253", "iso8859-7", "cp737"])


@st.composite
def foreign(draw: st.DrawFn) -> str:
    """Words of another script, perhaps beside one of English and signs, as Windows-1252 would have them."""
    letters, pages = draw(st.sampled_from([CYRILLIC, GREEK]))
    word = st.text(letters + letters.upper(), min_size=2, max_size=9)
    words = draw(st.lists(word, min_size=1, max_size=6))
    text = draw(st.sampled_from([" ", ", ", "-"])).join(words) + draw(st.sampled_from(["", ".", "?"]))
    mixed = (
        draw(st.sampled_from(["{}", "{} 2", "({})", "IKEA {}", "{} IKEA"])) if any(map(str.islower, words)) else "{}"
    )
    data = mixed.format(text).encode(draw(st.sampled_from(pages)))
    return data.decode("cp1252", "replace")


@settings(deadline=None, max_examples=1000)
@given(foreign())
def test_words_of_another_script_are_no_english_in_windows_1252(text: str) -> None:
    assert not is_english(text)


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("кружка", "cp1251"),
        ("и", "cp1251"),
        ("IKEA-в", "cp1251"),
        ("the Samsungов", "cp1251"),
        ("IKEA ТУ", "cp866"),
        ("IKEA ТЕСТ-1", "cp866"),
        ("閃", "gbk"),
        ("кружка IKEA", "koi8-r"),
        ("ТУ", "cp866"),
        ("η κούπα", "cp1253"),
        ("kočka na stole", "cp1250"),
        ("pies na łóżku", "cp1250"),
        ("koń na łące", "cp1250"),
        ("game začne now", "cp1250"),
        ("ďalší red mug", "cp1250"),
        ("mazā māja ir tur", "cp1257"),
        ("kırmızı bardak", "cp1254"),
        ("ספל אדום", "cp1255"),
        ("كوب أحمر", "cp1256"),
        ("แก้วสีแดง", "cp874"),
        ("赤いカップ", "shift_jis"),
        ("빨간 컵", "cp949"),
    ],
)
def test_a_reasonseg_file_in_another_code_page_is_refused_with_the_option_that_takes_it(
    text: str, page: str, tmp_path: Path
) -> None:
    annotated(tmp_path / "1.json", page, text=[text])
    photo(tmp_path / "1.jpg")
    found, (problem,) = read(read_reasonseg(tmp_path))
    assert not found and "1.json is not UTF-8" in problem and "--encoding NAME" in problem
    ((one,), problems) = read(read_reasonseg(tmp_path, encoding=page))
    assert one.text == text and not problems


@pytest.mark.parametrize(
    ("orientation", "size", "annotated_size", "said"),
    [
        (3, (64, 48), (64, 48), IN_DOUBT),
        (3, (64, 48), None, IN_DOUBT),
        (2, (64, 48), (64, 48), IN_DOUBT),
        (6, (48, 48), (48, 48), IN_DOUBT),
        (6, (64, 48), (64, 48), AS_STORED),
        (6, (64, 48), (48, 64), None),
        (6, (64, 48), None, IN_DOUBT),
        (1, (64, 48), None, None),
    ],
)
def test_every_reader_says_the_same_of_a_photo_whose_orientation_is_in_doubt(
    orientation: int, size: tuple[int, int], annotated_size: tuple[int, int] | None, said: str | None, tmp_path: Path
) -> None:
    photo(tmp_path / "1.jpg", orientation, size)
    width, height = annotated_size or (None, None)
    annotated(tmp_path / "1.json", text=["the mug"], imagePath="1.jpg", imageWidth=width, imageHeight=height)
    image = {"id": 1, "file_name": "1.jpg", "width": width, "height": height}
    one = {"id": 1, "image_id": 1, "text": "the mug", "segmentation": [[v for p in CORNERS for v in p]]}
    (tmp_path / "coco").mkdir()
    coco = tmp_path / "coco" / "a.json"
    coco.write_text(json.dumps({"images": [image], "annotations": [one]}))
    for source in (read_reasonseg(tmp_path), read_labelme(tmp_path), read_coco(coco, tmp_path)):
        ((sample,), problems) = read(source)
        of_exif = [why for why in sample.mended if why in (IN_DOUBT, AS_STORED)]
        assert of_exif == ([said] if said else []) and not problems, source.name
