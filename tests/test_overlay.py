"""The picture of an answer: what was found is tinted, the rest is the camera's, and no text is cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PIL
from PIL import ImageDraw

from segzero_ros import overlay
from segzero_ros.core.contract import Box, Image, Instance, Segmentation, Status
from segzero_ros.core.geometry import mask_box, pack
from segzero_ros.overlay import MAX_LINES, caption, captioned, color, draw_overlay, side_by_side

BoolMask = NDArray[np.bool_]
BAND = (24, 24, 24)


def picture(height: int = 240, width: int = 320) -> Image:
    return np.random.default_rng(3).integers(60, 200, (height, width, 3), np.uint8)


def rectangle(x1: int, y1: int, x2: int, y2: int, height: int = 240, width: int = 320) -> BoolMask:
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def found(index: int, mask: BoolMask, label: str = "mug", **more: Any) -> Instance:
    box: Box = mask_box(mask) or (0.0, 0.0, 2.0, 2.0)
    return replace(Instance(index, label, 0.5, pack(mask), box, box, (), int(mask.sum())), **more)


def answer(*instances: Instance, height: int = 240, width: int = 320, **more: Any) -> Segmentation:
    return replace(Segmentation(Status.OK, "", "the mug", height, width, instances, "It is red."), **more)


def tinted(image: Image, index: int) -> Image:
    return (image * 0.5 + np.array(color(index)) * 0.5).astype(np.uint8)


def test_the_caption_is_below_the_whole_picture() -> None:
    image = picture()
    drawn = captioned(draw_overlay(image, answer()), answer())
    assert drawn.dtype == np.uint8 and drawn.shape[0] > 240 and drawn.shape[1:] == (320, 3)
    assert np.array_equal(drawn[:240], image)
    assert np.array_equal(drawn[240:], caption(answer(), 320))


def test_the_overlay_has_the_size_of_the_frame_and_so_fits_its_camera_info() -> None:
    assert draw_overlay(picture(), answer(found(1, rectangle(100, 100, 200, 140)))).shape == (240, 320, 3)


def test_an_object_is_tinted_and_the_rest_is_as_it_was() -> None:
    image = picture()
    before = image.copy()
    drawn = draw_overlay(image, answer(found(1, rectangle(100, 100, 200, 140))))
    assert np.array_equal(drawn[102:138, 102:198], tinted(image, 1)[102:138, 102:198])
    untouched = ~rectangle(100, 75, 200, 140)  # the label is above the box
    assert np.array_equal(drawn[:240][untouched], image[untouched])
    assert np.array_equal(image, before)


def test_a_box_is_drawn_on_the_first_and_last_pixels_inside() -> None:
    no_mask = found(2, np.zeros((240, 320), bool), prompt_box=(100.0, 100.0, 200.0, 140.0))
    image = picture()
    drawn = draw_overlay(image, answer(no_mask))
    assert (drawn[100, 150:200] == color(2)).all() and (drawn[139, 100:200] == color(2)).all()
    assert (drawn[100:140, 100] == color(2)).all() and (drawn[100:140, 199] == color(2)).all()
    around = rectangle(98, 98, 202, 142) & ~rectangle(100, 100, 200, 140)
    inside = rectangle(101, 101, 199, 139)
    assert np.array_equal(drawn[:240][around | inside], image[around | inside])


def test_the_outline_and_points_of_one_object_show_through_the_next() -> None:
    first = found(1, rectangle(100, 100, 200, 140), prompt_points=((190.0, 130.0),))
    drawn = draw_overlay(picture(), answer(first, found(2, rectangle(150, 120, 250, 200))))
    assert (drawn[125:139, 199] == color(1)).all()
    assert (drawn[130, 190] == 255).all()


def test_neighbouring_objects_differ_clearly_in_colour() -> None:
    for n in range(1, 30):
        for ahead in (1, 2):
            assert np.abs(np.subtract(color(n), color(n + ahead))).max() > 60


@pytest.mark.parametrize("label", ["mug", "W" * 100, "a sentence about the mug that is behind the green one"])
@pytest.mark.parametrize("corner", [(0, 0), (300, 0), (300, 220), (0, 220)])
def test_a_label_is_inside_the_picture(label: str, corner: tuple[int, int]) -> None:
    x, y = corner
    plain = np.full((240, 320, 3), 255, np.uint8)
    bare = found(1, np.zeros((240, 320), bool), label, box=(x, y, x + 20.0, y + 20.0), prompt_box=None)
    drawn = draw_overlay(plain, answer(bare))[:240]
    plate = mask_box((drawn != 255).any(2))
    assert plate is not None
    x1, y1, x2, y2 = map(int, plate)
    edge = np.concatenate([drawn[y1, x1:x2], drawn[y2 - 1, x1:x2], drawn[y1:y2, x1], drawn[y1:y2, x2 - 1]])
    assert (edge == color(1)).all()
    if len(label) == 3:
        assert x1 == x or x2 == 320


def test_a_label_stands_on_its_box_without_covering_it() -> None:
    plain = np.full((240, 320, 3), 255, np.uint8)
    bare = found(1, np.zeros((240, 320), bool), box=(50.0, 100.0, 90.0, 120.0), prompt_box=None)
    plate = mask_box((draw_overlay(plain, answer(bare))[:240] != 255).any(2))
    assert plate is not None and (plate[0], plate[3]) == (50, 100)


def drawn_over_the_whole_picture(image: Image, result: Segmentation) -> Image:
    """The drawing as it is defined, without any thought of speed."""
    canvas = image.copy()
    line = max(1, round(min(image.shape[:2]) / 240))
    for i in result.instances:
        canvas[i.mask] = (0.5 * canvas[i.mask] + 0.5 * np.array(color(i.index), np.float32)).astype(np.uint8)
    for i in result.instances:
        outlines, _ = cv2.findContours(i.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, color(i.index), line)
    drawn = PIL.fromarray(canvas)
    font = overlay._font(max(11, min(image.shape[:2]) // 30), True)
    draw = ImageDraw.Draw(drawn)
    taken: list[Any] = []
    for i in result.instances:
        room = drawn.width - 3 - font.getlength(f"{i.index}  {i.score:.2f}")
        text = f"{i.index} {overlay._shorten(i.label, font, room)} {i.score:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        wide, high = right - left + 2, bottom - top + 4
        x = max(0, min(i.box[0], drawn.width - 1 - wide))
        y = overlay._free(x, max(0, i.box[1] - high - 1), wide, high, drawn.height, taken)
        taken.append((x, y, x + wide, y + high))
        draw.rectangle(taken[-1], fill=color(i.index))
        draw.text((x + 1 - left, y + 2 - top), text, fill=(0, 0, 0), font=font)
    return np.asarray(drawn)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 300), (48, 64), (480, 640), (1080, 1920)])
@pytest.mark.parametrize("share", [1.0, 0.9, 0.5])
def test_drawing_in_the_boxes_of_objects_alone_equals_drawing_over_the_whole_picture(
    share: float, height: int, width: int
) -> None:
    rng = np.random.default_rng(height)
    instances = []
    for index in range(1, 9):
        mask = np.zeros((height, width), np.uint8)
        (x1, x2), (y1, y2) = (sorted(rng.integers(0, side + 1, 2).tolist()) for side in (width, height))
        cv2.ellipse(mask, ((x1 + x2) // 2, (y1 + y2) // 2), (x2 - x1, (y2 - y1) // 2), 20, 0, 360, 1, -1)
        ragged = mask.astype(bool) & (rng.random((height, width)) < share)
        instances.append(found(index, ragged, prompt_box=None))
    result = answer(*instances, height=height, width=width)
    image = picture(height, width)
    wanted = drawn_over_the_whole_picture(image, result)
    assert np.abs(draw_overlay(image, result).astype(int) - wanted).max() <= 1


TEXTS = [
    "",
    "word " * 500,
    "W" * 5000,
    "MMMM WWWW " * 50,
    "红色的杯子" * 300,
    "чашка كوب 🍵 " * 40,
    "\ud800\0\n\t\x1b[31m\u202e" * 40,
]


@pytest.mark.parametrize("width", [64, 320, 1333])
@pytest.mark.parametrize("text", TEXTS)
def test_no_text_leaves_the_caption(text: str, width: int) -> None:
    spoken = answer(instruction=text, reasoning=text, status=Status.PARSE_ERROR, message=text)
    band = caption(spoken, width)
    assert band.shape[1] == width
    line = max(11, width // 45) + 4
    assert line < len(band) <= (2 + MAX_LINES) * line + 8
    for margin in (band[:, :4], band[:, -4:], band[:2], band[-2:]):
        assert (margin == BAND).all()


def test_the_caption_says_how_it_ended_however_long_the_reasoning() -> None:
    def failed(message: str) -> Image:
        return caption(answer(status=Status.TIMEOUT, message=message, reasoning="word " * 500), 320)

    assert not np.array_equal(failed("there was no answer within 2 s"), failed("there was no answer within 3 s"))
    assert len(failed("late " * 500)) == (1 + MAX_LINES) * 15 + 8


def test_the_caption_shows_short_texts_whole() -> None:
    one = caption(answer(reasoning=""), 320)
    two = caption(answer(), 320)
    assert len(two) == len(one) + 15
    assert not np.array_equal(two, caption(answer(reasoning="It is red,"), 320))


def test_side_by_side_has_the_source_at_the_left() -> None:
    image, result = picture(), answer(found(1, rectangle(100, 100, 200, 140)))
    pair = side_by_side(image, result)
    assert np.array_equal(pair[:240, :320], image) and (pair[240:, :320] == BAND).all()
    assert np.array_equal(pair[:, 320:], captioned(draw_overlay(image, result), result))


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 60), st.integers(1, 60))
def test_any_answer_on_a_picture_of_any_size_is_drawn(data: st.DataObject, height: int, width: int) -> None:
    seed = data.draw(st.integers(0, 99))
    anything = st.text(st.characters(categories=None))
    instances = []
    for index in range(1, data.draw(st.integers(0, 3)) + 1):
        mask = np.random.default_rng(seed + index).random((height, width)) > data.draw(st.sampled_from([0, 0.5, 1]))
        points = tuple(data.draw(st.lists(st.tuples(st.floats(0, width), st.floats(0, height)), max_size=2)))
        instances.append(found(index, mask, data.draw(anything), prompt_points=points))
    image = picture(height, width)
    result = answer(*instances, height=height, width=width, reasoning=data.draw(anything))
    drawn = captioned(draw_overlay(image, result), result)
    assert drawn.shape[1:] == (width, 3) and len(drawn) > height
    if not instances:
        assert np.array_equal(drawn[:height], image)


def test_labels_of_objects_side_by_side_do_not_cover_each_other() -> None:
    places = [rectangle(100 + 12 * n, 100, 110 + 12 * n, 140) for n in range(3)]
    drawn = draw_overlay(picture(), answer(*(found(n, mask) for n, mask in enumerate(places, 1))))
    areas = [int((drawn == np.array(color(n), np.uint8)).all(-1).sum()) for n in (1, 2, 3)]
    alone = [
        int((draw_overlay(picture(), answer(found(n, mask))) == np.array(color(n), np.uint8)).all(-1).sum())
        for n, mask in enumerate(places, 1)
    ]
    assert all(a > 0.8 * b for a, b in zip(areas, alone, strict=True))
