"""Items before and after training, on one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.experiments.report.labels import NAMES

TILE, COLUMNS = 300, 4  # pixels of an image on the page of wins and failures; items of an outcome there
TRUE, BEFORE, AFTER = (255, 255, 255), (240, 150, 30), (60, 210, 130)


def draw(samples: Sequence[Mapping[str, Any]], true: Mapping[str, Any], scenes: Mapping[str, Any], path: Path) -> bool:
    """A row per set and outcome. White: the truth, orange: the start's boxes, green: those after training.

    true: id -> boxes; scenes: set -> training.data.tabletop.store.Scenes.
    """
    from PIL import Image, ImageDraw, ImageFont

    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for sample in samples:
        rows.setdefault((sample["set"], sample["outcome"]), []).append(sample)
    if not rows:
        return False
    gap, head, text = 10, 26, 140
    font, small = ImageFont.load_default(size=15), ImageFont.load_default(size=11)
    height = 30 + len(rows) * (head + TILE + text + gap)
    sheet = Image.new("RGB", (COLUMNS * (TILE + gap) + gap, height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((gap, 7), "White: the truth. Orange: the start's boxes. Green: after GRPO with thought.", "black", small)
    y = 30
    for (which, outcome), some in rows.items():
        pen.rectangle((0, y, sheet.width, y + head - 4), fill=(60, 60, 60))
        title = f"{NAMES[which]}: {outcome} ({some[0]['count']} of {some[0]['of']} items; drawn by chance)"
        pen.text((gap, y + 2), title, "white", font)
        for n, sample in enumerate(some[:COLUMNS]):
            x = gap + n * (TILE + gap)
            image = Image.fromarray(np.ascontiguousarray(scenes[sample["set"]].rgb(sample["scene"])))
            factor = TILE / image.width
            image = image.resize((TILE, TILE), Image.Resampling.BICUBIC)
            boxes = ImageDraw.Draw(image)
            drawn = (
                (true[sample["id"]], TRUE, 3),
                (sample["boxes_before"], BEFORE, 2),
                (sample["boxes_after"], AFTER, 2),
            )
            for some_boxes, shade, width in drawn:
                for box in some_boxes:
                    x1, y1, x2, y2 = (v * factor for v in box)
                    out = width if shade is TRUE else 0  # around the object, that it is seen
                    corners = (min(x1, x2) - out, min(y1, y2) - out, max(x1, x2) + out, max(y1, y2) + out)
                    boxes.rectangle(corners, outline=shade, width=width)
            sheet.paste(image, (x, y + head))
            lines = [sample["instruction"], f"IoU {sample['iou_before']:.2f} -> {sample['iou_after']:.2f}"]
            lines += [f"before: {thought(sample['before'])}", f"after: {thought(sample['after'])}"]
            wrapped = [part for line in lines for part in textwrap.wrap(line, 52, max_lines=4, placeholder=" ...")]
            pen.multiline_text((x, y + head + TILE + 3), "\n".join(wrapped), "black", small, spacing=2)
        y += head + TILE + text + gap
    part = path.with_suffix(".part.png")
    sheet.save(part)
    part.replace(path)
    return True


def thought(text: str) -> str:
    """Between the tags; without them the beginning of the text."""
    return text.partition("<think>")[2].partition("</think>")[0] or text[:100]
