"""A sample and the row that it becomes: the published datasets' columns, written and read.

Two kinds, as published (huggingface.co/Ricky06662):
* training rows (refCOCOg_2k_840, VisionReasoner_multi_object_7k_840): COLUMNS; the image is the square, `solution`
  is in its pixels, img_height and img_width are the source's. StAR's (huggingface.co/sj9909) have STAR_MASKS besides,
  a mask per object, which is read here and not written; they need no other column but `problem` and `image`;
* evaluation rows (ReasonSeg_val, refcoco_testA, ...): MASK_COLUMNS; image and mask at the source's size.

Beside these, where asked for, `masks` (one per object) and `ignore`, as COCO's run lengths at the image column's size;
evaluation rows that `prepare` writes always have `ignore`. The published ones hold one mask in which ignored pixels
count as target, so from them they are not known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data import masks as runs
from training.data.objects import Mask, Point, inclusive_box, two_points
from training.data.samples import Box, Sample, Target

LONGEST = 20_000  # characters of a text, those of all objects of an image joined: no prompt that one means
COLUMNS = ("id", "problem", "solution", "image", "img_height", "img_width")
MASK_COLUMNS = ("image", "text", "mask", "image_id", "ann_id", "img_height", "img_width")
STAR_MASKS = "solution_mask"
FORMS = ("list", "single", "mask")
_SINGLE = re.compile(r"<box>\((\d+),(\d+)\),\((\d+),(\d+)\)</box><points>\((\d+),(\d+)\),\((\d+),(\d+)\)</points>")


def features(form: str, extra: bool = False) -> Any:
    """datasets.Features of a form's rows. extra: with `masks` and `ignore`."""
    from datasets import Features, Image, Sequence, Value

    rle = {"size": Sequence(Value("int32")), "counts": Value("string")}
    more = {"masks": [rle], "ignore": rle} if extra else {}
    size = {"img_height": Value("int64"), "img_width": Value("int64")}
    text = Value("string")
    if form == "mask":
        mask = Sequence(Sequence(Value("bool")))
        return Features(
            {"image": Image(), "text": text, "mask": mask, "image_id": text, "ann_id": text, **size, **more}
        )
    return Features({"id": text, "problem": text, "solution": text, "image": Image(), **size, **more})


def clean_text(text: str) -> str:
    """As published: without white space and ".?!" at the ends, in lower case."""
    return text.strip().strip(".?!").lower()


def square_of(image: NDArray[np.uint8], square: int) -> NDArray[np.uint8]:
    """(square, square, 3) by OpenCV's area interpolation, as published; the aspect ratio is not kept."""
    if image.shape[:2] == (square, square):
        return image
    return np.asarray(cv2.resize(image, (square, square), interpolation=cv2.INTER_AREA), np.uint8)


def square_mask(mask: Mask, square: int) -> Mask:
    """bool (square, square), nearest neighbours; not empty where `mask` is not, however thin it is."""
    small = cv2.resize(mask.astype(np.uint8), (square, square), interpolation=cv2.INTER_NEAREST) > 0
    if mask.any() and not small.any():
        small = cv2.resize(mask.astype(np.float32), (square, square), interpolation=cv2.INTER_AREA) > 0
    return np.asarray(small)


def targets_of(sample: Sample, points: str = "published") -> tuple[Target, ...]:
    """Box and points of every object, pixels of the sample's image, as annotated or from the masks.

    Raises ValueError for an empty mask.
    """
    if sample.targets is not None:
        return sample.targets
    return tuple(Target(inclusive_box(mask), two_points(mask, points)) for mask in sample.masks)


def scaled(values: Sequence[int], fx: float, fy: float) -> list[int]:
    """x, y, x, y, ... by the two factors, half up, as published."""
    return [int(v * (fy if n % 2 else fx) + 0.5) for n, v in enumerate(values)]


def write_solution(targets: Sequence[Target], form: str) -> str:
    """form: "single" (Seg-Zero: one object, two points) or "list" (VisionReasoner: any number, a point each).

    Raises ValueError for objects that the form cannot hold.
    """
    if form == "list":
        return json.dumps([{"bbox_2d": list(t.box), "point_2d": list(t.points[0])} for t in targets])
    if form != "single":
        raise ValueError(f'form {form!r}: "list" or "single"')
    if len(targets) != 1 or len(targets[0].points) < 2:
        raise ValueError(
            f"{len(targets)} objects, and the form single holds one with two points; --form list holds any number"
        )
    (x1, y1, x2, y2), ((px, py), (qx, qy), *_) = targets[0].box, targets[0].points
    return f"<box>({x1},{y1}),({x2},{y2})</box><points>({px},{py}),({qx},{qy})</points>"


def read_solution(solution: str) -> tuple[Target, ...]:
    """Either form, in pixels of the square. Raises ValueError."""
    match = _SINGLE.fullmatch(solution.strip())
    if match:
        x1, y1, x2, y2, px, py, qx, qy = (int(v) for v in match.groups())
        return (Target((x1, y1, x2, y2), ((px, py), (qx, qy))),)
    try:
        found = json.loads(solution)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"the solution is neither <box>..</box><points>..</points> nor JSON: {solution[:80]!r}"
        ) from error
    if not isinstance(found, list):
        raise ValueError(f"the solution is no list: {solution[:80]!r}")
    return tuple(_target(item) for item in found)


def _target(item: Any) -> Target:
    box, point = (item.get(k) for k in ("bbox_2d", "point_2d")) if isinstance(item, dict) else (None, None)
    for value, size in ((box, 4), (point, 2)):
        if not isinstance(value, list) or len(value) != size or not all(type(v) is int for v in value):
            raise ValueError(f"an object is no {{bbox_2d: four, point_2d: two whole numbers}}: {str(item)[:80]}")
    return Target(_box(box), (_point(point),))


def _box(values: Any) -> Box:
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2


def _point(values: Any) -> Point:
    x, y = values
    return x, y


def row(
    sample: Sample,
    square: int = 840,
    form: str = "list",
    points: str = "published",
    pixels: NDArray[np.uint8] | None = None,
) -> dict[str, Any]:
    """All columns of a form, image as RGB uint8; `masks` and `ignore` too.

    square: side in pixels; the form "mask" keeps the source's size. pixels: the sample's, where they are read already.
    Raises ValueError for a sample that cannot be such a row.
    """
    if "<|" in sample.text:
        raise ValueError("the text holds a special token's beginning, <|")
    if len(sample.text) > LONGEST:
        raise ValueError(f"the text has {len(sample.text)} characters, more than {LONGEST}")
    for text in (sample.text, sample.id):
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise ValueError(f"{text[:80]!a} holds half a character (a lone surrogate)")
    pixels = sample.pixels() if pixels is None else pixels
    height, width = pixels.shape[:2]
    for mask in (*sample.masks, *(() if sample.ignore is None else (sample.ignore,))):
        if mask.shape != (height, width):
            raise ValueError(f"a mask is of {mask.shape[1]} x {mask.shape[0]}, the image of {width} x {height}")
    if any(not mask.any() for mask in sample.masks):
        raise ValueError("a mask is empty")
    source = sample.source_size or (height, width)
    size = {"img_height": source[0], "img_width": source[1]}
    if form == "mask":
        if sample.targets is not None and not sample.masks and sample.targets:
            raise ValueError("boxes and points are annotated, and this form holds masks")
        union = np.logical_or.reduce(sample.masks) if sample.masks else np.zeros((height, width), bool)
        columns = {"image": pixels, "text": sample.text, "mask": union, "image_id": image_id(sample)}
        columns |= {"ann_id": "_".join(sample.ann_ids) or sample.id, **size}
        every = [runs.encode(mask) for mask in sample.masks]
        return columns | {"masks": every, "ignore": None if sample.ignore is None else runs.encode(sample.ignore)}
    fx, fy = square / width, square / height
    targets = [
        Target(_box(scaled(t.box, fx, fy)), tuple(_point(scaled(p, fx, fy)) for p in t.points))
        for t in targets_of(sample, points)
    ]
    if any(x1 == x2 or y1 == y2 for x1, y1, x2, y2 in (t.box for t in targets)):
        raise ValueError(
            "an object is no wider or higher than a pixel of the square: no answer wins a box reward there"
        )
    return {
        "id": sample.id,
        "problem": sample.text,
        "solution": write_solution(targets, form),
        "image": square_of(pixels, square),
        **size,
        "masks": [runs.encode(square_mask(mask, square)) for mask in sample.masks],
        "ignore": None if sample.ignore is None else runs.encode(square_mask(sample.ignore, square)),
    }


def image_id(sample: Sample) -> str:
    """The image's name, or the sample's where the image is no file."""
    return sample.id if isinstance(sample.image, np.ndarray) else sample.image.stem


def masks_of(row: Mapping[str, Any]) -> NDArray[np.bool_]:
    """(M, H, W) of a row's objects: from `masks` where it is, else from StAR's column or from `mask` (one, or none
    where it is empty).

    H, W: of the row's image. Raises ValueError where there is neither.
    """
    if row.get("masks") is not None:
        height, width = _size(row)
        found = [runs.decode(dict(rle), height, width) for rle in row["masks"]]
        return np.stack(found) if found else np.zeros((0, height, width), bool)
    if row.get(STAR_MASKS) is not None:
        size = _size(row)
        every = [mask_array(mask) for mask in row[STAR_MASKS]]
        if wrong := [mask.shape for mask in every if mask.shape != size]:
            raise ValueError(f"a mask is of {wrong[0][1]} x {wrong[0][0]}, the image of {size[1]} x {size[0]}")
        return np.stack(every) if every else np.zeros((0, *size), bool)
    if row.get("mask") is None:
        raise ValueError("the row has no masks: prepare it with --masks")
    mask = mask_array(row["mask"])
    return mask[None] if mask.any() else np.zeros((0, *mask.shape), bool)


def ignore_of(row: Mapping[str, Any]) -> Mask | None:
    """bool (H, W) of the pixels that count neither way, or None where that is not known or there are none."""
    rle = row.get("ignore")
    return None if not rle or rle.get("counts") is None else runs.decode(dict(rle), *_size(row))


def mask_array(mask: Any) -> Mask:
    """bool (H, W) from a sequence of rows of booleans. Raises ValueError for one that is no rectangle."""
    try:
        found = np.asarray(mask)
        if found.ndim != 2 or found.dtype.kind not in "biu":
            raise ValueError
    except ValueError:
        raise ValueError("the mask is no rectangle of booleans") from None
    return found.astype(bool)


def _size(row: Mapping[str, Any]) -> tuple[int, int]:
    image = row["image"]
    if isinstance(image, np.ndarray):
        return int(image.shape[0]), int(image.shape[1])
    return int(image.height), int(image.width)
