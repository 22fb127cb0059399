"""A page of prepared rows to look at: image, mask outlines, boxes, points, ignored pixels, and the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL
from PIL import ImageDraw

from segzero_ros.overlay import _plain, _wrap, color
from training.data.lettering import Letters, showable
from training.data.rows import ignore_of, masks_of, read_solution

CELL, GAP, LINE, LINES = 280, 14, 15, 3  # pixels; lines of text under a picture
PAPER, INK, PALE = (250, 250, 248), (25, 25, 25), (115, 115, 115)


def page(rows: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """rows: with `masks` where outlines are wanted. Writes a PNG."""
    columns = max(1, min(4, len(rows)))
    width = columns * (CELL + GAP) + GAP
    words, small = Letters(13), Letters(11)
    texts = [showable(_plain(f"“{one.get('problem') or one.get('text')}”")) for one in rows]
    lines = [_wrap(text, words, CELL, LINES) for text in texts]
    high = [CELL + (1 + max(map(len, lines[n : n + columns]))) * LINE + 2 * GAP for n in range(0, len(rows), columns)]
    sheet = PIL.new("RGB", (width, sum(high) + 3 * GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for n, line in enumerate(_wrap(showable(_plain(title)), words, width - 2 * GAP, 2)):
        words.draw(draw, (GAP, 6 + n * LINE), line, PALE)
    for n, one in enumerate(rows):
        x, y = GAP + n % columns * (CELL + GAP), 3 * GAP + sum(high[: n // columns])
        picture, note = cell(one)
        sheet.paste(PIL.fromarray(picture), (x + (CELL - picture.shape[1]) // 2, y))
        small.draw(draw, (x, y + CELL + 4), note, PALE)
        for k, line in enumerate(lines[n], 1):
            words.draw(draw, (x, y + CELL + 5 + k * LINE), line, INK)
    part = path.with_name(path.name + ".part")
    sheet.save(part, format="PNG")
    part.replace(path)


def cell(row: Mapping[str, Any]) -> tuple[NDArray[np.uint8], str]:
    """The picture of one row, RGB, its longer side CELL pixels; and a line that says what is in it."""
    image = row["image"]
    pixels = np.asarray(image if isinstance(image, np.ndarray) else image.convert("RGB"))
    height, width = pixels.shape[:2]
    f = CELL / max(height, width)
    size = (max(1, round(width * f)), max(1, round(height * f)))
    how = cv2.INTER_AREA if f < 1 else cv2.INTER_CUBIC
    canvas: NDArray[np.uint8] = np.array(cv2.resize(pixels, size, interpolation=how), np.uint8)
    known = row.get("masks") is not None or row.get("mask") is not None
    masks = list(masks_of(row)) if known else []
    ignore = ignore_of(row)
    if ignore is not None:
        _hatch(canvas, _fit(ignore, size))
    for n, mask in enumerate(masks, 1):
        outlines, _ = cv2.findContours(_fit(mask, size).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, color(n), 1, cv2.LINE_AA)
    targets = read_solution(row["solution"]) if row.get("solution") else ()
    for n, target in enumerate(targets, 1):
        x1, y1, x2, y2 = (min(round(v * f), size[k % 2] - 1) for k, v in enumerate(target.box))
        cv2.rectangle(canvas, (x1 - 1, y1 - 1), (x2 + 1, y2 + 1), (20, 20, 20), 1)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), color(n), 1)
    for n, target in enumerate(targets, 1):
        for k, (x, y) in enumerate(target.points):
            where = (round(x * f), round(y * f))
            cv2.circle(canvas, where, 4, (20, 20, 20), -1, cv2.LINE_AA)
            cv2.circle(canvas, where, 3, (255, 255, 255) if k == 0 else color(n), -1, cv2.LINE_AA)
    count = len(targets) if row.get("solution") else len(masks)
    what = "nothing matches" if not count else f"{count} object{'s' if count > 1 else ''}"
    parts = [what, f"{row['img_width']} x {row['img_height']}", *(["hatched: ignored"] if ignore is not None else [])]
    return canvas, "   ".join(parts)


def _fit(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    return np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5)


def _hatch(canvas: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    ys, xs = np.nonzero(mask)
    stripe = (xs + ys) % 8 < 2
    canvas[ys, xs] = (0.6 * canvas[ys, xs] + 0.4 * 128).astype(np.uint8)
    canvas[ys[stripe], xs[stripe]] = (235, 235, 235)
