"""What is evaluated: instructions over images with their truth, from any source, read lazily."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segzero_ros.core.contract import Box, Image, Mask, Point
from segzero_ros.core.geometry import mask_box
from training.data.samples import Problem, Sample, Source, with_images_mended
from training.data.sources import SOURCES, Reading, check_images, open_source
from training.data.tabletop import held_out_wordings
from training.data.tabletop.evaluation import QUESTIONS, Question, questions
from training.data.tabletop.store import SPLITS, Scenes, render_split


@dataclass(frozen=True)
class Target:
    """One true object. box: XYXY, exclusive far edges; point: inside it; mask: (H, W), None where it is not known."""

    box: Box
    point: Point | None
    mask: Mask | None = field(repr=False)


@dataclass(frozen=True)
class Asked:
    """An instruction over an image with its truth. ignore: (H, W), pixels that LISA's protocol does not count."""

    text: str
    image: Image = field(repr=False)
    targets: tuple[Target, ...]
    ignore: Mask | None = field(default=None, repr=False)
    mended: tuple[str, ...] = ()  # as Sample has it

    def truth(self) -> Mask | None:
        """All targets, (H, W); None where masks are not known."""
        masks = [t.mask for t in self.targets if t.mask is not None]
        if len(masks) < len(self.targets):
            return None
        return np.logical_or.reduce([np.zeros(self.image.shape[:2], bool), *masks])


@dataclass(frozen=True)
class Case:
    """An item before its data is read. Whatever `read` raises makes it an unread item, no more. about: for JSON."""

    id: str
    kind: str
    read: Callable[[], Asked] = field(repr=False)
    about: dict[str, Any] = field(default_factory=dict)


class Unseen(ValueError):
    """An image that cannot be read, of an item whose truth is known. asked: with a black image in its place."""

    def __init__(self, why: str, asked: Asked) -> None:
        super().__init__(why)
        self.asked = asked


def tabletop_cases(scenes: Scenes, asked: Sequence[Question], name: str) -> list[Case]:
    """name: what the ids start with, such as split and seed."""

    def read(q: Question) -> Asked:
        ids = scenes.ids(q.scene)
        targets = tuple(
            Target(t.box, (float(t.point[0]), float(t.point[1])), np.asarray(ids == t.id)) for t in q.item.targets
        )
        return Asked(q.item.text, np.ascontiguousarray(scenes.rgb(q.scene)), targets)

    return [
        Case(f"{name}-{n:05d}", q.item.kind, lambda q=q: read(q), {"scene": q.scene})  # type: ignore[misc]
        for n, q in enumerate(asked)
    ]


def sample_cases(source: Source | Iterable[Sample | Problem], kind: str, *, strict: bool = False) -> list[Case]:
    """Cases of a source, read lazily, or of any samples.

    What a source knows to be bad becomes a case that cannot be read; strict: so does what was mended. Raises ValueError
    for an id that is there twice.
    """

    def asked(sample: Sample) -> Asked:
        found = with_images_mended(sample)
        if strict and found.mended:
            raise ValueError("; ".join(f"{why} (--strict)" for why in found.mended))
        return asked_of(found)

    def fails(problem: Problem) -> Callable[[], Asked]:
        def read() -> Asked:
            raise ValueError(problem.reason)

        return read

    if isinstance(source, Source):
        bad = [p for p in source.problems if p.kind == "bad" and p.file == source.file]  # not those of a file beside
        cases = [Case(i.id, kind, lambda i=i: asked(i.read())) for i in source.items]  # type: ignore[misc]
        cases += [Case(f"{p.id} (problem {n})", kind, fails(p)) for n, p in enumerate(bad)]  # last: --n takes items
    else:
        cases = [
            Case(s.id, kind, fails(s) if isinstance(s, Problem) else lambda s=s: asked(s))  # type: ignore[misc]
            for s in source
        ]
    twice = [i for i, n in Counter(c.id for c in cases).items() if n > 1]
    if twice:
        raise ValueError(f"{len(twice)} ids are there more than once, such as {twice[0]!r}")
    return cases


def asked_of(sample: Sample) -> Asked:
    """A sample's truth: its masks, or its annotated boxes where it has none. Raises ValueError for what cannot be, and
    Unseen where that is the image alone."""
    why: Exception | None = None
    try:
        image = sample.pixels()
    except Exception as error:
        drawn = [m for m in (*sample.masks, sample.ignore) if m is not None]
        image, why = np.zeros((*(drawn[0].shape if drawn else (1, 1)), 3), np.uint8), error
    if sample.ignore is not None and sample.ignore.shape != image.shape[:2]:
        raise ValueError(f"the ignored pixels are {sample.ignore.shape} over an image {image.shape[:2]}")
    if sample.masks:
        targets = []
        for n, mask in enumerate(sample.masks):
            box = mask_box(mask)
            if mask.shape != image.shape[:2] or box is None:
                raise ValueError(f"mask {n} is {mask.shape} over an image {image.shape[:2]}, or empty")
            targets.append(Target(box, None, mask))
    else:
        known = sample.targets or ()
        targets = [Target(_exclusive(t.box), as_floats(t.points[0]) if t.points else None, None) for t in known]
    asked = Asked(sample.text, image, tuple(targets), sample.ignore, sample.mended)
    if why is not None:
        raise Unseen(reason_of(why), asked) from why
    return asked


def reason_of(error: Exception) -> str:
    """As `prepare` writes it."""
    return str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"


def _exclusive(box: Sequence[int]) -> Box:
    return float(box[0]), float(box[1]), box[2] + 1.0, box[3] + 1.0


def as_floats(point: Sequence[int]) -> Point:
    return float(point[0]), float(point[1])


def read_cases(settings: dict[str, Any], root: Path) -> list[Case]:
    """The items that settings describe. Raises ValueError for data that is not there."""
    family, _, where = settings["data"].partition(":")
    if family == "tabletop":
        known = ", ".join((*SPLITS, *held_out_wordings.SPLITS))
        split, words = held_out_wordings.SPLITS.get(where, (where, None))
        if split not in SPLITS:
            raise ValueError(f"--data {settings['data']}: expected tabletop:SPLIT with SPLIT in {known}")
        scenes = Scenes(render_split(root, split, settings["scenes"]), limit=settings["scenes"])
        count, seed = settings["n"] or QUESTIONS, settings["seed"]
        asked = questions(scenes, count, seed, ood=split == "test-ood", words=words)
        return tabletop_cases(scenes, asked, f"{split}-{seed}")  # in other words it is the same item
    if family not in SOURCES or not where:
        known = ", ".join(f"{name}:PATH" for name in SOURCES if name != "tabletop")
        raise ValueError(f"--data {settings['data']}: expected tabletop:SPLIT or one of {known}")
    images = Path(settings["images"]) if settings["images"] else None
    check_images(family, images)
    if not Path(where).exists() and family != "rows":
        raise ValueError(f"--data {settings['data']}: there is no {where}")
    given = {key: settings[key] for key in ("split", "by", "sentences", "seed")}
    how = settings.get("reading", {})
    source = open_source(Reading(family, where, images=images, **given, **how))
    return sample_cases(source, family, strict=how.get("strict", False))[: settings["n"]]
