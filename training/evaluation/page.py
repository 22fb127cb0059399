"""A picture page of an evaluation: failures first, then wins, drawn from the records, with the truth's outline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.contract import Instance, Mask, Segmentation, Status
from segzero_ros.core.geometry import pack, rle_decode
from training.measures.records import NOT_ASKED, Record

WIDTH = 448  # of a tile, pixels
GOOD, BAD = (64, 160, 84), (196, 64, 56)


def quality(record: Record) -> float:
    """What decides between win and failure: the IoU by LISA's protocol, or box accuracy where there are no masks."""
    protocols = record.get("protocols")
    return float(protocols["lisa"]["iou"] if protocols else record["box_acc"])


def choose(records: Sequence[Record], count: int) -> list[Record]:
    """Half failures (IoU below .5), the worst of each kind in turn, and half wins, of each kind in turn and
    those with something to find first."""
    read = [r for r in records if r["status"] not in NOT_ASKED]
    bad = _in_turn(sorted((r for r in read if quality(r) < 0.5), key=lambda r: (quality(r), r["index"])))
    good = _in_turn(sorted((r for r in read if quality(r) >= 0.5), key=lambda r: (r["absent"], r["index"])))
    failures = bad[: max(count // 2, count - len(good))]
    return failures + good[: count - len(failures)]


def _in_turn(records: Sequence[Record]) -> list[Record]:
    kinds: dict[str, list[Record]] = {}
    for r in records:
        kinds.setdefault(r["kind"], []).append(r)
    rounds = range(max(map(len, kinds.values()), default=0))
    return [some[n] for n in rounds for some in kinds.values() if n < len(some)]


def draw(
    records: Sequence[Record],
    look: Callable[[int], tuple[NDArray[np.uint8], Mask | None]],
    path: Path,
    columns: int = 4,
    rows: int = 4,
) -> None:
    """look: index -> RGB image (H, W, 3) and the truth (H, W), or None where only boxes are known."""
    from PIL import Image as PIL

    tiles = [_tile(r, *look(r["index"])) for r in choose(records, columns * rows)]
    if not tiles:
        raise ValueError("there is no record to draw")
    lines = [tiles[n : n + columns] for n in range(0, len(tiles), columns)]
    heights = [max(t.shape[0] for t in line) for line in lines]
    gap = 6
    sheet = np.full((sum(heights) + gap * (len(lines) + 1), columns * (WIDTH + gap) + gap, 3), 255, np.uint8)
    top = gap
    for line, height in zip(lines, heights, strict=True):
        for n, tile in enumerate(line):
            left = gap + n * (WIDTH + gap)
            sheet[top : top + height, left : left + WIDTH] = 24
            sheet[top : top + tile.shape[0], left : left + WIDTH] = tile
        top += height + gap
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.fromarray(sheet).save(path)


def _tile(record: Record, image: NDArray[np.uint8], truth: Mask | None) -> NDArray[np.uint8]:
    from segzero_ros.overlay import captioned, draw_overlay

    height, width = image.shape[:2]
    factor = WIDTH / width
    size = (WIDTH, max(1, round(height * factor)))
    large = np.asarray(
        cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC), np.uint8
    )

    def scaled(mask: Mask) -> Mask:
        return np.asarray(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST), bool)

    instances = []
    for n, box in enumerate(record["boxes"]):
        mask = pack(scaled(rle_decode(record["masks"][n], height, width)))
        x1, y1, x2, y2 = (v * factor for v in box)
        points = tuple((x * factor, y * factor) for x, y in record["points"][n])
        instances.append(
            Instance(
                n + 1, record["labels"][n], record["scores"][n], mask, (x1, y1, x2, y2), (x1, y1, x2, y2), points, 0
            )
        )
    result = Segmentation(
        Status(record["status"]),
        record["message"],
        record["instruction"],
        height=size[1],
        width=size[0],
        instances=tuple(instances),
        reasoning=record["reasoning"],
    )
    if truth is not None and truth.any():
        outline, _ = cv2.findContours(scaled(truth).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(large, outline, -1, (0, 0, 0), 5)
        cv2.drawContours(large, outline, -1, (255, 255, 255), 2)
    return np.vstack([_heading(record), captioned(draw_overlay(large, result), result)])


def _heading(record: Record) -> NDArray[np.uint8]:
    from PIL import Image as PIL
    from PIL import ImageDraw, ImageFont

    band = PIL.new("RGB", (WIDTH, 22), GOOD if quality(record) >= 0.5 else BAD)
    what = "nothing matches" if record["absent"] else f"{len(record['true_boxes'])} to find (white outline)"
    text = f"{'IoU' if record.get('protocols') else 'boxes'} {quality(record):.2f}   {record['kind']}, {what}"
    ImageDraw.Draw(band).text((6, 3), text, fill=(255, 255, 255), font=ImageFont.load_default(size=13))
    return np.asarray(band)
