"""Pictures of answers: masks in colours, boxes, labels, and the reasoning in a caption band. No ROS."""

from __future__ import annotations

import colorsys
from bisect import bisect_right
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL
from PIL import ImageDraw, ImageFont

from segzero_ros.core.contract import Image, Segmentation, Status

MAX_LINES = 6
MAX_LABEL = 40
FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf")  # where text goes beyond Latin


def color(index: int) -> tuple[int, int, int]:
    """RGB of an instance; neighbours in number differ clearly (golden angle around the hue circle)."""
    r, g, b = colorsys.hsv_to_rgb((0.02 + 0.381966 * (index - 1)) % 1.0, 0.85, 1.0)
    return int(255 * r), int(255 * g), int(255 * b)


def _tint(index: int) -> NDArray[np.uint8]:
    """(1, 256, 3): what half of a value and half of the instance's colour make, for every value and channel."""
    return ((np.arange(256)[:, None] + color(index)) // 2).astype(np.uint8)[None]


def draw_overlay(image: Image, result: Segmentation) -> Image:
    """RGB (H, W, 3): the source image with what was found, of the source's size."""
    canvas = image.copy()
    line = max(1, round(min(image.shape[:2]) / 240))
    for i in result.instances:
        inside = canvas[i.packed.window]
        if inside.size:
            cv2.copyTo(cv2.LUT(inside, _tint(i.index)), i.packed.crop().view(np.uint8), inside)
    for i in result.instances:
        crop = i.packed.crop().view(np.uint8)
        outlines, _ = cv2.findContours(crop, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=i.packed.box[:2])
        cv2.drawContours(canvas, outlines, -1, color(i.index), line)
        if i.prompt_box is not None:
            x1, y1, x2, y2 = (round(v) for v in i.prompt_box)
            cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), color(i.index), line)
        for x, y in i.prompt_points:
            cv2.circle(canvas, (round(x), round(y)), 2 * line, (255, 255, 255), -1)
        for x, y in i.negative_points:
            at, arm = (round(x), round(y)), 6 * line
            cv2.drawMarker(canvas, at, (0, 0, 0), cv2.MARKER_TILTED_CROSS, arm, 3 * line)
            cv2.drawMarker(canvas, at, (255, 255, 255), cv2.MARKER_TILTED_CROSS, arm, line)
    height, width = canvas.shape[:2]
    font = _font(max(11, min(image.shape[:2]) // 30), "".join(i.label for i in result.instances).isascii())
    draw = ImageDraw.Draw(PIL.new("RGB", (1, 1)))  # measures texts
    taken: list[tuple[float, float, float, float]] = []
    for i in result.instances:
        room = width - 3 - font.getlength(f"{i.index}  {i.score:.2f}")
        label = _plain(i.label)
        label = label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 3] + "..."
        text = f"{i.index} {_shorten(label, font, room)} {i.score:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        wide, high = right - left + 2, bottom - top + 4
        x = max(0, min(i.box[0], width - 1 - wide))
        y = _free(x, max(0, i.box[1] - high - 1), wide, high, height, taken)
        taken.append((x, y, x + wide, y + high))
        plate = PIL.new("RGB", (int(wide) + 1, int(high) + 1), color(i.index))
        ImageDraw.Draw(plate).text((1 - left, 2 - top), text, fill=(0, 0, 0), font=font)
        place = canvas[int(y) :, int(x) :][: plate.height, : plate.width]
        place[:] = np.asarray(plate)[: place.shape[0], : place.shape[1]]
    return canvas


def captioned(picture: Image, result: Segmentation) -> Image:
    """RGB (H + caption, W, 3): a picture above a band that says the answer in words."""
    return np.vstack([picture, caption(result, picture.shape[1])])


def caption(result: Segmentation, width: int) -> Image:
    """The band: instruction, reasoning and how it ended, wrapped to the width in pixels."""
    size = max(11, width // 45)
    font = _font(size, (result.instruction + result.reasoning + result.message).isascii())
    room = width - 12
    ended = f"{result.status.value}: {_plain(result.message)}" if result.status is not Status.OK else ""
    lines = _wrap(f'"{_plain(result.instruction)}"', font, room, 2) if result.instruction else []
    last = _wrap(ended, font, room, MAX_LINES // 2)
    words = _wrap(_plain(result.reasoning), font, room, MAX_LINES - len(last)) + last
    height = (len(lines) + len(words)) * (size + 4) + 8
    band = PIL.new("RGB", (width, height), (24, 24, 24))
    draw = ImageDraw.Draw(band)
    for n, line in enumerate(lines + words):
        draw.text((6, 4 + n * (size + 4)), line, fill=(255, 220, 120) if n < len(lines) else (235, 235, 235), font=font)
    return np.asarray(band)


def side_by_side(image: Image, result: Segmentation) -> Image:
    """The source image beside the captioned overlay, RGB."""
    right = captioned(draw_overlay(image, result), result)
    left = np.full((right.shape[0], image.shape[1], 3), 24, np.uint8)
    left[: image.shape[0]] = image
    return np.hstack([left, right])


@lru_cache(maxsize=16)
def _font(size: int, ascii_only: bool) -> Any:
    """Pillow's own font knows Latin letters alone, so other text takes the machine's, where it has one."""
    for name in () if ascii_only else FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size=size)


def _free(x: float, wish: float, wide: float, high: float, bottom: float, taken: list[Any]) -> float:
    """The y nearest above, else below the wish where a label covers no other one; the wish where there is none."""
    column = [(top, end) for left, top, right, end in taken if left <= x + wide and x <= right]
    for up in (True, False):
        y = wish
        while y >= 0 and y + high < bottom:
            covered = [(top, end) for top, end in column if top <= y + high and y <= end]
            if not covered:
                return y
            y = min(top for top, _ in covered) - high - 1 if up else max(end for _, end in covered) + 1
    return wish


def _wrap(text: str, font: Any, width: float, most: int) -> list[str]:
    """At most that many lines, none wider than the width in pixels; dots where there was more."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if line and font.getlength(longer) > width:
            lines.append(line)
            longer = word
        while len(lines) <= most and len(longer) > 1 and font.getlength(longer) > width:
            n = _fitting(longer, font, width)
            lines.append(longer[:n])
            longer = longer[n:]
        line = longer
        if len(lines) > most:
            break
    lines += [line] if line else []
    return lines if len(lines) <= most else [*lines[: most - 1], _shorten(f"{lines[most - 1]}...", font, width)]


def _shorten(text: str, font: Any, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    return text[: _fitting(text, font, width - font.getlength("..."))] + "..."


def _fitting(text: str, font: Any, width: float) -> int:
    """How many characters fit into the width; at least one."""
    return max(1, bisect_right(range(len(text) + 1), width, key=lambda n: font.getlength(text[:n])) - 1)


def _plain(text: str) -> str:
    """What the built-in font and the drawing library can show."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else " " for c in clean)[:2000]
