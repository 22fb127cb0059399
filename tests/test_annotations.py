"""Own annotations: what is ambiguous is refused and named, what is harmless is borne and counted.

The table holds small files as exporters write them: labelme2coco, CVAT, Label Studio, Roboflow, VIA, COCO-annotator,
datumaro, fiftyone, detectron2 and scripts around pycocotools.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image as PIL
from pycocotools import mask as pycocotools

from training.data import masks, prepare
from training.data.image_names import ImageFolder
from training.data.images import Picture
from training.data.readers.boxes import check_box
from training.data.readers.coco import read_coco
from training.data.readers.files import one_name_per_file
from training.data.readers.lisa_plus import read_lisa_plus
from training.data.readers.lvis import read_lvis
from training.data.readers.names import clean_name
from training.data.readers.refer import read_refer
from training.data.rows import ignore_of
from training.data.samples import Problem, Sample, Source
from training.data.sources import Reading, open_source
from training.evaluation.items import sample_cases
from training.measures.protocols import score

HEIGHT, WIDTH = 120, 160
ONE, TWO, THREE = (20, 20, 40, 30), (90, 50, 40, 40), (60, 5, 20, 12)  # x, y, width, height
Data = dict[str, Any]
Rows = dict[str, int]  # objects by instruction


def polygon(box: tuple[int, int, int, int]) -> list[int]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def area(box: tuple[int, int, int, int]) -> np.ndarray:
    x, y, w, h = box
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def runs(box: tuple[int, int, int, int], by_row: bool = False) -> Data:
    """Uncompressed, down the columns as COCO's, or wrongly by row."""
    pixels = area(box).ravel(order="C" if by_row else "F")
    edges = np.flatnonzero(np.diff(pixels)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges.tolist(), pixels.size]).tolist()}


def ann(number: Any, category: Any, box: tuple[int, int, int, int], **more: Any) -> Data:
    one = {"id": number, "image_id": 1, "category_id": category, "segmentation": [polygon(box)], "bbox": list(box)}
    return {**one, "area": box[2] * box[3], "iscrowd": 0, **more}


def without(record: Data, *keys: str) -> Data:
    return {k: v for k, v in record.items() if k not in keys}


def image(number: Any = 1, name: str = "first.png", **more: Any) -> Data:
    return {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT, **more}


def names(*every: str) -> list[Data]:
    return [{"id": n, "name": name} for n, name in enumerate(every, 1)]


def file_of(annotations: list[Any], images: list[Any] | None = None, categories: Any = None) -> Data:
    categories = names("red block", "green block") if categories is None else categories
    return {"images": images or [image()], "annotations": annotations, "categories": categories}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("first.png", "second.png", "sub/third.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        PIL.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    return folder


def read(data: Data, photos: Path, **more: Any) -> Source:
    path = photos.parent / f"{photos.name}.json"
    path.write_text(json.dumps(data))
    return read_coco(path, photos, **more)


def rows_of(source: Source) -> Rows:
    return {s.text: len(s.masks) for s in source if isinstance(s, Sample)}


def mended_of(source: Source) -> set[str]:
    return {why for s in source if isinstance(s, Sample) for why in s.mended}


def bad_of(source: Source) -> dict[str, str]:
    return {p.id: p.reason for p in source if isinstance(p, Problem)}


@dataclass(frozen=True)
class Case:
    """rows: objects by instruction. mended, bad, notes: a part of each sentence that is said, and no others are."""

    data: Data
    rows: Rows
    mended: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    options: Data = field(default_factory=dict)


RED, BOTH = {"red block": 1}, {"red block": 1, "green block": 1}
FIRST, SECOND = ann(1, 1, ONE), ann(2, 2, TWO)
TEXTS = [ann(1, 1, ONE, text="the blocks"), ann(2, 1, TWO, text="The  blocks.")]

CASES: dict[str, Case] = {
    # One key, one truth
    "two image records of one id spoil all that is of either": Case(
        file_of(
            [FIRST, ann(2, 2, TWO), ann(3, 1, ONE, image_id=2)],
            [image(1), image(1, "second.png"), image(2, "sub/third.png")],
        ),
        RED,
        bad=("its id is given to 2 different images", "image 1 is 2 different images ('first.png', 'second.png')"),
    ),
    "an image record that is repeated is one": Case(
        file_of([FIRST], [image(), image()]), RED, notes=("1 image records only repeat",)
    ),
    "two category names of one id spoil both names": Case(
        file_of(
            [FIRST, ann(2, 3, TWO), ann(3, 2, THREE)],
            categories=[*names("red block", "green block", "cup"), {"id": 3, "name": "red block"}],
        ),
        {"green block": 1},
        bad=(
            "its id is given to 2 different categories",
            "category 3 is 2 different categories",
            "bad itself, is of the same instruction",
        ),
    ),
    "a category that is repeated is one": Case(
        file_of([FIRST], categories=names("red block") * 2), RED, notes=("1 category records only repeat",)
    ),
    "one name of two category ids is one instruction": Case(
        file_of([ann(1, 1, ONE), ann(2, 7, TWO)], categories=[{"id": 1, "name": "block"}, {"id": 7, "name": "Block"}]),
        {"block": 2},
        mended=("several categories have one name", "spelled in several ways"),
    ),
    "two image records of one file are one image": Case(
        file_of([FIRST, ann(2, 1, TWO, image_id=2)], [image(1), image(2)]),
        {"red block": 2},
        mended=("several image records",),
    ),
    "a name with a folder that is not there is the same file": Case(
        file_of([FIRST, ann(2, 1, TWO, image_id=2)], [image(1), image(2, "./first.png")]),
        {"red block": 2},
        mended=("several image records",),
    ),
    "of two records of one file the one at odds with its size is refused, and what it belongs to": Case(
        file_of([FIRST, ann(2, 1, TWO, image_id=2), ann(3, 2, TWO)], [image(1), image(2, width=161)]),
        {"green block": 1},
        bad=("160 x 120, the annotations say 161 x 120",),
    ),
    "texts that differ in case and stop are one instruction": Case(
        file_of(TEXTS), {"the blocks": 2}, mended=("spelled",)
    ),
    "a text that is another category's name is that category": Case(
        file_of([ann(1, 1, ONE, text="green block"), SECOND]), {"green block": 2}
    ),
    "a further text that is an instruction elsewhere is of it too": Case(
        file_of([ann(1, 1, ONE, text=["the left one", "the block"]), ann(2, 2, TWO, text="the block")]),
        {"the left one": 1, "the block": 2},
    ),
    "an object that is annotated twice is one": Case(
        file_of([FIRST, ann(2, 1, ONE, segmentation=runs(ONE)), ann(3, 1, TWO)]),
        {"red block": 2},
        mended=("equal masks",),
    ),
    "an annotation that is repeated is one": Case(file_of([FIRST, FIRST]), RED, mended=("word for word",)),
    "annotation ids that start again over each image cost nothing": Case(
        file_of([FIRST, ann(1, 2, TWO, image_id=2)], [image(), image(2, "second.png")]),
        BOTH,
        mended=("id is given twice",),
    ),
    "annotation ids that are given twice over one image cost nothing": Case(
        file_of([ann(0, 1, ONE), ann(0, 1, TWO), ann(0, 2, THREE), ann(0, 1, TWO)]),
        {"red block": 2, "green block": 1},
        mended=("id is given twice", "word for word"),
    ),
    "an annotation that is repeated over another record of the file is one": Case(
        file_of([FIRST, {**FIRST, "image_id": 2}], [image(1), image(2)]), RED, mended=("word for word",)
    ),
    "two records of one id are one image in whatever spelling, with a size or without": Case(
        file_of([FIRST, SECOND], [image(), image(1, "./first.png"), without(image(), "width", "height")]),
        BOTH,
        notes=("2 image records only repeat",),
    ),
    "a name whose file is missing takes no file that is named itself": Case(
        file_of(
            [FIRST, ann(2, 1, TWO, image_id=2), ann(3, 2, TWO), ann(4, 2, THREE, image_id=3)],
            [image(1), image(2, "val/first.png"), image(3, "second.png")],
        ),
        {"green block": 1},
        bad=("fits no file but 'first.png', as 'first.png' does", "bad itself, is of the same instruction"),
    ),
    "underscores, hyphens and spaces between words are one": Case(
        file_of(
            [ann(1, 1, ONE, text="coffee_mug"), ann(2, 1, TWO), ann(3, 2, THREE, text="traffic light"), ann(4, 2, ONE)],
            categories=names("coffee_mug", "traffic-light"),
        ),
        {"coffee mug": 2, "traffic light": 2},
        mended=("spelled in several ways",),
    ),
    "a stub of nothing is no object": Case(
        file_of([FIRST, ann(2, 1, ONE, segmentation=[], bbox=[0, 0, 0, 0], area=0)]),
        RED,
        notes=("1 annotations have neither a shape nor a box",),
    ),
    "what is no object is left out": Case(
        file_of([FIRST, ann(2, 2, TWO), ann(3, 3, THREE)], categories=names("red block", "_background_", "__ignore__")),
        RED,
        bad=('"background" is no object', '"ignore" is no object'),
    ),
    "a mark to ignore is named": Case(
        file_of([ann(1, 1, ONE, ignore=1)]), RED, notes=("1 annotations have ignore 1, which is not read",)
    ),
    "a text without spaces under another key is named": Case(
        file_of([ann(1, 1, ONE, referring_text="桌上的红色杯子")]), RED, notes=('"referring_text" is not read: 1 ',)
    ),
    # Texts that are none
    "a text that only stands for a missing one is none (pandas, Python, JavaScript)": Case(
        file_of(
            [
                *(ann(1, 1, ONE, text="nan"), ann(2, 1, TWO, text=float("nan")), ann(3, 1, THREE, text="-")),
                *(ann(4, 2, ONE, text=["None", "null"]), ann(5, 2, TWO, text="N/A", caption="the cup")),
            ]
        ),
        {"red block": 3, "green block": 2, "the cup": 1},
        mended=("a text is none, nan, null",),
    ),
    "a null text is the category's name": Case(file_of([ann(1, 1, ONE, text=None)]), RED),
    "a category that is none is no object": Case(
        file_of([FIRST, SECOND], categories=names("red block", "null")), RED, bad=('"null" is no object',)
    ),
    "a text that was decoded wrongly is refused": Case(
        file_of([ann(1, 1, ONE, text="donâ€™t touch"), ann(2, 1, TWO, text="caf\ufffd"), ann(3, 2, THREE)]),
        {"green block": 1},
        bad=(
            "was decoded wrongly before it was written ('â€™')",
            "was decoded wrongly before it was written ('\ufffd')",
        ),
    ),
    "a category that was decoded wrongly is refused": Case(
        file_of([FIRST, SECOND], categories=names("cafÃ©", "„MENÜ“ «CAFÉ»")),
        {"„MENÜ“ «CAFÉ»": 1},
        bad=("'cafÃ©' was decoded wrongly",),
    ),
    # Marks of exporters
    "what is marked as deleted is left out (COCO-annotator)": Case(
        file_of([ann(1, 1, ONE, deleted=False), ann(2, 1, TWO, deleted=True)]),
        RED,
        notes=("1 annotations are marked as deleted",),
    ),
    "boxes that stand for masks are counted (COCO-annotator)": Case(
        file_of([ann(1, 1, ONE, isbbox=True), ann(2, 1, TWO, isbbox=False)]),
        {"red block": 2},
        notes=("1 annotations have isbbox 1: their mask is but their box",),
    ),
    "crowds beside objects are counted (V7 writes objects of several parts so)": Case(
        file_of([FIRST, ann(2, 1, TWO, iscrowd=1, segmentation=runs(TWO))]),
        RED,
        notes=("1 annotations have iscrowd 1 and are ignored pixels: --crowds keep",),
    ),
    # Ids, sizes and flags
    "ids as text in one place are the numbers of another (VIA)": Case(
        file_of([ann(1, 1, ONE, image_id="1"), ann(2, "2", TWO)]),
        BOTH,
        mended=("a number in one place and text in another",),
    ),
    "ids as text everywhere are ids": Case(
        file_of([ann("a", "r", ONE, image_id="x")], [image("x")], [{"id": "r", "name": "red block"}]), RED
    ),
    "7 and its text are two ids where both are there": Case(
        file_of([ann(1, 7, ONE), ann(2, "7", TWO)], categories=[{"id": 7, "name": "cup"}, {"id": "7", "name": "jug"}]),
        {"cup": 1, "jug": 1},
    ),
    "and where the text is two others": Case(
        file_of(
            [ann(1, 7, ONE), ann(2, "7", TWO)],
            categories=[{"id": 7, "name": "cup"}, {"id": "7", "name": "jug"}, {"id": "7", "name": "pot"}],
        ),
        {"cup": 1},
        bad=("its id is given to 2 different categories", "category '7' is 2 different categories ('jug', 'pot')"),
    ),
    "ids as whole decimal numbers (pandas)": Case(file_of([ann(1.0, 1.0, ONE, image_id=1.0)]), RED),
    "annotations without ids": Case(
        file_of([without(FIRST, "id"), without(SECOND, "id")]), BOTH, mended=("has no id",)
    ),
    "sizes as decimal numbers": Case(
        file_of([FIRST], [image(width=160.0, height=120.0)]), RED, mended=("decimal point",)
    ),
    "sizes as text": Case(file_of([FIRST], [image(width="160", height="120")]), RED, mended=("as text",)),
    "sizes that are no whole numbers are refused": Case(
        file_of([FIRST], [image(width=160.5)]), {}, bad=("width is 160.5, no whole number", "bad itself")
    ),
    "no sizes": Case(file_of([FIRST], [without(image(), "width", "height")]), RED, mended=("not annotated",)),
    "sizes of 0 (datumaro)": Case(file_of([FIRST], [image(width=0, height=0)]), RED, mended=("not annotated",)),
    "a size that is not the file's is refused": Case(
        file_of([FIRST], [image(width=120, height=160)]), {}, bad=("say 120 x 160",)
    ),
    "iscrowd as the text 0": Case(file_of([ann(1, 1, ONE, iscrowd="0")]), RED, mended=("iscrowd is written as text",)),
    "iscrowd false (COCO-annotator)": Case(file_of([ann(1, 1, ONE, iscrowd=False)]), RED),
    "iscrowd that is neither is refused": Case(
        file_of([ann(1, 1, ONE, iscrowd=2), SECOND]), {"green block": 1}, bad=("iscrowd is 2",)
    ),
    "no categories beside texts": Case(
        without(file_of([ann(1, 1, ONE, text="the red block")]), "categories"),
        {"the red block": 1},
        mended=("is none of the file",),
    ),
    "no categories and no texts": Case(without(file_of([FIRST]), "categories"), {}, bad=("there is no category 1",)),
    "a supercategory that is null (fiftyone)": Case(
        file_of([FIRST], categories=[{"id": 1, "name": "red block", "supercategory": None}]), RED
    ),
    # Crowds
    "masks that are all crowds are hinted at (CVAT)": Case(
        file_of(
            [ann(1, 1, ONE, iscrowd=1, segmentation=runs(ONE)), ann(2, 2, TWO, iscrowd="1", segmentation=runs(TWO))]
        ),
        {},
        bad=("is but a crowd here",),
        notes=("all 2 annotations have iscrowd 1, as CVAT writes its masks: --crowds keep",),
    ),
    "and are objects where that is asked for": Case(
        file_of([ann(1, 1, ONE, iscrowd=1, segmentation=runs(ONE)), ann(2, 1, TWO, iscrowd=True)]),
        {"red block": 2},
        notes=("2 annotations have iscrowd 1 and are objects",),
        options={"crowds": "keep"},
    ),
    # Boxes
    "a box of zeros": Case(file_of([ann(1, 1, ONE, bbox=[0, 0, 0, 0])]), RED, mended=("bbox has no area",)),
    "an empty box (labelme2coco)": Case(file_of([ann(1, 1, ONE, bbox=[])]), RED, mended=("bbox has no area",)),
    "a box of texts": Case(file_of([ann(1, 1, ONE, bbox=["20", "20", "40", "30"])]), RED, mended=("bbox has no area",)),
    "a box of null": Case(file_of([ann(1, 1, ONE, bbox=None)]), RED),
    "a box as two corners (detectron2)": Case(
        file_of([ann(1, 1, ONE, bbox=[20, 20, 60, 50])]), RED, mended=("only as two corners",)
    ),
    "a box of another object": Case(
        file_of([ann(1, 1, ONE, bbox=list(TWO)), SECOND]), {"green block": 1}, bad=("IoU 0.00, below 0.5",)
    ),
    "a box in shares of the image (YOLO)": Case(
        file_of([ann(1, 1, ONE, bbox=[0.1, 0.2, 0.3, 0.3])]), {}, bad=("below 0.5",)
    ),
    "run lengths by row": Case(
        file_of([ann(1, 1, ONE, segmentation=runs(ONE, by_row=True))]), {}, bad=("seem to be written row by row",)
    ),
    "a box without a mask": Case(file_of([ann(1, 1, ONE, segmentation=[])]), {}, bad=("the segmentation is empty",)),
    # Shapes
    "contours with specks (cv2)": Case(
        file_of([ann(1, 1, ONE, segmentation=[polygon(ONE), [70, 10], [71, 12, 72, 12]])]),
        RED,
        mended=("of one or two points",),
    ),
    "nothing but specks": Case(
        file_of([ann(1, 1, ONE, segmentation=[[70, 10], [71, 12, 72, 12]])]), {}, bad=("has 2 points; it needs 3",)
    ),
    "a flat polygon (VIA)": Case(
        file_of([ann(1, 1, ONE, segmentation=polygon(ONE))]), RED, mended=("another nesting",)
    ),
    "a polygon in pairs (labelme)": Case(
        file_of([ann(1, 1, ONE, segmentation=[[20, 20], [60, 20], [60, 50], [20, 50]])]),
        RED,
        mended=("another nesting",),
    ),
    "contours as cv2 nests them": Case(
        file_of([ann(1, 1, ONE, segmentation=[[[[20, 20]], [[60, 20]], [[60, 50]], [[20, 50]]]])]),
        RED,
        mended=("another nesting",),
    ),
    "outside by four pixels": Case(
        file_of([ann(1, 1, (-4, 20, 40, 30)), ann(2, 2, (120, 20, 44, 30))]), BOTH, mended=("reaches outside",)
    ),
    "outside by two pixels": Case(file_of([ann(1, 1, (-2, 20, 40, 30))]), RED),
    "outside by twenty pixels": Case(
        file_of([ann(1, 1, (-20, 20, 60, 30))]), {}, bad=("outside of the image of 160 x 120",)
    ),
    "run lengths in decimal numbers": Case(
        file_of(
            [ann(1, 1, ONE, segmentation={"size": [120.0, 160.0], "counts": [float(v) for v in runs(ONE)["counts"]]})]
        ),
        RED,
    ),
    "run lengths of another size": Case(
        file_of([ann(1, 1, ONE, segmentation={**runs(ONE), "size": [160, 120]})]),
        {},
        bad=("are of an image of [160, 120]",),
    ),
    # Texts under other keys
    "an instruction under another key is named": Case(
        file_of([ann(1, 1, ONE, expression="the block left"), ann(2, 1, TWO, expression="the block right")]),
        {"red block": 2},
        notes=('"expression" is not read: 2 annotations hold words there and take their category\'s name',),
    ),
    "attributes too (CVAT, datumaro)": Case(
        file_of([ann(1, 1, ONE, attributes={"text": "left", "occluded": False, "rotation": 0.0})]),
        RED,
        notes=('"attributes.text" is not read: 1 ',),
    ),
    "and RefCOCO's sentences": Case(
        file_of([ann(1, 1, ONE, sentences=[{"raw": "left"}])]), RED, notes=('"sentences" is not read',)
    ),
    "a text that is no text": Case(
        file_of([ann(1, 1, ONE, text={"en": "the left block"})]), RED, notes=('"text" is not read: 1 ',)
    ),
    "captions of images": Case(
        file_of([FIRST], [image(caption="two blocks on a table")]), RED, notes=('"caption" of 1 images is not read',)
    ),
    "what exporters write beside is no instruction": Case(
        file_of(
            [
                ann(
                    1,
                    1,
                    ONE,
                    attributes={"occluded": False},
                    metadata={"note": "a b"},
                    color="#1a2b3c",
                    isbbox=False,
                    keypoints=[],
                    ignore=0,
                ),
                ann(2, 2, TWO, created_at="2024-01-01 10:00:00", score=0.5, track_id="t 1"),
            ],
            [
                image(
                    license=1,
                    date_captured="2024-01-01 10:00:00",
                    extra={"name": "my own photo.png"},
                    path="/datasets/a b/first.png",
                )
            ],
        ),
        BOTH,
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_comes_out_of_a_file_of_ones_own(name: str, photos: Path) -> None:
    case = CASES[name]
    source = read(copy.deepcopy(case.data), photos, **case.options)
    assert rows_of(source) == case.rows
    for parts, said in (
        (case.mended, mended_of(source)),
        (case.bad, set(bad_of(source).values())),
        (case.notes, set(source.notes)),
    ):
        assert all(any(part in one for one in said) for part in parts), said
        assert all(any(part in one for part in parts) for one in said), said


# The masks of what was mended


def only(data: Data, photos: Path, **more: Any) -> Sample:
    (sample,) = [s for s in read(data, photos, **more) if isinstance(s, Sample)]
    return sample


@pytest.mark.parametrize(
    "segmentation",
    [
        [polygon(ONE), [70, 10]],
        polygon(ONE),
        [[20, 20], [60, 20], [60, 50], [20, 50]],
        [[[20, 20], [60, 20], [60, 50], [20, 50]]],
        [[polygon(ONE)]],
        runs(ONE),
        [runs(ONE)],
        masks.encode(area(ONE)),
    ],
)
def test_a_mask_is_the_same_in_whatever_form_it_is_written(segmentation: Any, photos: Path) -> None:
    sample = only(file_of([ann(1, 1, ONE, segmentation=segmentation)]), photos)
    assert np.array_equal(sample.masks[0], area(ONE))


CORNERS = [{"x": x, "y": y} for x, y in ((20, 20), (60, 20), (60, 50), (20, 50))]


@pytest.mark.parametrize(
    ("segmentation", "found"),
    [
        (CORNERS[0], "of objects that hold x, y"),
        (CORNERS, "of objects that hold x, y"),
        ([CORNERS], "of objects that hold x, y"),
        ([polygon(ONE), CORNERS], "of objects that hold x, y"),
        ({"all_points_x": [1, 9, 9], "all_points_y": [1, 1, 9]}, "of objects that hold all_points_x, all_points_y"),
        ([{}], "of objects that hold nothing"),
        ("20,20 60,20 60,50", "str"),
        (True, "bool"),
    ],
)
def test_a_segmentation_in_a_form_that_is_not_cocos_is_refused_and_cocos_shown(
    segmentation: Any, found: str, photos: Path
) -> None:
    source = read(file_of([ann(7, 1, ONE, segmentation=segmentation), ann(8, 2, TWO)]), photos)
    assert rows_of(source) == {"green block": 1}
    assert bad_of(source) == {"annotation 7": f"the segmentation is {found}, neither {masks.WANTED}"}


@pytest.mark.parametrize("box", [None, [0.1, 0.2, 0.5, 0.5]])
def test_shares_of_the_image_are_not_pixels(box: list[float] | None, photos: Path) -> None:
    corners = [0.1, 0.2, 0.6, 0.2, 0.6, 0.7]
    (problem,) = bad_of(read(file_of([ann(7, 1, ONE, segmentation=[corners], bbox=box)]), photos)).values()
    assert "lies within the first pixel, as shares of the image (0 to 1) do: coordinates are pixels" in problem
    for pixels in ([0, 0, 1, 0, 1, 1, 0, 1], [0.5, 0.5, 9, 0.5, 9, 9]):
        assert rows_of(read(file_of([ann(7, 1, ONE, segmentation=[pixels], bbox=None)]), photos)) == RED


@pytest.mark.parametrize(
    ("area_said", "left", "said"),
    [
        (40 * 40 - 100, 40 * 40 - 100, "is a hole, as its area says"),
        (40 * 40, 40 * 40, ""),
        (None, 40 * 40, "taken for a part of it"),
        (0, 40 * 40, "taken for a part of it"),
    ],
)
def test_a_polygon_within_another_is_a_hole_where_the_area_says_so(
    area_said: int | None, left: int, said: str, photos: Path
) -> None:
    outer, inner = (20, 20, 40, 40), (30, 30, 10, 10)
    rings = [polygon(outer), polygon(inner)]
    data = file_of([ann(1, 1, outer, segmentation=rings, area=area_said)])
    (one,) = [s for s in read(data, photos) if isinstance(s, Sample)]
    expected = area(outer) & ~area(inner) if left < 1600 else area(outer)
    assert np.array_equal(one.masks[0], expected) and one.masks[0].sum() == left
    assert len(one.mended) == bool(said) and all(said in why for why in one.mended)


def test_polygons_that_overlap_or_repeat_each_other_have_no_hole(photos: Path) -> None:
    parts = [polygon(ONE), polygon((30, 25, 60, 60)), polygon(ONE)]
    data = file_of([without(ann(1, 1, ONE, segmentation=parts), "area", "bbox")])
    (one,) = [s for s in read(data, photos) if isinstance(s, Sample)]
    assert np.array_equal(one.masks[0], area(ONE) | area((30, 25, 60, 60))) and one.mended == ()


@pytest.mark.parametrize(
    ("corner", "side", "warned"), [(99.5, 640, True), (100.5, 640, False), (99, 640, False), (99.5, 199, False)]
)
def test_polygons_that_may_be_per_cent_are_warned_of(corner: float, side: int, warned: bool, tmp_path: Path) -> None:
    PIL.new("RGB", (side, side)).save(tmp_path / "first.png")
    corners = [10, 10, corner, 10, corner, 60]
    data = file_of([without(ann(1, 1, ONE, segmentation=[corners]), "bbox")], [image(1, width=side, height=side)])
    source = read(data, tmp_path)
    assert rows_of(source) == RED
    assert [note.startswith("all polygons lie within 0 to 100, 1 of them") for note in source.notes] == [True] * warned


@pytest.mark.parametrize(
    ("known", "used", "warned"),
    [((0, 1), (1, 2), True), ((2, 3), (1, 2), True), ((1, 2), (2, 9), False), ((0, 1), (2, 2), False)],
)
def test_categories_that_may_be_counted_from_another_number_are_warned_of(
    known: tuple[int, int], used: tuple[int, int], warned: bool, photos: Path
) -> None:
    categories = [{"id": n, "name": name} for n, name in zip(known, ("red cup", "blue cup"), strict=True)]
    source = read(file_of([ann(1, used[0], ONE), ann(2, used[1], TWO)], categories=categories), photos)
    assert [note.startswith("1 annotations are of no category") for note in source.notes] == [True] * warned


def test_lvis_is_not_read_as_coco_which_annotates_everything(photos: Path) -> None:
    with pytest.raises(ValueError, match=r"is LVIS's.*say --source lvis"):
        read(file_of([FIRST], [image(not_exhaustive_category_ids=[1])]), photos)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(-4, 44), st.integers(-4, 34)), min_size=3, max_size=7))
def test_a_polygon_is_cut_off_at_the_border_and_not_bent(corners: list[tuple[int, int]]) -> None:
    flat = [float(v) for corner in corners for v in corner]
    large = masks.decode([[v + 10 for v in flat]], 60, 60)
    try:
        cut = masks.decode([flat], 30, 40)
    except ValueError as error:
        assert "outside" in str(error)
        xs, ys = flat[0::2], flat[1::2]
        assert min(xs) < -2.8 or max(xs) > 42.8 or min(ys) < -2.6 or max(ys) > 32.6
        return
    outline = np.zeros((60, 60), np.uint8)  # where the library rounds other ways below 0
    cv2.polylines(outline, [np.array(corners, np.int32) + 10], True, 1, 3)
    assert not ((cut != large[10:40, 10:50]) & (outline[10:40, 10:50] == 0)).any()


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 20), st.floats(1, 3), st.floats(1, 3), st.floats(0, 0.99), st.floats(0, 0.99))
def test_a_small_object_agrees_with_its_own_box(x: int, y: int, w: float, h: float, dx: float, dy: float) -> None:
    box = [x + dx, y + dy, w, h]
    x1, y1, x2, y2 = box[0], box[1], box[0] + w, box[1] + h
    assume(max(x2, y2) > 1)  # what lies within the first pixel reads as shares of the image, and is refused
    shape = masks.read_shape([[x1, y1, x2, y1, x2, y2, x1, y2]], 30, 40)
    if shape.mask.any():
        assert check_box(box, shape, None) == ()
        assert check_box(box, masks.Shape(shape.mask), None) == (), "run lengths of it have no points of their own"


def test_a_box_is_no_witness_where_its_numbers_are_none() -> None:
    shape = masks.read_shape([polygon(ONE)], HEIGHT, WIDTH)
    boxes: tuple[Any, ...] = (
        [20, 20, 40],
        [20, 20, 40, float("nan")],
        [20, 20, 40, 10**400],
        "20",
        {},
        [20, 20, -40, 30],
        [[20, 20, 40, 30]],
    )
    for box in boxes:
        assert len(check_box(box, shape, None)) == 1


def test_crowds_are_ignored_pixels_beside_objects_and_objects_where_kept(photos: Path) -> None:
    data = file_of([FIRST, ann(2, 1, TWO, iscrowd=1, segmentation=runs(TWO))])
    ignored, kept = only(data, photos), only(data, photos, crowds="keep")
    assert len(ignored.masks) == 1 and ignored.ignore is not None and np.array_equal(ignored.ignore, area(TWO))
    assert len(kept.masks) == 2 and kept.ignore is None


def test_a_crowd_over_an_object_leaves_it_an_object_in_evaluation_as_in_preparation(photos: Path) -> None:
    around = (10, 10, 60, 50)
    data = file_of([FIRST, ann(2, 1, around, iscrowd=1, segmentation=runs(around))])
    sample = only(data, photos)
    assert sample.ignore is not None and np.array_equal(sample.ignore, area(around) & ~area(ONE))
    (case,) = sample_cases(read(data, photos), "coco")
    asked, (row,) = case.read(), prepare.process(tuple(read(data, photos).items), prepare.Recipe("a", form="mask")).rows
    prepared, mask = ignore_of({**row, "image": sample.pixels()}), asked.targets[0].mask
    assert asked.ignore is not None and prepared is not None and np.array_equal(asked.ignore, prepared)
    assert mask is not None and score(area(ONE), mask, asked.ignore, failed=False)["lisa"]["iou"] == 1
    (case,) = sample_cases(read(file_of([FIRST, ann(2, 1, ONE, iscrowd=1)]), photos), "coco")
    assert case.read().ignore is None


def test_an_image_in_a_folder_is_another_than_one_of_that_name_outside(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        PIL.new("RGB", (8, 8)).save(tmp_path / name)
    both = ["a/1.png", "b/1.png", "a\\1.png", "./a/1.png", "1.png", "b/a/1.png"]
    found = one_name_per_file(both, ImageFolder(tmp_path, names=both))
    assert found == {
        **dict.fromkeys(("a/1.png", "a\\1.png", "./a/1.png"), "a/1.png"),
        **{name: name for name in ("b/a/1.png", "b/1.png", "1.png")},
    }
    PIL.new("RGB", (8, 8)).save(tmp_path / "1.png")
    assert len(set(one_name_per_file([*both[:2], "1.png"], ImageFolder(tmp_path)).values())) == 3


# Which files are there, two names, and how many images they are: 1, 2, or 0 where both are refused.
FILES: list[tuple[str, list[str], tuple[str, str], int]] = [
    ("cameras that number their frames", ["000000000001.jpg"], ("cam1/000000000001.jpg", "cam2/000000000001.jpg"), 0),
    ("splits of one year", ["000000000001.jpg"], ("train2017/000000000001.jpg", "val2017/000000000001.jpg"), 0),
    ("COCO's years", ["000000000001.jpg"], ("COCO_val2014_000000000001.jpg", "train2017/000000000001.jpg"), 1),
    ("more of the path or less", ["q/1.png"], ("1.png", "z/q/1.png"), 1),
    ("Unicode's forms, both there", ["\u00e9.png", "e\u0301.png"], ("\u00e9.png", "e\u0301.png"), 2),
    ("Unicode's forms, one there", ["\u00e9.png"], ("\u00e9.png", "e\u0301.png"), 1),
    ("percents, both there", ["a%20b.png", "a b.png"], ("a%20b.png", "a b.png"), 2),
    ("percents, one there", ["a b.png"], ("a%20b.png", "a b.png"), 1),
    ("a backslash, both there", ["x\\1.png", "x/1.png"], ("x\\1.png", "x/1.png"), 2),
    ("a backslash, one there", ["x/1.png"], ("x\\1.png", "x/1.png"), 1),
    ("a link", ["a.png", "b.png -> a.png"], ("a.png", "b.png"), 1),
]


@pytest.mark.parametrize(("files", "both", "count"), [f[1:] for f in FILES], ids=[f[0] for f in FILES])
def test_an_image_is_the_file_that_its_name_finds(
    files: list[str], both: tuple[str, str], count: int, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    for name, _, target in (file.partition(" -> ") for file in files):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        if target:
            (photos / name).symlink_to(target)
        else:
            PIL.new("RGB", (WIDTH, HEIGHT)).save(photos / name)
    data = file_of(
        [FIRST, ann(2, 1, TWO, image_id=2), ann(3, 2, THREE, image_id=2)], [image(1, both[0]), image(2, both[1])]
    )
    samples = [s for s in read(data, photos, no_target=9) if isinstance(s, Sample)]
    red = sorted(len(s.masks) for s in samples if s.text == "red block")
    assert red == {0: [], 1: [2], 2: [1, 1]}[count]
    assert [s.text for s in samples if not s.masks] == ["green block"] * (count == 2)


def test_records_of_one_file_agree_on_how_it_is_turned(tmp_path: Path) -> None:
    exif = PIL.Exif()
    exif[0x0112] = 6
    photos = tmp_path / "photos"
    photos.mkdir()
    PIL.new("RGB", (WIDTH, HEIGHT)).save(photos / "first.png", exif=exif)
    turned, unsized = image(2, width=HEIGHT, height=WIDTH), without(image(2), "width", "height")
    for other in (turned, unsized):
        source = read(file_of([FIRST, ann(2, 2, ONE, image_id=2)], [image(), other]), photos)
        assert rows_of(source) == {}
        assert all("as EXIF's orientation turns them" in why for why in bad_of(source).values())
    alone = read(file_of([ann(1, 1, ONE, image_id=2)], [unsized]), photos)
    assert rows_of(alone) == RED and any("EXIF" in why for why in mended_of(alone))


# "Nothing matches"


def absent(data: Data, photos: Path) -> list[str]:
    return sorted(s.text for s in read(data, photos, no_target=9) if isinstance(s, Sample) and not s.masks)


def two_images(categories: list[Data], *second: Data) -> Data:
    """One annotation of category 1 over the first image; those given over the second."""
    others = [{**a, "image_id": 2, "id": 10 + n} for n, a in enumerate(second)]
    return file_of([FIRST, *others], [image(), image(2, "second.png")], categories)


def test_a_name_is_asked_where_it_is_annotated_elsewhere(photos: Path) -> None:
    assert absent(two_images(names("red block", "green block"), SECOND), photos) == ["green block", "red block"]


def test_a_name_that_is_annotated_nowhere_is_never_asked(photos: Path) -> None:
    source = read(two_images(names("red block", "green block", "cup"), SECOND), photos, no_target=9)
    assert "cup" not in rows_of(source)
    assert [n for n in source.notes if '"cup"' in n and "no annotation of the file" in n]


MUG = names("thing", "mug", "coffee_mug")


@pytest.mark.parametrize(
    "first",
    [
        {"text": "red mugs", "category_id": None},
        {"text": "red mug"},
        {"text": "what one drinks of"},
        {"expression": "the mug at the left"},
        {"text": ["coffee_mug", "a mug"]},
    ],
)
def test_a_name_is_not_asked_where_a_text_may_mean_it(first: Data, photos: Path) -> None:
    other = ann(2, 2, TWO, image_id=2)
    data = file_of([ann(1, 1, ONE, **first), other], [image(), image(2, "second.png")], MUG)
    assert "mug" not in absent(data, photos)
    data["annotations"][0] = ann(1, 1, ONE)
    assert absent(data, photos) == ["mug"]


def test_no_kind_is_asked_where_a_kind_above_it_is(photos: Path) -> None:
    tree = [
        {"id": n, "name": name, "supercategory": above}
        for n, (name, above) in enumerate((("vehicle", "vehicle"), ("sedan", "car"), ("car", "vehicle")), 1)
    ]
    assert absent(two_images(tree, SECOND), photos) == []


def test_the_root_of_others_is_never_asked_and_their_kind_is_not_where_it_is(photos: Path) -> None:
    tree = [
        {"id": 1, "name": "blocks", "supercategory": "none"},
        {"id": 2, "name": "red-block", "supercategory": "blocks"},
    ]
    source = read(two_images(tree, SECOND), photos, no_target=9)  # "blocks" over the first, "red-block" over the second
    assert all(s.masks for s in source if isinstance(s, Sample))
    assert [n for n in source.notes if '"blocks"' in n and "the supercategory of others" in n]


def test_a_category_that_is_its_own_supercategory_is_asked(photos: Path) -> None:
    own = [{**c, "supercategory": c["name"]} for c in names("red block", "green block")]  # labelme2coco
    assert absent(two_images(own, SECOND), photos) == ["green block", "red block"]


@pytest.mark.parametrize("name", ["_background_", "__ignore__", "Background", "void", "unlabeled"])
def test_a_background_class_is_never_asked(name: str, photos: Path) -> None:
    source = read(two_images(names("red block", name), SECOND), photos, no_target=9)
    assert [s.text for s in source if isinstance(s, Sample) and not s.masks] == ["red block"]
    assert [n for n in source.notes if "no kind of object" in n]


def test_names_are_compared_and_not_ids(photos: Path) -> None:
    categories = names("Red block", "green block", "red block")
    assert absent(two_images(categories, SECOND, ann(3, 3, ONE)), photos) == ["green block"]


def test_a_text_that_is_a_category_s_name_is_there(photos: Path) -> None:
    data = two_images(names("red block", "green block"), SECOND)
    data["annotations"].append(ann(5, 1, THREE, text="a Green Block."))
    data["annotations"].append(ann(6, 1, TWO, text="Green block."))
    assert absent(data, photos) == ["red block"]


def test_nothing_is_asked_where_an_annotation_is_lost_or_of_an_unknown_category(photos: Path) -> None:
    for amiss in (ann(5, 9, THREE), ann(5, 9, THREE, text="a thing"), ann(5, 1, THREE, iscrowd="perhaps")):
        data = two_images(names("red block", "green block"), SECOND)
        data["annotations"].append(amiss)
        assert absent(data, photos) == ["red block"]


def test_images_without_annotations_are_counted_where_they_are_taken_for_empty(photos: Path) -> None:
    source = read(file_of([FIRST], [image(), image(2, "second.png")]), photos, no_target=1)
    assert [n for n in source.notes if n.startswith("1 images have no annotation")]


# Other formats that stand on the same index


def test_lvis_groups_by_file_and_name_and_believes_what_was_verified(photos: Path, tmp_path: Path) -> None:
    first = image(1, neg_category_ids=[3, "4", [], 99], not_exhaustive_category_ids=[2, {}])
    data = file_of(
        [FIRST, ann(2, 5, TWO), ann(3, 2, THREE)],
        [first, image(2, neg_category_ids=5)],
        [*names("cup", "crumb", "acorn", "_background_"), {"id": 5, "name": "Cup"}],
    )
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(data))
    source = read_lvis(path, photos, no_target=9)
    assert rows_of(source) == {"cup": 2, "acorn": 0}
    assert {"annotation 3"} == bad_of(source).keys()


def refer(tmp_path: Path, photos: Path, data: Data, *refs: Data) -> Source:
    folder = tmp_path / "grefcoco"
    folder.mkdir()
    (folder / "instances.json").write_text(json.dumps(data))
    every = [
        {"ref_id": n, "split": "train", "image_id": 1, "sentences": [{"raw": f"object {n}"}], **r}
        for n, r in enumerate(refs)
    ]
    (folder / "grefs(unc).json").write_text(json.dumps(every))
    return read_refer(tmp_path, "grefcoco", images=photos)


def published(kind: str, folder: Path, photos: Path, data: Data) -> Source:
    """The one annotation of `data` by a reader of a published set."""
    path = folder / "instances.json"
    path.write_text(json.dumps(data))
    if kind == "lvis":
        return read_lvis(path, photos)
    if kind == "lisa++":
        row = {"img_path": "first.png", "English Question": "what is it?", "ID": ["1"]}
        (folder / "data.json").write_text(json.dumps([row]))
        return read_lisa_plus(folder / "data.json", photos, instances=path)
    sentences = [{"raw": "a mug", "sent": "a mug"}]
    ref = {"ref_id": 1, "split": "train", "image_id": 1, "ann_id": [1], "sentences": sentences}
    stem = folder / kind / ("grefs(unc).json" if kind == "grefcoco" else "refs(unc).json")
    stem.parent.mkdir(exist_ok=True)
    stem.write_text(json.dumps([ref | ({} if kind == "grefcoco" else {"ann_id": 1})]))
    path.rename(stem.with_name("instances.json"))
    return read_refer(folder, kind, images=photos)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 55)] * 2), min_size=1, max_size=4),
    nested=st.booleans(),
    said=st.sampled_from(["ring", "union", "sum", None, 0, "text"]),
)
@pytest.mark.parametrize("kind", ["refcoco", "refcoco+", "grefcoco", "lvis", "lisa++"])
def test_masks_of_published_sets_are_the_union_of_the_polygons_whatever_the_area(
    kind: str, parts: list[tuple[int, int, int, int]], nested: bool, said: Any, photos: Path, tmp_path: Path
) -> None:
    """As pycocotools has them, with which those sets are evaluated: it knows no holes."""
    if nested:
        x, y, w, h = parts[0]
        parts = [*parts, (x + w // 4, y + h // 4, max(1, w // 2), max(1, h // 2))]
    rings = [polygon(part) for part in parts]
    whole = pycocotools.merge(pycocotools.frPyObjects(rings, HEIGHT, WIDTH))
    counts = np.sum([area(part) for part in parts], 0)
    given = {"ring": int((counts % 2 == 1).sum()), "union": int((counts > 0).sum()), "sum": int(counts.sum())}
    one = without(ann(1, 1, ONE, segmentation=rings, area=given.get(said, said)), "bbox")
    found = [s for s in published(kind, tmp_path, photos, file_of([one])) if isinstance(s, Sample)]
    assert np.array_equal(found[0].masks[0], pycocotools.decode(whole).astype(bool)) and not found[0].mended


def test_a_ref_to_an_id_of_two_records_is_refused(tmp_path: Path, photos: Path) -> None:
    images = [image(1), image(2, "second.png"), image(3, "sub/third.png"), image(3, "second.png")]
    data = file_of([FIRST, ann(2, 2, TWO), ann(2, 2, TWO, image_id=2), ann(4, 1, ONE), ann("5", 1, TWO)], images)
    source = refer(
        tmp_path,
        photos,
        data,
        {"ann_id": [1, 4]},
        {"ann_id": [2]},
        {"ann_id": [-1], "image_id": 3},
        {"ann_id": ["1", 5]},
        {"ann_id": [9]},
    )
    assert rows_of(source) == {"object 0": 1, "object 3": 2}
    said = bad_of(source)
    assert said["ref 1"] == "there are several annotations 2 in instances.json"
    assert said["ref 2"] == "image 3 is several different images in instances.json"
    assert said["ref 4"] == "there is no annotation 9 in instances.json"
    assert mended_of(source) == {"an object is annotated twice with equal masks; it is taken once"}


def test_lisa_plus_counts_what_it_bears(tmp_path: Path, photos: Path) -> None:
    points = {"7": {"points": [polygon(ONE), [3, 3]]}, "8": {"points": [polygon(ONE)]}, "9": {"points": [polygon(TWO)]}}
    rows = [{"img_path": "first.png", "English Question": "which?", "ID": ["7", "8", "9"], "points": points}]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(rows))
    (sample,) = read_lisa_plus(path, photos)
    assert isinstance(sample, Sample) and sample.ann_ids == ("7", "9") and len(sample.mended) == 2


def test_the_options_reach_the_readers(tmp_path: Path, photos: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(file_of([ann(1, 1, ONE, iscrowd=1)])))
    counts = [rows_of(open_source(Reading(s, str(path), images=photos, crowds="keep"))) for s in ("coco", "lvis")]
    assert counts == [RED, RED]


# Any order and any ids

BOXES = (ONE, TWO, THREE)
NAMES = ("cup", "Cup", "jug", "the left cup", "The left cup.", "JUG ")


@dataclass(frozen=True)
class Thing:
    file: int
    category: int
    text: int | None
    box: int


THINGS = st.lists(
    st.builds(
        Thing, st.integers(0, 1), st.integers(0, 3), st.none() | st.integers(0, len(NAMES) - 1), st.integers(0, 2)
    ),
    min_size=1,
    max_size=7,
)


def written(
    things: list[Thing], shuffle: Callable[[int], list[int]], first_id: int, as_text: bool, twice: bool
) -> Data:
    """things in some order, under ids from first_id on, each image with one record or two."""

    def name(n: int) -> int | str:
        return str(first_id + n) if as_text else first_id + n

    files = ("first.png", "second.png")
    images = [image(name(n), files[n % 2]) for n in range(4 if twice else 2)]
    categories = [{"id": name(n), "name": NAMES[n % len(NAMES)]} for n in range(4)]
    annotations = []
    for n, thing in enumerate(things):
        text = {} if thing.text is None else {"text": NAMES[thing.text]}
        whose = images[thing.file + (2 if twice and n % 2 else 0)]["id"]
        annotations.append(
            {**ann(name(n), categories[thing.category]["id"], BOXES[thing.box]), "image_id": whose, **text}
        )
    every = {"images": images, "annotations": annotations, "categories": categories}
    return {key: [records[n] for n in shuffle(len(records))] for key, records in every.items()}


def meaning(source: Source) -> dict[tuple[str, str], frozenset[bytes]]:
    found = {}
    for sample in source:
        assert isinstance(sample, Sample), sample
        assert isinstance(sample.image, Picture)
        key = sample.image.path.name, clean_name(sample.text)
        assert key not in found, "one instruction twice over one image"
        found[key] = frozenset(mask.tobytes() for mask in sample.masks)
        assert len(found[key]) == len(sample.masks), "one object twice"
    return found


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(THINGS, st.randoms(use_true_random=False), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_any_order_and_any_ids_give_the_same_instructions_with_the_same_objects(
    photos: Path, things: list[Thing], random: Any, first_id: int, as_text: bool, twice: bool
) -> None:
    plain = read(written(things, lambda n: list(range(n)), 1, False, False), photos)
    other = read(written(things, lambda n: random.sample(range(n), n), first_id, as_text, twice), photos)
    assert meaning(other) == meaning(plain)
    expected: dict[tuple[str, str], set[bytes]] = {}
    for thing in things:  # by hand: an instruction is a first name; its objects are all that have it as some name
        own = [NAMES[n] for n in (thing.text, thing.category) if n is not None]
        expected.setdefault((("first.png", "second.png")[thing.file], clean_name(own[0])), set())
    for thing in things:
        for n in (thing.text, thing.category):
            key = ("first.png", "second.png")[thing.file], clean_name(NAMES[n]) if n is not None else ""
            if key in expected:
                expected[key].add(area(BOXES[thing.box]).tobytes())
    assert meaning(plain) == expected
    assert {s.text for s in plain if isinstance(s, Sample)} == {s.text for s in other if isinstance(s, Sample)}
