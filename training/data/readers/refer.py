"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO as their authors give them out.

Files (lichengunc/refer; henghuiding/gRefCOCO): ROOT/NAME/instances.json in COCO's format beside `refs(BY).p`, or
`grefs(BY).json`; images from COCO's train2014. A ref is {ref_id, ann_id, category_id, image_id, file_name, split,
sent_ids, sentences: [{raw, sent, sent_id, tokens}]}; gRefCOCO's ann_id is a list, [-1] where nothing matches.
Its `file_name` carries the annotation's number, so images are found by their id.
"""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

from training.data.image_names import ImageFolder, image_folder
from training.data.readers.indexing import read_instances
from training.data.readers.instances import Instances, name_of
from training.data.readers.records import Record
from training.data.rows import clean_text
from training.data.samples import BadRow, Item, Problem, Sample, Source
from training.data.text_files import load_json

BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "grefcoco": "unc"}  # the splits that papers report
IMAGES = ("images/mscoco/images/train2014", "images/train2014", "train2014")  # where refer, Seg-Zero and others look


class _DataOnly(pickle.Unpickler):
    """A pickle can call whatever it names; the published ones name nothing, so nothing may be named."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; such a file holds lists, dicts, texts and numbers")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside of itself")


def load_pickle(path: Path) -> Any:
    """Lists, dicts, texts and numbers from a pickle (Python 2's too); nothing in it is run. Raises ValueError."""
    try:
        with path.open("rb") as file:
            return _DataOnly(file, encoding="utf-8").load()
    except Exception as error:  # a damaged pickle raises about anything
        raise ValueError(f"{path} is no pickle of plain data: {error}") from error


def read_refer(
    root: Path,
    name: str,
    split: str = "train",
    *,
    by: str | None = None,
    images: Path | ImageFolder | None = None,
    sentences: str = "first",
    encoding: str | None = None,
) -> Source:
    """name: a key of BY. by: whose splits ("unc", "umd", "google"). images: the folder of train2014.

    sentences: "first" (one sample per object, as published in training rows and evaluation copies) or "all" (one per
    expression, their `_all` copies). Texts are cleaned as published. Raises ValueError for files that are not there.
    """
    folder, by = root / name, by or BY[name]
    stem = "grefs" if name == "grefcoco" else "refs"
    for path in (folder / f"{stem}({by}).p", folder / f"{stem}({by}).json"):
        if path.exists():
            refs = load_pickle(path) if path.suffix == ".p" else load_json(path, encoding)
            break
    else:
        raise ValueError(f"there is no {stem}({by}).p or .json in {folder}")
    if not isinstance(refs, list):
        raise ValueError(f"{path} holds no list of refs")
    index = read_instances(folder / "instances.json", encoding=encoding)
    found = images or next((root / f for f in IMAGES if (root / f).is_dir()), root / IMAGES[0])
    where = image_folder(found, ())  # listed once
    items: list[Item] = []
    problems, seen, splits, taken = list(index.problems), set(), set(), set[str]()
    for n, ref in enumerate(refs):
        ref_id = ref.get("ref_id") if isinstance(ref, dict) else None
        who = f"ref {n if ref_id is None else ref_id}"
        if isinstance(ref, dict) and isinstance(ref.get("split"), str) and not _of(ref["split"], split):
            splits.add(ref["split"])
            continue
        if wrong := _wrong(ref, index):
            problems.append(Problem(path.name, who, wrong))
            continue
        splits.add(ref["split"])
        if ref_id in seen:
            problems.append(Problem(path.name, who, "its id is given twice; the first one is kept"))
            continue
        seen.add(ref_id)
        items += _items(index, where, name, ref, sentences, taken)
    if not items and split not in splits and splits:
        raise ValueError(f"{path.name} has no split {split!r}; there are {', '.join(sorted(splits))}")
    return Source(name, path.name, items, problems)


def _of(given: str, split: str) -> bool:
    return given == split or (split == "test" and given.startswith("test"))


def _wrong(ref: Any, index: Instances) -> str:
    if not isinstance(ref, dict):
        return f"it is {type(ref).__name__}, no object"
    missing = [key for key in ("ref_id", "ann_id", "image_id", "split", "sentences") if key not in ref]
    if missing:
        return f"it has no {', '.join(missing)}"
    if not isinstance(ref["split"], str) or not isinstance(ref["ref_id"], (int, str)):
        return "its split or ref_id is of a wrong type"
    if index.images.find(ref["image_id"]) is None:
        if len(index.images.find_spoiled(ref["image_id"])) > 1:
            return f"image {ref['image_id']!r} is several different images in instances.json"
        return f"there is no image {ref['image_id']!r} in instances.json"
    return ""


def _items(
    index: Instances, images: Path | ImageFolder, name: str, ref: Record, sentences: str, taken: set[str]
) -> list[Item]:
    given = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    ann_ids = [a for a in given if a != -1]
    every = [_text(s) for s in ref["sentences"]] if isinstance(ref["sentences"], list) else []
    texts = [t for t in every if t]
    objects = "_".join(str(a) for a in ann_ids[:3]) or "none"
    stem = f"{name}_{objects}"
    if name == "grefcoco" or stem in taken:  # several refs mean the same objects there
        stem = f"{name}_{objects}_ref{ref['ref_id']}"
    taken.add(stem)
    image_id = index.images.find(ref["image_id"])
    assert image_id is not None  # `_wrong` says so
    picture = name_of(index.images.known[image_id])
    if sentences == "all" and len(texts) > 1:
        ids = [f"{stem}_s{n}" for n in range(len(texts))]
        return [
            Item(i, picture, partial(_sample, index, images, ref, i, ann_ids, (text,)))
            for i, text in zip(ids, texts, strict=True)
        ]
    return [Item(stem, picture, partial(_sample, index, images, ref, stem, ann_ids, tuple(texts)))]


def _text(sentence: Any) -> str:
    if not isinstance(sentence, dict):
        return ""
    text = sentence.get("raw") or sentence.get("sent")
    return clean_text(text) if isinstance(text, str) else ""


def _sample(
    index: Instances, images: Path | ImageFolder, ref: Record, name: str, ann_ids: list[Any], texts: tuple[str, ...]
) -> Sample:
    if not texts:
        raise BadRow((f"ref {ref['ref_id']}", "it has no sentence"))
    who, annotations = f"ref {ref['ref_id']}", []
    for ann_id in ann_ids:
        try:
            annotations.append(index.annotation(ann_id))
        except ValueError as error:
            raise BadRow((who, f"{error} in instances.json")) from error
    image_id = index.images.find(ref["image_id"])
    assert image_id is not None
    elsewhere = [a["id"] for a in annotations if index.file_of[a["image_id"]] != index.file_of[image_id]]
    if elsewhere:
        raise BadRow((who, f"annotation {elsewhere[0]} is of another image"))
    try:
        path = index.picture(image_id, images)
    except ValueError as error:
        raise BadRow((who, str(error))) from error
    if not annotations:
        return Sample(name, texts[0], path, (), others=texts[1:])
    path, size = index.pictures(annotations, images)
    found = index.objects(annotations, size)
    ids = tuple(str(a["id"]) for a in found.annotations)
    return Sample(name, texts[0], path, found.masks, others=texts[1:], ann_ids=ids, mended=found.mended)
