"""Readers: small files in each data set's true form, written here, and what becomes of broken ones."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Sequence, Value, load_from_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.data import masks, prepare, store
from training.data.readers.coco import read_coco
from training.data.readers.lisa_plus import read_lisa_plus
from training.data.readers.lvis import read_lvis
from training.data.readers.published import load_rows, read_rows
from training.data.readers.reasonseg import paint, read_reasonseg
from training.data.readers.refer import load_pickle, read_refer
from training.data.rows import features, masks_of
from training.data.samples import Problem, Sample, Source

HEIGHT, WIDTH = 48, 64


def save_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def box_polygon(x: int, y: int, w: int, h: int) -> list[list[int]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def area(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def samples(source: Source) -> list[Sample]:
    return [s for s in source if isinstance(s, Sample)]


def problems(source: Source) -> dict[str, str]:
    return {p.id: p.reason for p in source if isinstance(p, Problem)}


# COCO


def coco_file(folder: Path, annotations: list[dict[str, Any]], second: bool = False) -> Path:
    save_image(folder / "img" / "1.jpg")
    images = [{"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT}]
    if second:
        save_image(folder / "img" / "2.jpg", 2)
        images.append({**images[0], "id": 2, "file_name": "2.jpg"})
    names = [{"id": n, "name": name} for n, name in enumerate(("dog", "wine_glass", "bus"), 1)]
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": names}))
    return path


def ann(number: int, category: int | None, box: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    one = {"id": number, "image_id": 1, "category_id": category, "segmentation": box_polygon(*box), "bbox": list(box)}
    return {**one, "area": box[2] * box[3], "iscrowd": 0, **more}


def test_coco_all_of_a_category_are_one_sample_and_a_crowd_is_ignored(tmp_path: Path) -> None:
    crowd = masks.runs_of(masks.encode(area(40, 30, 20, 10))["counts"])
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": crowd}
    path = coco_file(
        tmp_path,
        [
            ann(1, 1, (2, 2, 10, 10)),
            ann(2, 1, (20, 2, 10, 10), segmentation=masks.encode(area(20, 2, 10, 10))),
            ann(3, 1, (40, 30, 20, 10), segmentation=uncompressed, iscrowd=1),
            ann(4, 2, (2, 30, 8, 8)),
        ],
    )
    dogs, glass = samples(read_coco(path, tmp_path / "img"))
    assert dogs.text == "dog" and [m.sum() for m in dogs.masks] == [100, 100]
    assert dogs.ignore is not None and np.array_equal(dogs.ignore, area(40, 30, 20, 10))
    assert glass.text == "wine glass" and glass.ignore is None


def test_coco_a_text_comes_before_the_category_and_is_of_its_category_too(tmp_path: Path) -> None:
    path = coco_file(
        tmp_path,
        [
            ann(1, 1, (2, 2, 10, 10), text=["the left dog", "the dog that sits"]),
            ann(2, 1, (20, 2, 10, 10)),
            ann(3, 3, (2, 20, 5, 5), caption="the red buses"),
            ann(4, 3, (12, 20, 5, 5), caption="the red buses"),
            ann(5, 2, (30, 20, 5, 5), caption="Wine glass"),
            ann(6, 2, (40, 20, 5, 5)),
        ],
    )
    found = {s.text: s for s in samples(read_coco(path, tmp_path / "img"))}
    assert {text: len(s.masks) for text, s in found.items()} == {
        "the left dog": 1,
        "dog": 2,
        "the red buses": 2,
        "wine glass": 2,
    }
    assert found["the left dog"].others == ("the dog that sits",)


def test_coco_a_broken_object_takes_its_instruction_with_it_and_no_other(tmp_path: Path) -> None:
    path = coco_file(
        tmp_path,
        [ann(1, 1, (2, 2, 10, 10)), ann(2, 1, (0, 0, 1, 1), segmentation=[[1, 1, 2, 2]]), ann(3, 2, (5, 5, 9, 9))],
    )
    source = read_coco(path, tmp_path / "img")
    assert [s.text for s in samples(source)] == ["wine glass"]
    assert problems(source) == {
        "annotation 2": "a polygon has 2 points; it needs 3; annotation 1 of the same instruction fall with it"
    }


def test_coco_nothing_is_said_to_be_absent_where_an_annotation_was_lost(tmp_path: Path) -> None:
    elsewhere = [ann(8, 2, (2, 2, 10, 10), image_id=2), ann(9, 3, (20, 2, 10, 10), image_id=2)]
    good = coco_file(tmp_path / "a", [ann(1, 1, (2, 2, 10, 10)), *elsewhere], second=True)
    absent = [s.text for s in samples(read_coco(good, tmp_path / "a" / "img", no_target=5)) if not s.masks]
    assert absent == ["wine glass", "bus", "dog"]
    lost = coco_file(tmp_path / "b", [ann(1, 1, (2, 2, 10, 10)), ann(2, 99, (2, 2, 10, 10)), ann(3, 2, (20, 2, 9, 9))])
    assert all(s.masks for s in samples(read_coco(lost, tmp_path / "b" / "img", no_target=5)))


def test_coco_a_category_that_lost_an_object_is_not_taught_without_it(tmp_path: Path) -> None:
    path = coco_file(tmp_path, [ann(1, 1, (2, 2, 10, 10)), ann(1, 1, (40, 2, 0, 0)), ann(3, 2, (5, 5, 9, 9))])
    source = read_coco(path, tmp_path / "img")
    assert [s.text for s in samples(source)] == ["wine glass"]


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**12), st.text(max_size=5), st.just([]), st.just({}), st.just([[1, 2]])
)
PLACES = st.tuples(
    st.sampled_from(["images", "annotations", "categories"]),
    st.sampled_from(
        [
            "id",
            "image_id",
            "category_id",
            "segmentation",
            "bbox",
            "iscrowd",
            "text",
            "width",
            "height",
            "file_name",
            "name",
        ]
    ),
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PLACES, VALUES)
def test_coco_whatever_a_row_holds_it_is_a_sample_or_named(tmp_path: Path, place: tuple[str, str], value: Any) -> None:
    path = coco_file(tmp_path, [ann(1, 1, (2, 2, 10, 10)), ann(2, 2, (20, 2, 10, 10), text="a glass")])
    data = json.loads(path.read_text())
    data[place[0]][0][place[1]] = value
    path.write_text(json.dumps(data))
    for one in read_coco(path, tmp_path / "img", no_target=1):
        assert isinstance(one, (Sample, Problem))
        if isinstance(one, Sample):
            assert one.text and all(m.any() and m.shape == one.pixels().shape[:2] for m in one.masks)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": 3}', "\ud83d"])
def test_coco_a_file_that_is_none_names_itself(content: str, tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"my\.json"):
        read_coco(path, tmp_path)


# LVIS


def test_lvis_negatives_are_verified_ones_and_half_annotated_categories_are_left_out(tmp_path: Path) -> None:
    save_image(tmp_path / "coco" / "val2017" / "000000000007.jpg")
    image = {
        "id": 7,
        "width": WIDTH,
        "height": HEIGHT,
        "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg",
        "neg_category_ids": [3],
        "not_exhaustive_category_ids": [2],
    }
    names = ["bat_(animal)", "crumb", "acorn", "zebra"]
    categories: list[dict[str, Any]] = [
        {"id": n, "name": name, "synonyms": [name, f"{name}_thing"], "frequency": "r", "synset": "", "def": ""}
        for n, name in enumerate(names, 1)
    ]
    annotations = [
        {
            "id": n,
            "image_id": 7,
            "category_id": c,
            "segmentation": box_polygon(n * 9, 3, 6, 6),
            "bbox": [n * 9, 3, 6, 6],
        }
        for n, c in enumerate((1, 1, 2), 1)
    ]
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps({"images": [image], "annotations": annotations, "categories": categories}))
    source = read_lvis(path, tmp_path / "coco", no_target=4)
    assert [(s.text, len(s.masks)) for s in samples(source)] == [("bat (animal)", 2), ("acorn", 0)]
    assert samples(source)[0].others == ("bat (animal) thing",)
    (left,) = [p for p in source if isinstance(p, Problem)]
    assert left.id == "annotation 3" and left.kind == "left out" and "only in part" in left.reason


# RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO


def refer_folder(root: Path, name: str, file: str, refs: list[dict[str, Any]], images: str) -> Path:
    """As the authors' archives unpack: refs beside instances.json, images in a folder of train2014."""
    folder = root / name
    folder.mkdir(parents=True)
    shots = [(581857, "COCO_train2014_000000581857.jpg"), (388882, "COCO_train2014_000000388882.jpg")]
    for n, (_, file_name) in enumerate(shots):
        save_image(root / images / file_name, n)
    instances = {
        "info": {},
        "licenses": [],
        "images": [{"id": i, "file_name": f, "width": WIDTH, "height": HEIGHT, "license": 1} for i, f in shots],
        "annotations": [
            {**ann(1719310, 1, (2, 2, 10, 10)), "image_id": 581857},
            {**ann(1719311, 1, (20, 2, 12, 10)), "image_id": 581857},
            {**ann(42, 1, (5, 5, 9, 9)), "image_id": 388882},
        ],
        "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    if file.endswith(".p"):
        (folder / file).write_bytes(pickle.dumps(refs, protocol=0))
    else:
        (folder / file).write_text(json.dumps(refs))
    return root


def ref(number: int, ann_id: Any, image_id: int, *texts: str, split: str = "train") -> dict[str, Any]:
    sentences = [
        {"tokens": t.lower().split(), "raw": t, "sent_id": 10 * number + n, "sent": t.lower()}
        for n, t in enumerate(texts)
    ]
    return {
        "ref_id": number,
        "ann_id": ann_id,
        "category_id": 1,
        "image_id": image_id,
        "file_name": f"COCO_train2014_{image_id:012d}_16.jpg",
        "sent_ids": [s["sent_id"] for s in sentences],
        "sentences": sentences,
        "split": split,
    }


@pytest.mark.parametrize(
    ("name", "by", "images"),
    [
        ("refcoco", "unc", "images/mscoco/images/train2014"),
        ("refcoco+", "unc", "images/train2014"),
        ("refcocog", "umd", "train2014"),
    ],
)
def test_refcoco_gives_one_sample_per_object_or_one_per_text(name: str, by: str, images: str, tmp_path: Path) -> None:
    refs = [
        ref(0, 1719310, 581857, "The man, left. ", "guy in red"),
        ref(1, 1719311, 581857, "Right one?"),
        ref(2, 42, 388882, "her", split="testA"),
    ]
    root = refer_folder(tmp_path, name, f"refs({by}).p", refs, images)
    first = samples(read_refer(root, name))
    assert [(s.id, s.text, s.others) for s in first] == [
        (f"{name}_1719310", "the man, left", ("guy in red",)),
        (f"{name}_1719311", "right one", ()),
    ]
    assert np.array_equal(first[0].masks[0], area(2, 2, 10, 10))
    every = samples(read_refer(root, name, sentences="all"))
    assert [s.text for s in every] == ["the man, left", "guy in red", "right one"]
    assert len({s.id for s in every}) == 3
    assert [s.text for s in samples(read_refer(root, name, "testA"))] == ["her"]
    with pytest.raises(ValueError, match="no split 'val'; there are testA, train"):
        read_refer(root, name, "val")


def test_refcocog_becomes_the_published_rows(tmp_path: Path) -> None:
    refs = [ref(0, 1719310, 581857, "The man."), ref(1, 1719311, 581857, "The woman."), ref(2, 42, 388882, "A cat")]
    root = refer_folder(tmp_path, "refcocog", "refs(umd).p", refs, "images/mscoco/images/train2014")
    arguments = ["--source", "refcocog", "--root", str(root), "--page", "0"]
    assert prepare.main([*arguments, "--form", "single", "--out", str(tmp_path / "single")]) == 0
    one = load_from_disk(str(tmp_path / "single"))["train"]
    assert one[0]["id"] == "refcocog_1719310" and one[0]["problem"] == "the man"
    assert one[0]["solution"].startswith("<box>(26,35),(144,193)</box><points>(")
    assert prepare.main([*arguments, "--group", "image", "--out", str(tmp_path / "many")]) == 0
    many = load_from_disk(str(tmp_path / "many"))["train"]
    assert [(r["id"], r["problem"]) for r in many] == [
        ("refcocog_1719310_1719311", "'the man' and 'the woman'"),
        ("refcocog_42", "'a cat'"),
    ]
    assert len(json.loads(many[0]["solution"])) == 2


def test_grefcoco_has_several_targets_and_none(tmp_path: Path) -> None:
    refs = [
        {**ref(0, [1719310, 1719311], 581857, "both of them"), "category_id": [1, 1]},
        {**ref(1, [-1], 581857, "the kid in blue"), "category_id": [-1]},
        {**ref(2, [1719310], 581857, "the left one"), "no_target": False},
    ]
    root = refer_folder(tmp_path, "grefcoco", "grefs(unc).json", refs, "images/train2014")
    found = samples(read_refer(root, "grefcoco"))
    assert [(s.text, len(s.masks)) for s in found] == [("both of them", 2), ("the kid in blue", 0), ("the left one", 1)]
    assert len({s.id for s in found}) == 3
    none = tmp_path / "rows"
    assert prepare.main(["--source", "grefcoco", "--root", str(root), "--out", str(none), "--page", "3"]) == 0
    assert [r["solution"] for r in load_from_disk(str(none))["train"]][1] == "[]"


def test_refcoco_names_the_refs_that_cannot_be(tmp_path: Path) -> None:
    refs: list[Any] = [
        ref(0, 7, 581857, "nobody"),
        ref(1, 42, 581857, "elsewhere"),
        ref(2, 42, 388882),
        ref(3, 42, 999, "no image"),
        "nonsense",
        {"ref_id": 5},
        ref(6, 42, 388882, "right"),
        ref(6, 42, 388882, "again"),
        {"ref_id": 8, "split": "val"},  # another split's are not this one's
    ]
    root = refer_folder(tmp_path, "refcoco", "refs(unc).p", refs, "train2014")
    source = read_refer(root, "refcoco")
    assert [s.text for s in samples(source)] == ["right"]
    assert problems(source) == {
        "ref 0": "there is no annotation 7 in instances.json",
        "ref 1": "annotation 42 is of another image",
        "ref 2": "it has no sentence",
        "ref 3": "there is no image 999 in instances.json",
        "ref 4": "it is str, no object",
        "ref 5": "it has no ann_id, image_id, split, sentences",
        "ref 6": "its id is given twice; the first one is kept",
    }


class Hostile:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_is_refused_and_runs_nothing(protocol: int, tmp_path: Path) -> None:
    path, trace = tmp_path / "refs(unc).p", tmp_path / "trace"
    path.write_bytes(pickle.dumps([ref(0, 1, 2, "a"), Hostile(str(trace))], protocol=protocol))
    with pytest.raises(ValueError, match=r"asks for posix\.mkdir"):
        load_pickle(path)
    assert not trace.exists()


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_a_damaged_pickle_is_a_value_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.p"
    path.write_bytes(data)
    try:
        load_pickle(path)
    except ValueError as error:
        assert path.name in str(error)


def test_a_python_2_pickle_of_texts_is_read(tmp_path: Path) -> None:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(b"(lp0\n(dp1\nS'split'\np2\nS'train'\np3\nsS'raw'\np4\nVcaf\\u00e9\np5\nsS'ref_id'\nL12L\nsa.")
    assert load_pickle(path) == [{"split": "train", "raw": "café", "ref_id": 12}]


# ReasonSeg


def shape(label: str, x: int, y: int, w: int, h: int) -> dict[str, Any]:
    points = [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]
    return {"label": label, "labels": [label], "shape_type": "polygon", "image_name": "a.jpg", "points": points}


def reason(folder: Path, name: str, shapes: Any, text: Any, encoding: str = "utf-8") -> None:
    save_image(folder / f"{name}.jpg")
    data = {"text": text, "is_sentence": True, "shapes": shapes}
    (folder / f"{name}.json").write_bytes(json.dumps(data, ensure_ascii=False).encode(encoding))


def test_reasonseg_paints_the_largest_first_and_keeps_what_is_ignored(tmp_path: Path) -> None:
    shapes = [
        shape("ignore", 10, 10, 4, 4),
        shape("target", 5, 5, 20, 20),
        shape("flag", 0, 0, 60, 40),
        shape("ignore_more", 40, 30, 8, 8),
    ]
    reason(tmp_path, "1", shapes, ["Where does the café owner stand?", "the café’s owner"], "cp1252")
    (one,) = samples(read_reasonseg(tmp_path))
    assert one.ignore is not None and one.ann_ids == ("1",)
    assert one.ignore.sum() == 25 + 81 and one.masks[0].sum() == 21 * 21 - 25  # outlines are painted too
    assert not (one.ignore & one.masks[0]).any()
    assert one.text == "Where does the café owner stand?" and one.others == ("the café’s owner",)
    assert [s.text for s in samples(read_reasonseg(tmp_path, sentences="all"))] == [one.text, *one.others]


def test_reasonseg_without_a_target_is_no_target_and_broken_files_are_named(tmp_path: Path) -> None:
    reason(tmp_path, "1", [shape("ignore", 1, 1, 9, 9)], ["what is missing?"])
    reason(tmp_path, "2", [{"label": "target", "points": []}], ["a"])
    reason(tmp_path, "3", [shape("target", 1, 1, 9, 9)], [])
    reason(tmp_path, "4", [shape("target", 1, 1, 9, 9)], ["a"])
    (tmp_path / "4.jpg").unlink()
    (tmp_path / "5.json").write_text("{")
    source = read_reasonseg(tmp_path)
    assert [(s.id, s.masks) for s in samples(source)] == [("1", ())]
    found = problems(source)
    assert list(found) == ["2.json", "3.json", "4.json", "5.json"]
    assert "its points are none" in found["2.json"] and "is missing" in found["4.json"]


HALVES = [shape("ignore", 6, 6, 2, 1), shape("ignore", 6, 7, 2, 1)]


@pytest.mark.parametrize(
    ("text", "shapes", "row", "said"),
    [
        ("the cup", [shape("target", 5, 5, 9, 9)], ("the cup", 1), ""),
        (["", "nan", "the cup"], [shape("target", 5, 5, 9, 9)], ("the cup", 1), ""),
        (None, [shape("target", 5, 5, 9, 9)], None, "it has no text"),
        (["None", "null"], [shape("target", 5, 5, 9, 9)], None, "it has no text"),
        ("the cup", [shape("target", 70, 5, 9, 9)], None, "marks as its target lies outside of the image"),
        ("the cup", [shape("target", 6, 6, 2, 2), *HALVES], None, "as its target is all ignored"),
        ("the cup", [{"label": "target", "points": [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]]}], None, "as shares"),
        ("the cup", [], ("the cup", 0), "it has no shape"),
        ("the cup", [shape("mug", 5, 5, 9, 9)], ("the cup", 1), "a label is neither target nor ignore"),
        ("the cafÃ©", [shape("target", 5, 5, 9, 9)], ("the cafÃ©", 1), "decoded wrongly"),
    ],
)
def test_reasonseg_of_ones_own_is_a_row_or_says_why_not(
    text: Any, shapes: Any, row: tuple[str, int] | None, said: str, tmp_path: Path
) -> None:
    reason(tmp_path, "1", shapes, text)
    (one,) = read_reasonseg(tmp_path)
    if isinstance(one, Problem):
        assert row is None and said in one.reason
    else:
        assert (one.text, len(one.masks)) == row
        assert len(one.mended) == bool(said) and all(said in why for why in one.mended)


def test_reasonseg_a_polygon_over_the_border_is_cut_as_its_authors_do() -> None:
    target, ignore = paint(
        [shape("target", -10, -10, 20, 20), {"label": "target", "points": [[30, 5], [40, 5]]}], 48, 64
    )
    assert target.sum() == 11 * 11 + 11 and not ignore.any()


def test_reasonseg_is_written_as_its_published_copy_and_read_again(tmp_path: Path) -> None:
    reason(tmp_path / "val", "7", [shape("target", 5, 5, 20, 20), shape("ignore", 40, 30, 8, 8)], ["What runs?"])
    call = ["--source", "reasonseg", "--root", str(tmp_path), "--split", "val", "--form", "mask"]
    assert prepare.main([*call, "--out", str(tmp_path / "rows")]) == 0
    (back,) = samples(read_rows(tmp_path / "rows"))
    (one,) = samples(read_reasonseg(tmp_path / "val"))
    assert back.text == one.text and back.ann_ids == ("7",)
    assert np.array_equal(back.masks[0], one.masks[0])
    assert back.ignore is not None and one.ignore is not None and np.array_equal(back.ignore, one.ignore)
    assert np.array_equal(back.pixels(), one.pixels())


# LISA++


def lisa_rows(folder: Path) -> Path:
    save_image(folder / "train2017" / "000000000009.jpg")
    row = {
        "img_path": "000000000009.jpg",
        "English Question": "Which of them can one drink from?",
        "English Answer": "",
    }
    pairs = [[2, 2], [12, 2], [12, 12], [2, 12]]
    points = {
        "1719310": {"label name": "cup", "points": pairs},
        "1719311": {"label name": "cup", "points": [[[20, 2], [30, 2], [30, 12], [20, 12]], pairs]},
    }
    rows = [
        {**row, "ID": ["1719310", "1719311"], "points": points},
        {**row, "ID": ["1719310", "5"], "points": points},
        {**row, "ID": ["1719310"], "points": {"1719310": {"points": [[1, 1], [2, 2]]}}},
        {**row, "ID": []},
        {**row, "ID": ["1719310"], "points": points, "img_path": "000000000010.jpg"},
        {"ID": ["1719310"]},
    ]
    path = folder / "data.json"
    path.write_text(json.dumps(rows))
    return path


def test_lisa_plus_takes_the_polygons_of_its_file(tmp_path: Path) -> None:
    source = read_lisa_plus(lisa_rows(tmp_path), tmp_path / "train2017")
    (one,) = samples(source)
    assert one.text == "Which of them can one drink from?" and [int(m.sum()) for m in one.masks] == [100, 200]
    found = problems(source)
    assert found["row 5"] == "it has no img_path"
    assert found["row 1, annotation 5"] == "it has no points"
    assert found["row 2, annotation 1719310"] == "a polygon has 2 points; it needs 3"
    assert found["row 3"] == "it has no ID" and "is missing" in found["row 4"]


def test_lisa_plus_takes_cocos_masks_where_they_are_given(tmp_path: Path) -> None:
    image = {"id": 9, "file_name": "000000000009.jpg", "width": WIDTH, "height": HEIGHT}
    instances = tmp_path / "instances_train2017.json"
    annotations = [{**ann(1719310, 1, (2, 2, 9, 9)), "image_id": 9}, {**ann(1719311, 1, (20, 2, 9, 9)), "image_id": 9}]
    categories = [{"id": 1, "name": "cup"}]
    instances.write_text(json.dumps({"images": [image], "annotations": annotations, "categories": categories}))
    source = read_lisa_plus(lisa_rows(tmp_path), tmp_path / "train2017", instances=instances)
    assert [[int(m.sum()) for m in s.masks] for s in samples(source)] == [[81, 81], [81]]
    assert problems(source)["row 1, annotation 5"] == "there is no annotation '5' in instances_train2017.json"


# Published rows


def training_rows(solutions: list[str]) -> Dataset:
    image = cv2.resize(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5, (840, 840))
    rows = [
        {
            "id": f"refcocog_{n}",
            "problem": "the cat",
            "solution": s,
            "image": image,
            "img_height": 480,
            "img_width": 640,
        }
        for n, s in enumerate(solutions)
    ]
    return Dataset.from_list(rows, features=features("list"))


def test_published_training_rows_are_read_checked_and_written_unchanged(tmp_path: Path) -> None:
    solutions = [
        "<box>(10,20),(300,400)</box><points>(100,200),(150,250)</points>",
        '[{"bbox_2d": [1, 2, 839, 840], "point_2d": [5, 6]}, {"bbox_2d": [0, 0, 9, 9], "point_2d": [3, 3]}]',
        "[]",
        "<box>(10,20),(300,400)</box>",
        '[{"bbox_2d": [1, 2, 3, 841], "point_2d": [2, 6]}]',
        '[{"bbox_2d": [1, 2, 30, 40], "point_2d": [50, 6]}]',
        '[{"bbox_2d": [1.5, 2, 30, 40], "point_2d": [5, 6]}]',
    ]
    given = training_rows(solutions)
    DatasetDict({"train": given}).save_to_disk(str(tmp_path / "hub"))
    source = read_rows(tmp_path / "hub")
    assert [len(s.targets or ()) for s in samples(source)] == [1, 2, 0]
    reasons = list(problems(source).values())
    assert "neither <box>" in reasons[0] and "outside of the image of 840 x 840" in reasons[1]
    assert "outside of its box" in reasons[2] and "whole numbers" in reasons[3]
    call = ["--source", "rows", "--root", str(tmp_path / "hub"), "--form", "single", "--out", str(tmp_path / "again")]
    assert prepare.main(call) == 0
    back = load_from_disk(str(tmp_path / "again"))["train"]
    assert len(back) == 1
    for name in ("id", "problem", "solution", "img_height", "img_width"):
        assert back[0][name] == given[0][name]
    assert np.array_equal(np.asarray(back[0]["image"]), np.asarray(given[0]["image"]))
    assert {a for a, _ in store.overlap(tmp_path / "hub", tmp_path / "again")} == {f"refcocog_{n}" for n in range(7)}


def test_stars_training_rows_bring_their_masks(tmp_path: Path) -> None:
    whole = np.zeros((840, 840), bool)
    whole[20:40, 10:30] = True
    solution = '[{"bbox_2d": [10, 20, 30, 40], "point_2d": [20, 30]}]'
    plain = training_rows([solution] * 3)
    shapes = [[whole.tolist()], [whole[:40].tolist()], [whole.tolist()] * 2]
    column = Sequence(Sequence(Sequence(Value("bool"))))
    given = Dataset.from_list(
        [{**row, "solution_mask": m} for row, m in zip(plain, shapes, strict=True)],
        features=Features({**plain.features, "solution_mask": column}),
    )
    DatasetDict({"train": given}).save_to_disk(str(tmp_path / "hub"))
    reasons = list(problems(read_rows(tmp_path / "hub")).values())
    assert reasons == ["a mask is of 840 x 40, the image of 840 x 840", "it has 2 masks and 1 boxes"]
    call = ["--source", "rows", "--root", str(tmp_path / "hub"), "--masks", "--out", str(tmp_path / "made")]
    assert prepare.main(call) == 0
    made = load_from_disk(str(tmp_path / "made"))["train"]
    assert len(made) == 1 and np.array_equal(masks_of(made[0])[0], whole)
    bare = given.select([0]).select_columns(["problem", "image", "solution_mask"])  # all that a stage of masks reads
    DatasetDict({"train": bare}).save_to_disk(str(tmp_path / "bare"))
    (only,) = samples(read_rows(tmp_path / "bare"))
    assert only.id == "bare_0" and only.targets is None and np.array_equal(only.masks[0], whole)
    assert prepare.main([*call[:3], str(tmp_path / "bare"), "--masks", "--out", str(tmp_path / "boxes")]) == 0
    (row,) = load_from_disk(str(tmp_path / "boxes"))["train"]
    assert json.loads(row["solution"])[0]["bbox_2d"] == [10, 20, 29, 39] and row["img_height"] == 840


def test_published_evaluation_rows_are_read_from_parquet(tmp_path: Path) -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    row = {"image": image, "text": "the tap", "image_id": "3", "img_height": HEIGHT, "img_width": WIDTH}
    rows = [
        {**row, "ann_id": "3", "mask": area(5, 6, 7, 8)},
        {**row, "ann_id": "4", "mask": np.zeros((HEIGHT, WIDTH), bool)},  # gRefCOCO: nothing matches
        {**row, "ann_id": "5", "mask": area(5, 6, 7, 8), "img_height": 50},
    ]
    data = Dataset.from_list(rows, features=features("mask"))
    (tmp_path / "data").mkdir()
    data.to_parquet(str(tmp_path / "data" / "test-00000-of-00001.parquet"))
    source = read_rows(tmp_path, "test")
    found = samples(source)
    assert np.array_equal(found[0].masks[0], area(5, 6, 7, 8)) and found[1].masks == ()
    assert "differ" in problems(source)["row 2 (5)"]


def test_other_columns_and_places_say_what_was_needed(tmp_path: Path) -> None:
    Dataset.from_list([{"a": 1}]).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"has the columns \['a'\]; needed are"):
        read_rows(tmp_path / "other")
    with pytest.raises(ValueError, match="is not there"):
        load_rows(tmp_path / "gone")
    with pytest.raises(ValueError, match="holds no data set"):
        load_rows(tmp_path)


# The tabletop


def test_the_tabletop_gives_every_kind_the_same_again_and_some_without_a_target(tmp_path: Path) -> None:
    from training.data.readers.tabletop import read_tabletop
    from training.data.tabletop.store import render_shard

    (tmp_path / "val").mkdir()
    render_shard(tmp_path / "val", "val", 0, 6, depth=False)
    source = read_tabletop(tmp_path / "val", count=120)
    first, again = samples(source), samples(source)
    assert [s.text for s in first] == [s.text for s in again] and len(first) == 120
    assert 0.1 < sum(not s.masks for s in first) / len(first) < 0.3
    assert all(m.any() for s in first for m in s.masks)
    call = ["--source", "tabletop", "--root", str(tmp_path), "--split", "val", "--count", "20", "--square", "224"]
    assert prepare.main([*call, "--out", str(tmp_path / "rows")]) == 0
    assert len(load_from_disk(str(tmp_path / "rows"))["val"]) == 20
