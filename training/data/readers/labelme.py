"""labelme's files: a folder of NAME.json, each with one image's shapes (`training.data.readers.shapes`).

The instruction is a shape's label; all shapes of a label, whatever its case, underscores and final stop, are its
objects as COCO's are (`training.data.readers.groups`), and those of one `group_id` are one object. `__ignore__` is
ignored pixels of every instruction of its image, and `_background_` nothing. An image has one file: of two that differ,
nothing says which is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.data.image_names import ImageFolder, image_folder
from training.data.images import Picture
from training.data.masks import SPECK
from training.data.objects import Mask, ignored_beside
from training.data.readers.groups import NO_OBJECT_SAID, by_name, spelled, take_name
from training.data.readers.holes import is_nested
from training.data.readers.instances import SAME_MASK, different
from training.data.readers.names import NO_OBJECT, check_text, spelling, unread_texts
from training.data.readers.shapes import annotation_files, cut_at_border, drawing_of, is_speck, names_of, picture_of
from training.data.samples import BadRow, Item, LeftOut, Problem, Sample, Source
from training.data.text_files import load_json

NESTED = "it lies within another of its group_id, as a hole or as a part: nothing says which"
HEAD = ("imagePath", "imageHeight", "imageWidth")  # what is kept of a file beside its shapes: imageData is large
Shape = dict[str, Any]


@dataclass(frozen=True)
class _File:
    """A readable file. shapes: those with a label, by their numbers. picture: its image, or why there is none."""

    path: Path
    shapes: dict[int, Shape] = field(repr=False)
    picture: Picture | str

    @property
    def objects(self) -> list[Shape]:
        """Those that are no background and not ignored."""
        return [s for s in self.shapes.values() if not _aside(s)]

    @property
    def ignored(self) -> list[Shape]:
        return [s for s in self.shapes.values() if _aside(s) == "ignore"]


def read_labelme(folder: Path, images: Path | ImageFolder | None = None, *, encoding: str | None = None) -> Source:
    """images: where they are, if not beside the files. Raises ValueError for a folder without annotations."""
    paths, notes = annotation_files(folder)
    problems: list[Problem] = []
    given: dict[Path, tuple[dict[str, Any], dict[int, Shape]]] = {}
    for path in paths:
        try:
            data = load_json(path, encoding)
            shapes = _labelled(data, partial(Problem, folder.name, path.name), problems)
            given[path] = {key: data.get(key) for key in HEAD}, shapes
        except ValueError as error:
            problems.append(Problem(folder.name, path.name, str(error)))
    where = image_folder(images or folder, ())
    where = where.expecting([name for path, (data, _) in given.items() for name in names_of(path, data, where)])
    files = [_File(path, shapes, _found(path, data, where)) for path, (data, shapes) in given.items()]
    rivals, repeats = _over_one_image(files)
    problems += [Problem(folder.name, name, why) for name, why in rivals.items()]
    every = [s for file in files for s in file.shapes.values()]
    notes += _notes(every, len(repeats))
    taken = set[str]()
    kept = [file for file in files if file.path.name not in rivals and file.path.name not in repeats]
    return Source("labelme", folder.name, [item for file in kept for item in _items(file, taken)], problems, notes)


def _labelled(data: Any, problem: Any, problems: list[Problem]) -> dict[int, Shape]:
    """Shapes that have a label; the others are problems, each for itself."""
    shapes = data.get("shapes") if isinstance(data, dict) else None
    if not isinstance(shapes, list):
        raise ValueError("it has no shapes")
    found = {}
    for n, shape in enumerate(shapes):
        label = shape.get("label") if isinstance(shape, dict) else None
        if isinstance(label, (int, float)) and not isinstance(label, bool):
            label = str(label)
        if not isinstance(label, str) or not label.replace("_", " ").strip():
            problems.append(problem(f"shape {n} has no label"))
            continue
        found[n] = {**shape, "label": label}
    return found


def _found(path: Path, data: dict[str, Any], images: ImageFolder) -> Picture | str:
    try:
        return picture_of(path, data, images)
    except ValueError as error:
        return str(error)
    except Exception as error:  # whatever an image makes a decoder raise is its file's problem, not the run's
        return f"{type(error).__name__}: {error}"


def _aside(shape: Shape) -> str:
    """ "ignore" or "background" for a label that means no object, else ""."""
    label = shape["label"].strip()
    name = label.strip("_ ").casefold()
    return name if label.startswith("_") and name in ("ignore", "background") else ""


def _spoken(shape: Shape) -> str:
    """A label as one would say it."""
    return " ".join(str(shape["label"]).replace("_", " ").split())


def _over_one_image(files: Iterable[_File]) -> tuple[dict[str, str], set[str]]:
    """What is wrong with files that are of one image, by their names; and those that only repeat another."""
    by_image: dict[Path, list[_File]] = {}
    for file in files:
        if isinstance(file.picture, Picture) and (file.objects or file.ignored):
            by_image.setdefault(file.picture.path.resolve(), []).append(file)
    rivals, repeats = {}, set[str]()
    for image, several in by_image.items():
        if all(_equal(file.shapes, several[0].shapes) for file in several):
            repeats |= {file.path.name for file in several[1:]}
            continue
        names = [file.path.name for file in several]
        for name in names:
            other = next(o for o in names if o != name)
            rivals[name] = f"{other!r} is of the same image, {image.name!r}, and says otherwise: neither is taken"
    return rivals, repeats


def _equal(a: dict[int, Shape], b: dict[int, Shape]) -> bool:
    try:
        return a == b
    except RecursionError:  # of lists in lists without end, which are no shapes
        return False


def _notes(shapes: Sequence[Shape], repeats: int) -> Iterator[str]:
    if repeats:
        yield f"{repeats} annotation files only repeat another of the same image, and are not needed"
    if count := sum(_aside(s) == "background" for s in shapes):
        yield f"{count} shapes are labelled as background and are no objects"
    held = Counter(key for s in shapes for key in {str(k) for k in unread_texts(s)})
    for key, count in held.most_common(8):
        yield f'"{key[:60]}" is not read: {count} shapes hold words there; the instruction is a shape\'s label'


def _items(file: _File, taken: set[str]) -> Iterator[Item]:
    """An item for each instruction, in the order in which they are first named. taken: names of items before it."""
    for key, members in by_name(file.objects, lambda shape: (_spoken(shape),)).items():
        labels = [label for _, label in members]
        text = spelling(labels)
        name = take_name(f"{file.path.stem}_{text}".replace(" ", "-"), taken)
        read = partial(_left_out, file, text) if key in NO_OBJECT else partial(_sample, file, name, text)
        yield Item(name, file.path.name, partial(read, [shape for shape, _ in members], spelled(labels)))


def _left_out(file: _File, text: str, *_: Any) -> Sample:
    raise LeftOut((file.path.name, NO_OBJECT_SAID.format(text)))


def _sample(file: _File, name: str, text: str, shapes: Sequence[Shape], said: tuple[str, ...]) -> Sample:
    try:
        if isinstance(file.picture, str):
            raise ValueError(file.picture)
        check_text(text)
        size = file.picture.size
        mended = list(said)
        whole = [s for s in shapes if not is_speck(s)]
        if not whole:
            raise ValueError(f"a shape of {text[:80]!r}: a polygon of fewer than 3 points has no area")
        ignored = [s for s in file.ignored if not is_speck(s)]
        if len(whole) + len(ignored) < len(shapes) + len(file.ignored):
            mended.append(SPECK)
        objects: dict[Any, list[Shape]] = {}
        for n, shape in enumerate(whole):
            known = shape.get("group_id")
            objects.setdefault(("group", str(known)) if known is not None else n, []).append(shape)
        masks = [_mask(parts, size, mended) for parts in objects.values()]
        kept = different(masks)
        if len(kept) < len(masks):
            mended.append(SAME_MASK)
        ignore = _mask(ignored, size, mended, whole=False) if ignored else None
    except ValueError as error:
        raise BadRow((file.path.name, str(error))) from error
    found = tuple(masks[n] for n in kept)
    borne = tuple(dict.fromkeys(mended))
    ignore = ignored_beside(ignore, found)
    return Sample(name, text, file.picture, found, ignore, ann_ids=(file.path.stem,), mended=borne)


def _mask(shapes: Sequence[Shape], size: tuple[int, int], mended: list[str], whole: bool = True) -> Mask:
    """bool (H, W): the union. whole: of one object. Raises ValueError for a shape that is none, or lies outside, and
    for one within another of its object, which may be a hole."""
    parts = []
    for shape in shapes:
        canvas = np.zeros(size, np.uint8)
        try:
            draw = drawing_of(shape)
            mended += cut_at_border(shape, *size)
            draw(canvas, 1)
            parts.append(canvas > 0)
        except (ValueError, TypeError) as error:
            raise ValueError(f"a shape of {shape['label'][:80]!r}: {error}") from error
    mask = np.asarray(np.logical_or.reduce(parts))
    if not mask.any():
        raise ValueError(f"a shape of {shapes[0]['label'][:80]!r} lies outside of the image")
    if whole and is_nested(parts):
        raise ValueError(f"a shape of {shapes[0]['label'][:80]!r}: {NESTED}")
    return mask
