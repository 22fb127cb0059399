"""What labelme's files become: by the rules of COCO's, read right, counted where mended, or refused with a sentence."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PIL

from training.data import prepare, summary
from training.data.images import _shown
from training.data.masks import CUT, SPECK, decode
from training.data.readers.coco import read_coco
from training.data.readers.groups import SPELLED
from training.data.readers.instances import SAME_MASK
from training.data.readers.labelme import read_labelme
from training.data.readers.names import clean_name
from training.data.readers.reasonseg import read_reasonseg
from training.data.readers.shapes import CUT_CIRCLE
from training.data.samples import Item, Problem, Sample
from training.data.text_files import load_json

WIDTH, HEIGHT = 96, 64
A, B, C = (4, 4, 24, 20), (40, 4, 60, 20), (70, 30, 90, 50)
Box = tuple[float, float, float, float]


def shape(label: Any, box: Box = A, **more: Any) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    corners = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
    return {"label": label, "points": corners, "group_id": None, "shape_type": "polygon", "flags": {}, **more}


def circle(label: str, *points: tuple[float, float]) -> dict[str, Any]:
    return shape(label, shape_type="circle", points=[list(p) for p in points])


def annotate(path: Path, *shapes: Any, image: str | None = "1.png") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"version": "5.4.1", "shapes": list(shapes), "imagePath": image, "imageHeight": None, "imageWidth": None}
    path.write_text(json.dumps(data))
    return path


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.new("RGB", (WIDTH, HEIGHT), (120, 60, 30)).save(path)
    return path


class Found(NamedTuple):
    objects: dict[str, int]  # by instruction
    mended: dict[str, tuple[str, ...]]
    problems: list[str]
    notes: list[str]
    samples: list[Sample]


def read(folder: Path, **how: Any) -> Found:
    source = read_labelme(folder, **how)
    every = list(source)
    samples = [one for one in every if isinstance(one, Sample)]
    assert len({one.text for one in samples}) == len(samples)
    problems = [one.reason for one in every if isinstance(one, Problem)]
    mended = {one.text: one.mended for one in samples if one.mended}
    return Found({one.text: len(one.masks) for one in samples}, mended, problems, list(source.notes), samples)


class Case(NamedTuple):
    shapes: list[Any]
    objects: dict[str, int]
    mended: str = ""  # said of "mug"
    problem: str = ""
    note: str = ""


CASES: dict[str, Case] = {
    "plain": Case([shape("mug"), shape("cup", B)], {"mug": 1, "cup": 1}),
    "a final stop": Case([shape("mug"), shape("mug.", B)], {"mug": 2}, SPELLED),
    "case": Case([shape("mug"), shape("Mug", B)], {"mug": 2}, SPELLED),
    "doubled white space": Case([shape("red mug"), shape("red  mug", B)], {"red mug": 2}),
    "underscores": Case([shape("red mug"), shape("red_mug", B)], {"red mug": 2}),
    "Unicode's forms": Case([shape("caf\u00e9"), shape("cafe\u0301", B)], {"caf\u00e9": 2}),
    "a number": Case([shape(7)], {"7": 1}),
    "the same polygon twice": Case([shape("mug"), shape("mug"), shape("mug", B)], {"mug": 2}, SAME_MASK),
    "two parts of a group": Case([shape("mug", group_id=1), shape("mug", B, group_id=1)], {"mug": 1}),
    "one pixel outside": Case([shape("mug", (70, 10, 97, 60))], {"mug": 1}),
    "a little outside": Case([shape("mug", (70, 10, 99, 60))], {"mug": 1}, CUT),
    "far outside": Case([shape("mug", (60, 10, 160, 60)), shape("cup")], {"cup": 1}, problem="(60, 10) to (160, 60)"),
    "a circle over the border": Case([circle("mug", (5, 30), (25, 30))], {"mug": 1}, CUT_CIRCLE),
    "a circle inside": Case([circle("mug", (30, 30), (45, 30))], {"mug": 1}),
    "a circle outside": Case([circle("mug", (150, 30), (160, 30))], {}, problem="outside of the image"),
    "a description": Case([shape("mug", description="the red mug")], {"mug": 1}, note='"description" is not read: 1'),
    "an empty description": Case([shape("mug", description="")], {"mug": 1}),
    "a stray click": Case([shape("mug"), shape("mug", points=[[3, 3]])], {"mug": 1}, SPECK),
    "a stray click alone": Case(
        [shape("mug", points=[[3, 3]]), shape("cup")], {"cup": 1}, problem="fewer than 3 points"
    ),
    "a polygon without points": Case([shape("mug"), shape("mug", points=[])], {}, problem="its points are none"),
    "a point as an object": Case(
        [shape("mug"), shape("mug", points=[[3, 3]], shape_type="point"), shape("cup", B)],
        {"cup": 1},
        problem="its shape_type is 'point'",
    ),
    "an empty label": Case([shape("mug"), shape("", B)], {"mug": 1}, problem="shape 1 has no label"),
    "a label of a line": Case([shape("mug"), shape("__", B)], {"mug": 1}, problem="shape 1 has no label"),
    "no object": Case([7, shape("mug")], {"mug": 1}, problem="shape 0 has no label"),
    "background": Case(
        [shape("mug"), shape("_background_", B), shape("__background__", C)],
        {"mug": 1},
        note="2 shapes are labelled as background",
    ),
    "a background of its own": Case(
        [shape("mug"), shape("Background.")], {"mug": 1}, problem='"Background." is no object'
    ),
    "a label that only stands for a missing one": Case(
        [shape("mug"), shape("NaN", B)], {"mug": 1}, problem='"NaN" is no object'
    ),
    "a label that was decoded wrongly": Case(
        [shape("mug"), shape("cafÃ©", B)], {"mug": 1}, problem="was decoded wrongly before it was written ('Ã©')"
    ),
    "shares of the image": Case(
        [shape("mug"), shape("cup", (0.1, 0.1, 0.5, 0.75))],
        {"mug": 1},
        problem="lies within the first pixel, as shares",
    ),
    "a hole, or a part, in a group": Case(
        [shape("mug", group_id=1), shape("mug", (8, 8, 12, 12), group_id=1), shape("cup", B)],
        {"cup": 1},
        problem="within another of its group_id, as a hole or as a part",
    ),
    "a part of a group that is there twice": Case([shape("mug", group_id=1), shape("mug", group_id=1)], {"mug": 1}),
    "an object within another": Case([shape("mug", group_id=1), shape("mug", (8, 8, 12, 12), group_id=2)], {"mug": 2}),
    "hyphens": Case([shape("left-hand mug"), shape("left hand mug", B)], {"left hand mug": 2}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_shapes_become_instructions_with_all_their_objects(case: Case, tmp_path: Path) -> None:
    annotate(tmp_path / "1.json", *case.shapes)
    photo(tmp_path / "1.png")
    found = read(tmp_path)
    assert found.objects == case.objects
    assert found.mended.get("mug", ()) == ((case.mended,) if case.mended else ())
    assert len(found.problems) == bool(case.problem) and all(case.problem in p for p in found.problems)
    assert len(found.notes) == bool(case.note) and all(case.note in n for n in found.notes)


def test_two_files_of_one_image_are_refused_where_they_differ(tmp_path: Path) -> None:
    annotate(tmp_path / "1.json", shape("mug"))
    annotate(tmp_path / "1_copy.json", shape("mug", B), image="./1.png")
    annotate(tmp_path / "2.json", shape("mug"), image="2.png")
    for n in (1, 2):
        photo(tmp_path / f"{n}.png")
    found = read(tmp_path)
    assert [s.ann_ids for s in found.samples] == [("2",)]
    assert [p.split(" is of the same image")[0] for p in found.problems] == ["'1_copy.json'", "'1.json'"]


def test_a_renamed_file_that_names_its_old_image_gives_nothing_to_it(tmp_path: Path) -> None:
    annotate(tmp_path / "a.json", shape("mug"), image="1.png")
    annotate(tmp_path / "1.json", shape("cup", B), image="1.png")
    photo(tmp_path / "a.png")
    photo(tmp_path / "1.png")
    found = read(tmp_path)
    assert not found.objects and len(found.problems) == 2


def test_a_file_that_repeats_another_is_not_needed(tmp_path: Path) -> None:
    annotate(tmp_path / "1.json", shape("mug"))
    annotate(tmp_path / "1_copy.json", shape("mug"))
    photo(tmp_path / "1.png")
    found = read(tmp_path)
    assert found.objects == {"mug": 1} and not found.problems and "1 annotation files only repeat" in found.notes[0]


def test_the_pictures_that_the_files_hold_are_not_kept(tmp_path: Path) -> None:
    for n in range(8):
        path = annotate(tmp_path / f"{n}.json", shape("mug"), image=f"{n}.png")
        path.write_text(json.dumps({**json.loads(path.read_text()), "imageData": "A" * 2_000_000}))
        photo(tmp_path / f"{n}.png")
    tracemalloc.start()
    source = read_labelme(tmp_path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source.items) == 8 and held < 4_000_000


def test_instructions_that_differ_have_names_that_differ(tmp_path: Path) -> None:
    annotate(tmp_path / "1.json", shape("red mug"), shape("red/mug", B), shape("red - mug", C))
    annotate(tmp_path / "1.JSON", shape("red mug"), image="2.png")
    annotate(tmp_path / "1_red-mug.json", shape("2"), image="3.png")
    for n in (1, 2, 3):
        photo(tmp_path / f"{n}.png")
    items = read_labelme(tmp_path).items
    assert len({item.id for item in items}) == 5 and len({item.image for item in items}) == 3


OF_A_LABEL = ["mug", "Mug", "mug.", " MUG", "red_mug", "red mug", "red-mug", "Red  mug!", "cup", "background", "7"]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(named=st.lists(st.tuples(st.sampled_from(OF_A_LABEL), st.sampled_from([A, B, C])), min_size=1, max_size=7))
def test_labelme_and_coco_make_the_same_instructions_of_the_same_names(
    named: list[tuple[str, Box]], tmp_path: Path
) -> None:
    photo(tmp_path / "1.png")
    annotate(tmp_path / "1.json", *(shape(label, box) for label, box in named))
    labels = list(dict.fromkeys(label for label, _ in named))
    annotations = [
        {
            "id": n,
            "image_id": 1,
            "category_id": labels.index(label),
            "segmentation": [[v for point in shape("", box)["points"] for v in point]],
        }
        for n, (label, box) in enumerate(named)
    ]
    categories = [{"id": n, "name": label} for n, label in enumerate(labels)]
    coco = tmp_path / "coco" / "a.json"
    coco.parent.mkdir(exist_ok=True)
    images = [{"id": 1, "file_name": "1.png"}]
    coco.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    ours, theirs = list(read_labelme(tmp_path)), list(read_coco(coco, tmp_path))
    assert [len(s.masks) for s in ours if isinstance(s, Sample)] == [
        len(s.masks) for s in theirs if isinstance(s, Sample)
    ]
    assert [clean_name(s.text) for s in ours if isinstance(s, Sample)] == [
        clean_name(s.text) for s in theirs if isinstance(s, Sample)
    ]
    kinds = [{(p.kind, p.reason) for p in found if isinstance(p, Problem)} for found in (ours, theirs)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize(
    "image", ["a" * 300 + ".png", "../" + "a" * 300, "a\0b", "../" * 400, "\ud83c.png", "."], ids=range(6)
)
def test_a_hostile_file_falls_alone(image: str, tmp_path: Path) -> None:
    annotate(tmp_path / "1.json", shape("mug"))
    annotate(tmp_path / "2.json", shape("mug"), image=image)
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    for n in (3, 4):  # of one image, to be compared
        annotate(tmp_path / f"{n}.json", shape("mug", points=deep), image="3.png")
    annotate(tmp_path / "5.json", shape("mug", points=[[float("nan"), 1], [1e300, 2], [3, 4]]), image="5.png")
    annotate(tmp_path / "6.json", shape("mug"), image="6.png")
    (tmp_path / "6.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    for n in (1, 3, 5):
        photo(tmp_path / f"{n}.png")
    found = read(tmp_path)
    assert found.objects == {"mug": 1} and len(found.problems) == 4


def test_one_image_stands_for_no_two_names(tmp_path: Path) -> None:
    annotate(tmp_path / "1.json", shape("mug"), image="cam1/9.png")
    annotate(tmp_path / "2.json", shape("mug"), image="cam2/9.png")
    photo(tmp_path / "9.png")
    found = read(tmp_path)
    assert not found.objects and all("fits no file but" in p for p in found.problems) and len(found.problems) == 2


def test_files_are_read_whatever_the_case_of_their_ending_and_those_below_are_named(tmp_path: Path) -> None:
    annotate(tmp_path / "1.JSON", shape("mug"))
    annotate(tmp_path / "below" / "2.json", shape("mug"))
    annotate(tmp_path / ".hidden" / "3.json", shape("mug"))
    photo(tmp_path / "1.png")
    found = read(tmp_path)
    assert found.objects == {"mug": 1} and found.notes == [
        "1 *.json in folders below are not read, such as below/2.json"
    ]
    assert read_reasonseg(tmp_path).notes == found.notes
    (tmp_path / "1.JSON").unlink()
    with pytest.raises(ValueError, match=r"there are 1 in folders below, .*: say --root .*/below"):
        read(tmp_path)


def test_an_image_path_that_leads_out_says_which_folder_to_give(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "1.png")
    annotate(tmp_path / "labels" / "1.json", shape("mug"), image="..\\images\\1.png")
    found = read(tmp_path / "labels")
    assert f"say --images {tmp_path / 'images'}" in found.problems[0]


# Ignored pixels.


def test_no_pixel_of_an_object_is_ignored(tmp_path: Path) -> None:
    annotate(tmp_path / "1.json", shape("mug"), shape("__ignore__", (4, 4, 34, 20)))
    photo(tmp_path / "1.png")
    (one,) = read(tmp_path).samples
    assert one.ignore is not None and one.ignore.sum() == 10 * 17 and not (one.ignore & one.masks[0]).any()
    annotate(tmp_path / "1.json", shape("mug"), shape("__ignore__"))
    assert read(tmp_path).samples[0].ignore is None  # all of it is the mug's


def test_what_one_text_ignores_is_no_less_another_texts_object() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    mug, cup, crowd = (np.zeros((64, 64), bool) for _ in range(3))
    mug[:16], cup[32:48], crowd[32:] = True, True, True
    samples = [Sample("1_a", "mug", image, (mug,), crowd), Sample("1_b", "cup", image, (cup,))]
    items = tuple(Item(s.id, "1", lambda s=s: s) for s in samples)  # type: ignore[misc]
    recipe = prepare.Recipe("my.json", square=64, masks=True, group="image")
    (row,) = prepare.process(items, recipe).rows
    ignored = decode(row["ignore"], 64, 64)
    assert row["problem"] == "'mug' and 'cup'" and np.flatnonzero(ignored.any(1)).tolist() == list(range(48, 64))


def test_a_crowd_that_repeats_an_object_leaves_it_an_object() -> None:
    image, mug = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), bool)
    mug[:16] = True
    items = (Item("1", "1", lambda: Sample("1", "mug", image, (mug,), mug.copy())),)
    (row,) = prepare.process(items, prepare.Recipe("my.json", square=64, form="mask")).rows
    assert row["ignore"] is None and len(row["masks"]) == 1


# Grey ranges.

RAMP = np.linspace(0, 1, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)
HOT = np.where(RAMP == 1, 1e6, RAMP)


@pytest.mark.parametrize(
    ("values", "grey"),
    [
        (RAMP, (0, 4095)),
        (RAMP * 4095, (0, 65535)),
        (RAMP * 65535, (0, 1)),
        (RAMP + 5, (0.0, 1.0)),
        (RAMP, (2, 3)),
        (HOT, "auto"),
    ],
    ids=["of another unit", "12 bits as 16", "far too bright", "above it", "below it", "a hot pixel"],
)
def test_a_range_that_shows_nearly_nothing_is_refused(values: Any, grey: Any) -> None:
    with pytest.raises(ValueError, match=r"nearly all of its values, .* would be shown black or white between"):
        _shown(values, grey)


def test_a_black_picture_that_is_black_is_shown() -> None:
    values = np.zeros((HEIGHT, WIDTH), np.uint16)
    values[0, 0] = 4095
    assert _shown(values, (0, 4095)).sum() == 3 * 255 and _shown(RAMP, (0.25, 0.75)).max() == 255


# What is printed, and files that are no text.


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "utf-8", "utf-16"])
def test_a_line_is_printed_whatever_the_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    monkeypatch.setattr(sys, "stdout", out)
    summary.say("red \u676f \ud83c caf\u00e9 \udcff")
    out.flush()
    shown = raw.getvalue().decode(encoding)
    assert shown.startswith("red ") and "\\ud83c" in shown and shown.endswith("\\udcff\n")


def test_names_that_no_terminal_shows_leave_the_exit_code_alone(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode("\u676f".encode("gbk"))
    annotate(folder / "1.json", shape("\u676f\u5b50"), shape("half \ud83c", B), shape("mug", (0, 0, 500, 9)))
    photo(folder / "1.png")
    words = ["--source", "labelme", "--root", str(folder), "--out", str(tmp_path / "rows"), "--square", "56"]
    call = [sys.executable, "-m", "training.data.prepare", *words, "--workers", "1"]
    root = Path(prepare.__file__).parents[2]
    for encoding in ("ascii", "utf-8"):  # made, and then done already
        env = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
        done = subprocess.run(call, cwd=root, env=env, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert b"1 rows, 1 objects" in done.stdout and b"\\ud83c" in done.stdout

    assert prepare.main([*words[:4], "--out", str(folder / "rows")]) == 2 and not (folder / "rows").exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x1f\x8b\x08\x00rest", "is packed (gzip): unpack it first"),
        (b"PK\x03\x04rest", "is packed (zip)"),
        ('{"shapes": []}'.encode("utf-16-le"), "say --encoding utf-16-le"),
        ('{"shapes": []}'.encode("utf-16-be"), "say --encoding utf-16-be"),
        ('{"shapes": []}'.encode("utf-32-le"), "say --encoding utf-32-le"),
        ('{"shapes": []}'.encode("utf-32-be"), "say --encoding utf-32-be"),
    ],
)
def test_a_file_that_is_no_utf_8_is_called_what_it_is(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "1.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r".") as error:
        load_json(path)
    assert said in str(error.value)
    if "encoding" in said:
        assert load_json(path, said.rpartition(" ")[2]) == {"shapes": []}
