"""Training data: masks to boxes and points, rows as published, and the command that a crash takes nothing from."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from datasets import Dataset, load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PIL
from pycocotools import mask as coco

from training.data import masks, prepare, quality, store
from training.data.image_names import find_image
from training.data.images import image_size, read_image
from training.data.objects import inclusive_box, largest_circles, published_points, two_points
from training.data.rows import (
    COLUMNS,
    MASK_COLUMNS,
    clean_text,
    features,
    ignore_of,
    masks_of,
    read_solution,
    row,
    square_mask,
    write_solution,
)
from training.data.samples import Problem, Sample, Target
from training.data.summary import _kind
from training.rewards import PROFILES

MASKS = arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))).filter(np.any)
# At most four boxes on 36 x 36 pixels.
BLOBS = st.lists(st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 14)] * 2), min_size=1, max_size=4)


def blob(parts: list[tuple[int, int, int, int]]) -> np.ndarray:
    mask = np.zeros((36, 36), bool)
    for x, y, w, h in parts:
        mask[y : y + h, x : x + w] = True
    return mask


# Boxes and points


@settings(deadline=None)
@given(MASKS)
def test_the_box_touches_the_mask_on_every_side_and_holds_it(mask: np.ndarray) -> None:
    x1, y1, x2, y2 = inclusive_box(mask)
    assert mask[y1, x1 : x2 + 1].any() and mask[y2, x1 : x2 + 1].any()
    assert mask[y1 : y2 + 1, x1].any() and mask[y1 : y2 + 1, x2].any()
    assert mask[y1 : y2 + 1, x1 : x2 + 1].sum() == mask.sum()


def to_the_edge(mask: np.ndarray, border: bool) -> np.ndarray:
    """Distance of every pixel to the nearest one outside, by trying them all."""
    around = np.pad(mask, 1) if border else mask
    outside = np.argwhere(~around)
    inside = np.argwhere(np.ones_like(mask)) + int(border)
    near = np.sqrt(((inside[:, None] - outside[None]) ** 2).sum(2)).min(1).reshape(mask.shape)
    return np.where(mask, near, 0)


@settings(deadline=None, max_examples=40)
@given(BLOBS)
def test_published_points_are_the_deepest_and_the_deepest_of_the_farther_half(parts: list) -> None:
    mask = blob(parts)
    (x1, y1), (x2, y2) = published_points(mask)
    depth = to_the_edge(mask, border=False)
    assert depth[y1, x1] == pytest.approx(depth.max())
    ys, xs = np.nonzero(mask)
    apart = np.hypot(xs - x1, ys - y1)
    far = apart > np.median(apart)
    assert mask[y2, x2]
    if far.any():
        assert np.hypot(x2 - x1, y2 - y1) > np.median(apart)
        assert depth[y2, x2] == pytest.approx(depth[ys[far], xs[far]].max())


@settings(deadline=None)
@given(MASKS)
def test_published_points_are_on_the_mask_whatever_it_is(mask: np.ndarray) -> None:
    assert all(mask[y, x] for x, y in published_points(mask))


def test_one_pixel_is_both_points() -> None:
    mask = np.zeros((50, 60), bool)
    mask[30, 41] = True
    assert published_points(mask) == ((41, 30), (41, 30))
    assert two_points(mask, "circles") == ((41, 30), (41, 30))


def test_the_published_border_is_no_edge_and_that_of_a_true_circle_is() -> None:
    mask = np.zeros((60, 60), bool)
    mask[10:50, :20] = True  # a box at the left border
    assert published_points(mask)[0][0] == 0
    assert largest_circles(mask, 1)[0][0][0] in (9, 10)


def test_where_polygons_of_one_object_overlap_the_published_box_does_not_reach() -> None:
    counts = np.zeros((20, 20), np.uint8)
    counts[5:15, 2:12] += 1
    counts[5:15, 10:18] += 1
    assert inclusive_box(counts > 0) == (2, 5, 17, 14) == inclusive_box(counts)
    counts[:, 12:] = 0  # what is left at the right are two columns under both
    assert inclusive_box(counts > 0)[2] == 11 and inclusive_box(counts)[2] == 9


@settings(deadline=None, max_examples=40)
@given(BLOBS)
def test_the_largest_circles_lie_inside_do_not_meet_and_none_is_larger(parts: list) -> None:
    mask = blob(parts)
    rows, columns = np.ogrid[:36, :36]
    free = mask.copy()
    for (x, y), radius in largest_circles(mask, 3):
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2 - 1e-6
        assert free[inside].all()
        assert radius == pytest.approx(to_the_edge(free, border=True).max())
        free &= ~inside


def test_two_discs_have_a_point_each_in_their_middle() -> None:
    mask = np.zeros((100, 200), np.uint8)
    cv2.circle(mask, (50, 50), 40, 1, -1)
    cv2.circle(mask, (150, 50), 25, 1, -1)
    first, second = two_points(mask > 0, "circles")
    assert np.hypot(first[0] - 50, first[1] - 50) <= 1 and np.hypot(second[0] - 150, second[1] - 50) <= 1


@pytest.mark.parametrize("method", ["published", "circles"])
def test_an_empty_mask_has_no_points(method: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        two_points(np.zeros((4, 4), bool), method)


# COCO's segmentations


@settings(deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_run_lengths_come_back_compressed_or_not(mask: np.ndarray) -> None:
    height, width = mask.shape
    rle = masks.encode(mask)
    assert np.array_equal(masks.decode(json.loads(json.dumps(rle)), height, width), mask)
    counts = masks.runs_of(rle["counts"])
    assert np.array_equal(masks.decode({"size": [height, width], "counts": counts}, height, width), mask)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=30), st.binary(max_size=30), st.lists(st.integers(-5, 300), max_size=8)))
def test_damaged_run_lengths_are_refused_and_never_made_up(counts: Any) -> None:
    try:
        mask = masks.decode({"size": [12, 11], "counts": counts}, 12, 11)
    except ValueError:
        return
    total = masks.runs_of(counts) if isinstance(counts, (str, bytes)) else counts
    assert sum(total) == 132 and mask.sum() == sum(total[1::2])


def test_run_lengths_that_the_library_would_fill_from_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="cover 0 pixels, the image has 100"):
        masks.decode({"size": [10, 10], "counts": "000"}, 10, 10)


@pytest.mark.filterwarnings("ignore:__array__")
def test_polygons_are_united_as_the_library_paints_them() -> None:
    parts = [[2, 2, 20, 2, 20, 20, 2, 20], [10.5, 10.5, 30, 10.5, 30, 30, 10.5, 30]]
    expected = coco.decode(coco.merge(coco.frPyObjects(parts, 40, 50))) > 0
    assert np.array_equal(masks.decode(parts, 40, 50), expected)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 2, 3, 4]], "has 2 points; it needs 3"),
        ([[1, 2, 3, 4, 5]], "no pairs"),
        ([[1, 2, 3, 4, 5, float("nan")]], "no finite number"),
        ([[1, 2, 300, 4, 5, 6]], "outside of the image of 50 x 40"),
        ([["1", 2, 3, 4, 5, 6]], "no finite number"),
        ([], "is empty"),
        ("polygon", "neither polygons nor run lengths"),
        ({"size": [50, 40], "counts": [2000]}, "are of an image of"),
        ({"size": [40, 50], "counts": [1, 2]}, "cover 3 pixels"),
    ],
)
def test_a_segmentation_that_cannot_be_says_why(segmentation: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        masks.decode(segmentation, 40, 50)


# Rows


def sample(count: int = 1, ignore: bool = False) -> Sample:
    image = np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)
    found = np.zeros((3, 60, 100), bool)
    found[0, 10:30, 20:50], found[1, 40:55, 60:90], found[2, 0:5, 0:5] = True, True, True
    region = np.zeros((60, 100), bool)
    region[:, 95:] = True
    return Sample("a_1", "the mug", image, tuple(found[:count]), region if ignore else None, ann_ids=("1",))


def test_one_object_is_written_as_seg_zero_and_many_as_vision_reasoner() -> None:
    one = row(sample(1), 840, "single")
    assert tuple(one)[:6] == COLUMNS
    assert one["solution"].startswith("<box>(168,140),(412,406)</box><points>(")  # half up: 49 * 8.4 = 411.6
    two = json.loads(row(sample(2), 840, "list")["solution"])
    assert two[0]["bbox_2d"] == [168, 140, 412, 406] and len(two) == 2
    assert json.loads(row(sample(0), 840, "list")["solution"]) == []
    assert one["image"].shape == (840, 840, 3) and (one["img_height"], one["img_width"]) == (60, 100)


def test_a_form_that_holds_one_object_refuses_two() -> None:
    with pytest.raises(ValueError, match="2 objects"):
        row(sample(2), 840, "single")


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 840)] * 8), max_size=5))
def test_what_is_written_as_a_solution_is_read_again(numbers: list) -> None:
    many = [Target((a, b, c, d), ((e, f), (g, h))) for a, b, c, d, e, f, g, h in numbers]
    assert read_solution(write_solution(many, "list")) == tuple(Target(t.box, t.points[:1]) for t in many)
    if len(many) == 1:
        assert read_solution(write_solution(many, "single")) == tuple(many)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_a_text_that_is_no_solution_is_a_value_error(text: str) -> None:
    try:
        read_solution(text)
    except ValueError:
        return
    assert isinstance(json.loads(text), list)


@pytest.mark.parametrize("form", ["list", "single", "mask"])
def test_rows_are_a_data_set_on_disk_with_the_published_columns(form: str, tmp_path: Path) -> None:
    made = row(sample(1, ignore=True), 112, form)
    names = MASK_COLUMNS if form == "mask" else COLUMNS
    Dataset.from_list([{k: made[k] for k in names}], features=features(form)).save_to_disk(tmp_path)
    back = load_from_disk(str(tmp_path))
    assert tuple(back.column_names) == names
    assert np.array_equal(np.asarray(back[0]["image"]), made["image"])
    for name in set(names) - {"image", "mask"}:
        assert back[0][name] == made[name]
    if form == "mask":
        assert np.array_equal(np.array(back[0]["mask"]), sample(1).masks[0])
        assert np.array_equal(masks_of(back[0])[0], sample(1).masks[0])


def test_masks_and_ignored_pixels_are_kept_beside_the_published_columns() -> None:
    made = row(sample(2, ignore=True), 120, "list")
    found, ignore = masks_of(made), ignore_of(made)
    assert found.shape == (2, 120, 120) and ignore is not None
    assert np.array_equal(found[0], square_mask(sample().masks[0], 120))
    assert ignore[:, 115:].all() and not ignore[:, :113].any()
    assert not (found.any(0) & ignore).any()


@settings(deadline=None, max_examples=40)
@given(BLOBS)
def test_the_right_answer_over_a_row_wins_all_that_the_published_rewards_give(parts: list) -> None:
    one = Sample("a", "it", np.zeros((36, 36, 3), np.uint8), (blob(parts),))
    for form, profile, top in (("single", "seg-zero", 5), ("list", "vision-reasoner", 7)):
        for points in ("published", "circles"):
            try:
                solution = row(one, 840, form, points)["solution"]
            except ValueError:
                assert 1 in (blob(parts).any(0).sum(), blob(parts).any(1).sum())  # a line
                continue
            (target,) = read_solution(solution)
            said: Any = [{"bbox_2d": target.box, "point_2d": target.points[0]}]
            if form == "single":
                said = {"bbox": target.box, "points_1": target.points[0], "points_2": target.points[1]}
            answer = f"<think>It is this.</think><answer>{json.dumps(said)}</answer>"
            assert PROFILES[profile].score([answer], [solution]) == [top]


def test_a_thin_mask_does_not_vanish_in_a_small_square() -> None:
    thin = np.zeros((480, 640), bool)
    thin[:, 321] = True
    assert square_mask(thin, 28).any()


def test_texts_are_cleaned_as_published() -> None:
    assert clean_text("  The man, in Red?!. ") == "the man, in red"


def test_an_image_is_read_upright_and_a_cut_one_is_refused(tmp_path: Path) -> None:
    path, exif = tmp_path / "a.jpg", PIL.Exif()
    exif[0x0112] = 6
    PIL.fromarray(sample().pixels()).save(path, exif=exif)
    assert read_image(path).shape == (100, 60, 3) and image_size(path) == (100, 60)
    for name, kind in (("b.jpg", "JPEG"), ("c.png", "PNG")):
        buffer = io.BytesIO()
        PIL.fromarray(sample().pixels()).save(buffer, kind)
        (tmp_path / name).write_bytes(buffer.getvalue()[: -len(buffer.getvalue()) // 3])
        with pytest.raises(ValueError, match="is cut short"):
            read_image(tmp_path / name)
        (tmp_path / name).write_bytes(buffer.getvalue() + b"video" * 5000)  # a motion photo
        assert read_image(tmp_path / name).shape == (60, 100, 3)


# The segmenter's agreement


def test_a_sample_is_kept_if_the_embedded_segmenter_finds_its_mask_again() -> None:
    from training.data.tabletop.scene import World, random_camera, random_light

    rng = np.random.default_rng(3)
    world = World()
    world.populate(rng, count=(3, 4))
    frame = world.render(random_camera(rng), random_light(rng))
    world.close()
    ids = [i for i in range(1, 7) if (frame.ids == i).sum() > 400]
    right = [frame.ids == i for i in ids]
    segmenter = quality.load("demo")
    assert min(quality.agreement(segmenter, frame.rgb, right)) >= quality.MIN_IOU
    corner = np.zeros_like(right[0])
    corner[:, :90] = True  # no object: a third of the table
    corner[40:180, 20:70] = False
    assert quality.agreement(segmenter, frame.rgb, [corner])[0] < quality.MIN_IOU
    assert quality.agreement(segmenter, frame.rgb, []) == []


# The command


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def own_data(folder: Path, count: int = 4, first: int = 0, bear: bool = False) -> tuple[Path, Path]:
    """A COCO file of one's own: a mug and a duck an image, the duck with a text. bear: one more image, with nothing but
    one, so that it is known that the others have none."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    data: dict[str, Any] = {"images": [], "annotations": []}
    data["categories"] = [{"id": 1, "name": "mug"}, {"id": 2, "name": "duck"}, {"id": 3, "name": "bear"}]
    for n in range(count):
        name = f"{n:03d}.png"
        cv2.imwrite(str(photos / name), picture(first + n))
        data["images"].append({"id": n, "file_name": name, "width": 64, "height": 48})
        polygon = [[4, 4, 24, 4, 24, 24, 4, 24]]
        mug = {"id": 10 * n + 1, "image_id": n, "category_id": 1, "bbox": [4, 4, 20, 20], "segmentation": polygon}
        runs = masks.encode(np.pad(np.ones((10, 20), bool), ((30, 8), (30, 14))))
        duck = {"id": 10 * n + 2, "image_id": n, "category_id": 2, "segmentation": runs, "text": f"the duck {n}"}
        data["annotations"] += [{**mug, "iscrowd": 0}, duck]
    if bear:
        cv2.imwrite(str(photos / "bear.png"), picture(first + count))
        data["images"].append({"id": count, "file_name": "bear.png", "width": 64, "height": 48})
        data["annotations"].append({**mug, "id": 10 * count + 1, "image_id": count, "category_id": 3})
    path = folder / "my.json"
    path.write_text(json.dumps(data))
    return path, photos


def call(path: Path, photos: Path, out: Path, *more: str) -> list[str]:
    return ["--coco", str(path), "--images", str(photos), "--out", str(out), "--square", "56", *more]


def problems(out: Path) -> list[Problem]:
    return [Problem(**json.loads(line)) for line in (out / "problems.jsonl").read_text().splitlines()]


def test_own_data_is_prepared_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, photos = own_data(tmp_path, bear=True)
    assert prepare.main(call(path, photos, tmp_path / "rows", "--no-target", "1", "--json")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert {k: summary[k] for k in ("rows", "objects", "no_target", "bad")} == {
        "rows": 14,
        "objects": 9,
        "no_target": 5,
        "bad": 0,
    }
    data = load_from_disk(str(tmp_path / "rows"))["train"]  # as the published loader opens it
    assert tuple(data.column_names) == COLUMNS
    assert [r["problem"] for r in data][:3] == ["mug", "the duck 0", "bear"]
    assert json.loads(data[1]["solution"])[0]["bbox_2d"] == [26, 35, 43, 46]
    assert read_image(tmp_path / "rows" / "page.png").shape[0] > 300
    assert not (tmp_path / "rows" / "shards").exists()


def spoil(path: Path, photos: Path) -> dict[str, str]:
    """Breaks a COCO file in many ways; what is to be said of each."""
    data = json.loads(path.read_text())
    mugs = {a["image_id"]: a for a in data["annotations"] if a["category_id"] == 1}
    mugs[0]["segmentation"] = [[1, 2, 3, 4]]
    mugs[1]["segmentation"] = [[10, 10, 10.1, 10, 10, 10.1]]
    mugs[2]["bbox"] = [50, 4, 60, 20]
    mugs[3]["category_id"] = 77
    mugs[4]["id"] = 1
    mugs[5]["segmentation"] = {"size": [48, 64], "counts": "garbage"}
    mugs[6]["image_id"] = 999
    mugs[7].pop("segmentation")
    (photos / "008.png").unlink()
    data["images"][9]["width"] = 65
    (photos / "010.png").write_bytes(b"no image")
    (photos / "011.png").write_bytes((photos / "011.png").read_bytes()[:-40])
    data["images"][12]["file_name"] = "../my.json"
    data["annotations"].append("nonsense")
    path.write_text(json.dumps(data))
    return {
        "annotation 1": "a polygon has 2 points; it needs 3",
        "annotation 11": "the mask is empty",
        "annotation 21": "its bbox [50, 4, 60, 20] and the box of its mask [4, 4, 20, 20]",
        "annotation 31": "there is no category 77",
        "annotation 51": "the compressed run lengths are damaged",
        "annotation 61": "there is no image 999",
        "annotation 71": "it has no segmentation",
        "annotation 81": "is missing",
        "annotation 91": "is 64 x 48, the annotations say 65 x 48",
        "annotation 101": "is no image",
        "my_111_mug": "is cut short",
        "annotation 121": "leads out of",
        "annotation without id": "it is str, no object",
    }


def test_every_broken_row_is_named_and_the_good_ones_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, photos = own_data(tmp_path, 14)
    expected = spoil(path, photos)
    assert prepare.main(call(path, photos, tmp_path / "rows")) == 0
    said = {p.id: p.reason for p in problems(tmp_path / "rows") if p.kind == "bad"}
    assert all(p.file == "my.json" for p in problems(tmp_path / "rows"))
    for name, reason in expected.items():
        assert reason in said[name], name
    mended = {p.id: p.reason for p in problems(tmp_path / "rows") if p.kind == "mended"}
    assert list(mended) == ["my_1_mug_2"] and "id is given twice" in mended["my_1_mug_2"]
    texts = [r["problem"] for r in load_from_disk(str(tmp_path / "rows"))["train"]]
    assert texts == [
        *(f"the duck {n}" for n in range(4)),
        "mug",
        *(f"the duck {n}" for n in range(4, 8)),
        "mug",
        "the duck 13",
    ]
    shown = capsys.readouterr().out
    assert "bad: a polygon has N points" in shown and "my.json, annotation 31: there is no category 77" in shown


def test_without_a_good_row_the_command_fails_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, photos = own_data(tmp_path, 1)
    (photos / "000.png").unlink()
    assert prepare.main(call(path, photos, tmp_path / "rows")) == 1
    assert "no row is good" in capsys.readouterr().err
    assert len(problems(tmp_path / "rows")) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--coco", "gone.json"], "gone.json cannot be read"),
        (["--images", "gone"], "there is no folder gone"),
        (["--square", "8"], "--square must be at least 28"),
        (["--filter-segmenter", "nobody"], "there is no profile 'nobody'"),
        (["--not-in", "/gone/rows"], "is not there"),
        (["--group", "image", "--form", "single"], "--group image needs --form list"),
        (["--seed", "-1"], "--seed must be at least 0"),
        *(
            (["--split", name], f"--split {name!r}")
            for name in ("..", ".", "", "a/b", "../keep", "/tmp", "shards", "page.png")
        ),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(
    change: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, photos = own_data(tmp_path, 1)
    assert prepare.main(call(path, photos, tmp_path / "rows", *change)) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert said in shown[-1] and shown[-1].startswith("segzero-train prepare: ")


def test_a_split_never_reaches_out_of_its_folder(tmp_path: Path) -> None:
    path, photos = own_data(tmp_path, 1)
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "photo.png").write_bytes(b"mine")
    for split in (str(keep), "../keep", ".."):
        assert prepare.main(call(path, photos, tmp_path / "rows", "--split", split)) == 2
    assert (keep / "photo.png").read_bytes() == b"mine" and path.exists()


def test_half_a_character_and_a_book_are_bad_rows(tmp_path: Path) -> None:
    path, photos = own_data(tmp_path, 2)
    data = json.loads(path.read_text())
    data["annotations"][0]["text"], data["annotations"][1]["text"] = "red \ud83d cup", "cup " * 10_000
    path.write_text(json.dumps(data))
    assert prepare.main(call(path, photos, tmp_path / "rows")) == 0
    assert len(load_from_disk(str(tmp_path / "rows"))["train"]) == 2
    half, book = (p.reason for p in problems(tmp_path / "rows"))
    assert half == r"'red \ud83d cup' holds half a character (a lone surrogate)"
    assert book == "the text has 39999 characters, more than 20000"


def test_an_annotation_that_is_there_twice_costs_no_row(tmp_path: Path) -> None:
    path, photos = own_data(tmp_path, 1)
    data = json.loads(path.read_text())
    data["annotations"].append(data["annotations"][0])
    path.write_text(json.dumps(data))
    assert prepare.main(call(path, photos, tmp_path / "rows")) == 0
    assert len(load_from_disk(str(tmp_path / "rows"))["train"]) == 2
    (said,) = problems(tmp_path / "rows")
    assert said.kind == "mended" and "is there twice, word for word" in said.reason


def test_what_a_broken_disk_left_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, photos = own_data(tmp_path, 1)
    out = tmp_path / "rows"
    assert prepare.main(call(path, photos, out)) == 0
    (out / "settings.json").write_text('{"split": ')
    assert prepare.main(call(path, photos, out)) == 2
    assert "settings.json cannot be read" in capsys.readouterr().err
    shards = store.Shards(tmp_path / "begun", "list")
    (shards.folder / "00000.arrow").write_bytes(b"nothing")
    with pytest.raises(OSError, match=r"00000.arrow is damaged .*: remove it and 00000.json"):
        shards.dataset()


def test_a_line_separator_in_a_name_breaks_no_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, photos = own_data(tmp_path, 2)
    data = json.loads(path.read_text())
    data["categories"][0]["name"] = "coffee\u2028mug"
    data["annotations"][0]["segmentation"] = []
    data["annotations"].append({**data["annotations"][1], "id": 99, "text": "a\u2028b", "segmentation": []})
    path.write_text(json.dumps(data))
    assert prepare.main(call(path, photos, tmp_path / "rows")) == 0
    assert "annotation 99" in capsys.readouterr().out
    known = [h.id for h in store.hashes_of(tmp_path / "rows")]
    assert any("\u2028" in name for name in known)


def test_other_settings_do_not_continue_a_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, photos = own_data(tmp_path, 1)
    assert prepare.main(call(path, photos, tmp_path / "rows")) == 0
    assert prepare.main(call(path, photos, tmp_path / "rows", "--points", "circles")) == 2
    assert "points published -> circles" in capsys.readouterr().err
    assert prepare.main(call(path, photos, tmp_path / "rows")) == 0
    assert "is done already" in capsys.readouterr().err


def test_a_number_is_a_text_and_a_special_token_is_a_bad_row(tmp_path: Path) -> None:
    path, photos = own_data(tmp_path, 1)
    data = json.loads(path.read_text())
    data["annotations"][0]["text"], data["annotations"][1]["text"] = 7, "the duck<|im_end|>"
    path.write_text(json.dumps(data))
    assert prepare.main(call(path, photos, tmp_path / "rows")) == 0
    rows = load_from_disk(str(tmp_path / "rows"))["train"]
    assert list(rows["problem"]) == ["7"]
    assert [p.reason for p in problems(tmp_path / "rows")] == ["the text holds a special token's beginning, <|"]


def test_what_was_mended_is_not_taken_for_done(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, photos = own_data(tmp_path, 1)
    assert prepare.main(call(path, photos, tmp_path / "rows")) == 0
    data = json.loads(path.read_text())
    data["annotations"][0]["segmentation"][0][2:4] = [20, 4]
    path.write_text(json.dumps(data))
    assert prepare.main(call(path, photos, tmp_path / "rows")) == 2
    assert "other settings or data (the annotations themselves)" in capsys.readouterr().err
    assert prepare.main(call(path, photos, tmp_path / "again")) == 0


@pytest.mark.parametrize("name", ["cam_left_000.png", "../cam/000.jpg", "/cam_left_000.png"])
def test_an_image_of_another_name_is_not_taken_for_it(name: str, tmp_path: Path) -> None:
    path, photos = own_data(tmp_path, 1)  # 000.png is there
    data = json.loads(path.read_text())
    data["images"][0]["file_name"] = name
    path.write_text(json.dumps(data))
    assert prepare.main(call(path, photos, tmp_path / "rows")) == 1
    assert all("is missing" in p.reason or "leads out" in p.reason for p in problems(tmp_path / "rows"))


@pytest.mark.parametrize("name", ["COCO_train2014_000000000007.jpg", "train2017/000000000007.jpg", "000000000007.jpg"])
def test_cocos_images_are_found_by_their_number(name: str, tmp_path: Path) -> None:
    PIL.fromarray(picture(0)).save(tmp_path / "000000000007.jpg")
    assert find_image(tmp_path, name).path == tmp_path / "000000000007.jpg"


def test_a_killed_run_continues_and_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, photos = own_data(tmp_path, 8)
    whole, out = tmp_path / "whole", tmp_path / "rows"
    more = ("--shard", "4", "--workers", "1", "--masks", "--page", "0")
    assert prepare.main(call(path, photos, whole, *more)) == 0
    pipe = photos / "005.png"
    image = pipe.read_bytes()
    pipe.unlink()
    os.mkfifo(pipe)  # whoever reads this image waits for the other end: that is here, and then kills it
    command = [sys.executable, "-m", "training.data.prepare", *call(path, photos, out, *more)]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    with pipe.open("wb"):
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    pipe.unlink()
    pipe.write_bytes(image)
    before = {p.name: p.read_bytes() for p in (out / "shards").glob("*.arrow")}
    assert sorted(before) == ["00000.arrow", "00001.arrow"]  # four rows each, of two images
    written = {p.name: p.stat().st_ino for p in (out / "shards").iterdir()}
    kept: dict[str, int] = {}
    monkeypatch.setattr(
        store.Shards, "remove", lambda self: kept.update({p.name: p.stat().st_ino for p in self.folder.iterdir()})
    )
    assert prepare.main(call(path, photos, out, *more)) == 0
    assert written.items() <= kept.items()  # nothing was done twice
    ours, theirs = (load_from_disk(str(folder))["train"] for folder in (out, whole))
    assert ours.column_names == [*COLUMNS, "masks", "ignore"]
    assert ours.remove_columns("image")[:] == theirs.remove_columns("image")[:]
    assert all(
        np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(ours["image"], theirs["image"], strict=True)
    )
    for name in ("hashes.jsonl", "problems.jsonl"):
        assert (out / name).read_text() == (whole / name).read_text()


def test_rows_whose_image_is_in_another_set_are_left_out_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first, second = own_data(tmp_path / "a", 3), own_data(tmp_path / "b", 3, first=2)
    assert prepare.main(call(*first, tmp_path / "train")) == 0
    assert store.overlap(tmp_path / "train", tmp_path / "train")[0][0] == "my_1_mug"
    assert prepare.main(call(*second, tmp_path / "test")) == 0
    assert {a for a, _ in store.overlap(tmp_path / "test", tmp_path / "train")} == {"my_1_mug", "my_2"}
    apart = tmp_path / "apart"
    assert prepare.main(call(*second, apart, "--not-in", str(tmp_path / "train"))) == 0
    assert store.overlap(apart, tmp_path / "train") == []
    assert [(p.id, p.kind) for p in problems(apart)] == [("my_1_mug", "left out"), ("my_2", "left out")]
    refused = call(*second, tmp_path / "no", "--not-in", str(tmp_path / "train"), "--overlap", "refuse")
    assert prepare.main(refused) == 1
    assert "refused, 2 items" in capsys.readouterr().err
    assert not (tmp_path / "no" / "dataset_dict.json").exists()


def test_a_resized_copy_is_near_and_another_image_is_not() -> None:
    def prints(name: str, image: np.ndarray) -> store.Fingerprint:
        return store.fingerprint(name, image, image)

    big = picture(1, 480, 640)
    copy = cv2.imdecode(cv2.imencode(".jpg", cv2.resize(big, (224, 224), interpolation=cv2.INTER_AREA))[1], 1)
    assert copy is not None
    ours = [prints("copy", copy), prints("other", picture(2, 480, 640))]
    assert store.overlap(ours, [prints("big", big)]) == []
    assert store.overlap(ours, [prints("big", big)], bits=24) == [("copy", "big")]


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30))
def test_a_hash_tells_pixels_and_shape(height: int, width: int) -> None:
    image = picture(0, height, width)
    assert store.pixel_hash(image) == store.pixel_hash(image.copy())
    changed = image.copy()
    changed[0, 0, 0] ^= 1
    assert store.pixel_hash(changed) != store.pixel_hash(image)
    assert height == width or store.pixel_hash(image.reshape(width, height, 3)) != store.pixel_hash(image)


def test_the_segmenter_leaves_out_what_it_does_not_find(tmp_path: Path) -> None:
    path, photos = own_data(tmp_path, 2, bear=True)
    out = tmp_path / "rows"
    code = prepare.main(call(path, photos, out, "--filter-segmenter", "demo", "--min-iou", "0.97", "--no-target", "1"))
    assert code == 0  # what nothing matches is not asked of a segmenter
    left = [p for p in problems(out) if p.kind == "left out"]
    assert left and all("finds it again with IoU" in p.reason for p in left)
    assert len(load_from_disk(str(out))["train"]) == 8 - len(left)


def test_an_image_s_texts_are_joined_as_published_for_many_objects(tmp_path: Path) -> None:
    path, photos = own_data(tmp_path, 1, bear=True)
    assert prepare.main(call(path, photos, tmp_path / "rows", "--group", "image", "--no-target", "1")) == 0
    data = load_from_disk(str(tmp_path / "rows"))["train"]
    assert [r["problem"] for r in data][:3] == ["'mug' and 'the duck 0'", "bear", "'bear'"]
    assert [len(json.loads(r["solution"])) for r in data] == [2, 0, 1, 0]


def test_sets_are_joined_with_what_they_hold_whatever_form_they_had(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first, second = own_data(tmp_path / "a", 2), own_data(tmp_path / "b", 2, first=2, bear=True)
    a, b, out = tmp_path / "single", tmp_path / "list", tmp_path / "joined"
    assert prepare.main(call(*first, a, "--form", "single", "--masks")) == 0
    assert prepare.main(call(*second, b, "--masks", "--no-target", "1")) == 0
    join = ["--join", str(a), str(b), "--square", "56", "--masks", "--out"]
    assert prepare.main([*join, str(out)]) == 0
    rows, parts = load_from_disk(str(out))["train"], [load_from_disk(str(part))["train"] for part in (a, b)]
    assert rows["id"] == [i for part in parts for i in part["id"]]
    assert [len(r) for r in rows["masks"]] == [len(r) for part in parts for r in part["masks"]]
    objects = [[t.box for t in read_solution(r)] for r in rows["solution"]]
    assert objects == [[t.box for t in read_solution(r)] for part in parts for r in part["solution"]]
    assert objects[-1] == [] and len(json.loads(rows["solution"][0])) == 1, "the single ones are lists now"
    assert all(
        np.array_equal(np.asarray(x), np.asarray(y))
        for x, y in zip(rows["image"], [i for part in parts for i in part["image"]], strict=True)
    )
    assert prepare.main(call(*first, tmp_path / "bare")) == 0
    join[join.index(str(b))] = str(tmp_path / "bare")
    assert prepare.main([*join, str(tmp_path / "half")]) == 0
    assert {p.reason for p in problems(tmp_path / "half")} == {
        "boxes and points are annotated and no masks, which --masks asks for"
    }
    assert all(p.id.startswith("bare, row ") for p in problems(tmp_path / "half"))
    assert prepare.main([*join, str(out), "--source", "coco"]) == 2
    assert "leave out --source" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("/data/a b/1.json is not UTF-8 (byte 5): say gbk or cp1252", "the file is not UTF-8 ..: say gbk or cp1252"),
        ("its file is not UTF-8 and is read as Windows-1252", "its file is not UTF-8 and is read as Windows-1252"),
        ("the image /data/7.png is 12 x 8, not 9", "the image is N x N, not N"),
        ("it lies within shares of the image (0 to 1) as IoU 0.25 of -3", "it lies within shares of the image .. as"),
        ("annotation a7, bad itself, is of it", "annotation N, bad itself, is of it"),
        ("the image b.png has 16-bit grey", "the image has 16-bit grey"),
    ],
)
def test_reasons_of_one_kind_are_counted_together_and_names_stay(reason: str, kind: str) -> None:
    assert _kind(Problem("a.json", "1", reason)).startswith(f"bad: {kind}")
