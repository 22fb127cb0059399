"""`segzero-train prepare`: annotated images in, rows that a reasoner is trained or evaluated on out.

    segzero-train prepare --coco my.json --images photos --out rows
    segzero-train prepare --source refcocog --root refer_seg --split train --form single --out refcocog_840
    segzero-train prepare --join refcocog lvis --out mixed

OUT is opened by `datasets.load_from_disk`. Beside it: problems.jsonl (every row that is none, with file, id and
reason), page.png (look at it), hashes.jsonl (`store.overlap`) and summary.json. A run that was killed continues when it
is called again; one without a row leaves nothing but problems.jsonl, and OUT can be used again. Exit codes: 0 there are
rows, 1 there is none (or an overlap is refused), 2 wrong use or an unreadable source.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.data import out_folder, quality, store
from training.data.images import Picture
from training.data.objects import ignored_beside
from training.data.page import page
from training.data.rows import FORMS, row
from training.data.samples import Item, Problem, Sample, Source, read
from training.data.sources import NEGATIVES, SOURCES, Reading, WrongUse, add_options, check_images, open_source, options
from training.data.summary import report, summarise, title

SPLIT = re.compile(r"\w[\w+-]*")  # a folder of OUT's own, and a name that datasets takes


@dataclass(frozen=True)
class Recipe:
    """How a sample becomes rows. group: "none", or "image" for one row per image, as published for many objects."""

    file: str
    square: int = 840
    form: str = "list"
    masks: bool = False
    points: str = "published"
    group: str = "none"
    min_iou: float = quality.MIN_IOU
    segmenter: quality.Segmenter | None = None
    known: tuple[tuple[str, store.Known], ...] = ()
    strict: bool = False  # what is mended elsewhere is bad


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="segzero-train prepare", description=(__doc__ or "").split("\n")[0])
    where = p.add_argument_group("what is read")
    where.add_argument("--source", choices=SOURCES, help="the format")
    where.add_argument("--coco", type=Path, metavar="JSON", help="short for --source coco --root JSON")
    where.add_argument("--join", nargs="+", metavar="ROWS", help="prepared or published sets, made one")
    where.add_argument("--root", help="the annotation file, or the folder that the format's documentation describes")
    where.add_argument("--images", type=Path, help="folder of the images (default: where the format has them)")
    where.add_argument("--split", default="train", help="of the source, and the name of the split that is written")
    where.add_argument("--by", help="whose splits of RefCOCO*: unc, umd, google")
    where.add_argument("--sentences", choices=("first", "all"), default="first", help="one sample per object or text")
    where.add_argument("--instances", type=Path, help="lisa++: COCO's instances_train2017.json, for its masks")
    where.add_argument("--count", type=int, default=1000, help="tabletop: how many samples")
    where.add_argument("--no-target", type=int, default=0, metavar="N", help="N texts per image that nothing matches")
    where.add_argument("--limit", type=int, help="so many, chosen by --seed")
    where.add_argument("--seed", type=int, default=0)
    add_options(where)
    what = p.add_argument_group("what is written")
    what.add_argument("--out", type=Path, required=True)
    what.add_argument("--form", choices=FORMS, default="list", help="list: any number of objects; single: one; mask")
    what.add_argument("--square", type=int, default=840, help="side in pixels (demo: 224)")
    what.add_argument("--points", choices=("published", "circles"), default="published")
    what.add_argument("--group", choices=("none", "image"), default="none", help="image: its texts joined in one row")
    what.add_argument(
        "--masks", action="store_true", help="masks and ignored pixels too, as run lengths (mask: the latter anyway)"
    )
    what.add_argument("--page", type=int, default=24, metavar="N", help="rows on page.png")
    keep = p.add_argument_group("what is left out")
    keep.add_argument("--filter-segmenter", metavar="PROFILE", help="keep what this profile's segmenter finds again")
    keep.add_argument("--min-iou", type=float, default=quality.MIN_IOU)
    keep.add_argument("--not-in", action="append", default=[], metavar="ROWS", help="a set that must share no image")
    keep.add_argument("--near", type=int, default=0, metavar="BITS", help="of 256, for resized copies (--not-in)")
    keep.add_argument("--overlap", choices=("drop", "refuse"), default="drop")
    p.add_argument("--workers", type=int, default=2, help="threads")
    p.add_argument("--shard", type=int, default=64, help="items that are written at once")
    p.add_argument("--json", action="store_true", help="the summary on standard output as JSON")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    from segzero_ros.core.contract import SegzeroError
    from segzero_ros.profiles import ProfileError

    arguments = parser().parse_args(argv)
    try:
        return run(arguments)
    except (WrongUse, ProfileError, SegzeroError, OSError) as error:
        print(f"segzero-train prepare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("segzero-train prepare: interrupted; the same call continues", file=sys.stderr)
        return 130


def run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    ours = ("workers", "json", "out", "page", "join")  # `root` names what is joined
    settings = {k: str(v) for k, v in sorted(vars(arguments).items()) if k not in ours}
    try:
        source = open_source(reading(arguments))
        known = [(other, store.Known(store.hashes_of(other), arguments.near)) for other in arguments.not_in]
    except ValueError as error:
        raise WrongUse(str(error)) from error
    groups = grouped(source, arguments.group)
    if arguments.limit is not None and arguments.limit < len(groups):
        chosen = np.random.default_rng(arguments.seed).permutation(len(groups))[: arguments.limit]
        groups = [groups[n] for n in sorted(chosen)]
    settings["items"] = out_folder.digest(item.id for group in groups for item in group)
    settings["annotations"] = out_folder.contents(*(arguments.join or [arguments.root]))
    with out_folder.alone(arguments.out):
        return write(source, groups, known, settings, arguments)


def write(
    source: Source,
    groups: list[tuple[Item, ...]],
    known: Sequence[tuple[str, store.Known]],
    settings: dict[str, str],
    arguments: argparse.Namespace,
) -> int:
    """Fills the folder; the exit code."""
    out = arguments.out
    if out_folder.begin(out, settings):
        summary = json.loads((out / "summary.json").read_text())
        again = "; images that were mended since are not read again: remove it for that" if summary["bad"] else ""
        print(f"{out} is done already{again}", file=sys.stderr)
        store.Shards(out, arguments.form).remove()  # where a kill came between the summary and this
        return report(summary, out, arguments.json)
    recipe = Recipe(
        source.file,
        arguments.square,
        arguments.form,
        arguments.masks,
        arguments.points,
        arguments.group,
        arguments.min_iou,
        quality.load(arguments.filter_segmenter) if arguments.filter_segmenter else None,
        tuple(known),
        arguments.strict,
    )
    shards = store.Shards(out, arguments.form)
    _grow(shards, source, groups, recipe, arguments)
    problems, hashes = list(source.problems), list[store.Fingerprint]()
    for number in range(_count(groups, arguments.shard)):
        more, found = shards.about(number)
        problems, hashes = problems + more, hashes + found
    store.write_text(out / out_folder.PROBLEMS, store.jsonl(problems))
    shared = [p for p in problems if p.reason.startswith(SHARED)]
    if shared and arguments.overlap == "refuse":
        print(f"segzero-train prepare: refused, {len(shared)} items; first: {shared[0].reason}", file=sys.stderr)
        out_folder.abandon(out)
        return 1
    data = shards.dataset()
    summary = summarise(source, groups, data, problems, settings)
    if data is None:
        out_folder.abandon(out)
        return report(summary, out, arguments.json)
    shards.finish(data, arguments.split, arguments.masks)
    store.write_text(out / "hashes.jsonl", store.jsonl(hashes))
    if arguments.page:
        shown = np.unique(np.linspace(0, len(data) - 1, min(arguments.page, len(data))).astype(int))
        page([data[int(n)] for n in shown], out / "page.png", title(summary))
    store.write_text(out / "summary.json", json.dumps(summary, indent=1))
    del data
    shards.remove()
    return report(summary, out, arguments.json)


def reading(a: argparse.Namespace) -> Reading:
    """What a call reads."""
    return Reading(
        a.source,
        a.root,
        images=a.images,
        split=a.split,
        by=a.by,
        sentences=a.sentences,
        instances=a.instances,
        count=a.count,
        no_target=a.no_target,
        seed=a.seed,
        join=tuple(a.join or ()),
        **options(a),
    )


def _check(arguments: argparse.Namespace) -> None:
    if arguments.coco is not None:
        arguments.source, arguments.root = "coco", str(arguments.coco)
    if arguments.join is not None:
        if arguments.source is not None or arguments.root is not None:
            raise WrongUse("--join reads rows and nothing besides: leave out --source, --root and --coco")
        arguments.source, arguments.root = "rows", " ".join(arguments.join)
    if arguments.source is None or arguments.root is None:
        raise WrongUse("say what to read: --coco FILE, --join ROWS ROWS, or --source FORMAT --root FILE_OR_FOLDER")
    if arguments.no_target and arguments.source not in NEGATIVES:
        raise WrongUse(
            f"--no-target: {arguments.source} does not say what an image has none of; {' and '.join(NEGATIVES)} do"
        )
    check_images(arguments.source, arguments.images)
    if any("\ud800" <= c <= "\udfff" for c in str(arguments.out.absolute())):
        raise WrongUse(
            f"--out {str(arguments.out)!a}: the name of this folder is no UTF-8, which rows cannot be written to"
        )
    if not SPLIT.fullmatch(arguments.split) or arguments.split == "shards":
        raise WrongUse(
            f"--split {arguments.split!r}: expected a name of letters, digits, _, + and -, other than shards"
        )
    least_of = {"square": 28, "shard": 1, "workers": 1, "page": 0, "no_target": 0, "count": 1, "seed": 0}
    for name, least in least_of.items():
        if getattr(arguments, name) < least:
            raise WrongUse(f"--{name.replace('_', '-')} must be at least {least}")
    if arguments.limit is not None and arguments.limit < 1:
        raise WrongUse("--limit must be at least 1")
    if arguments.group == "image" and arguments.form != "list":
        raise WrongUse("--group image needs --form list")


def grouped(source: Source, group: str) -> list[tuple[Item, ...]]:
    """Items that are handled together: one by one, or all over the same image."""
    if group == "none":
        return [(item,) for item in source.items]
    images: dict[str, list[Item]] = {}
    for item in source.items:
        images.setdefault(item.image, []).append(item)
    return [tuple(items) for items in images.values()]


SHARED = "its image is in "


def process(group: tuple[Item, ...], recipe: Recipe) -> store.Shard:
    """What becomes of some items over one image."""
    done = store.Shard()
    kept: list[tuple[Sample, NDArray[np.uint8]]] = []
    for item in group:
        sample, problems = read(item, recipe.file)
        done.problems.extend(problems)
        if sample is None:
            continue
        if sample.mended and recipe.strict:
            done.problems.extend(Problem(recipe.file, item.id, f"{why} (--strict)") for why in sample.mended)
            continue
        done.problems.extend(Problem(recipe.file, item.id, why, "mended") for why in sample.mended)
        try:
            pixels = kept[0][1] if kept and _same_image(kept[0][0], sample) else sample.pixels()
            if recipe.masks and sample.targets and not sample.masks:
                raise ValueError("boxes and points are annotated and no masks, which --masks asks for")
            if reason := _unlike(sample, pixels, recipe):
                done.problems.append(Problem(recipe.file, item.id, reason, "left out"))
            else:
                kept.append((sample, pixels))
        except ValueError as error:
            done.problems.append(Problem(recipe.file, item.id, str(error)))
    for sample, pixels in joined(kept, recipe.group):
        sample = replace(sample, ignore=ignored_beside(sample.ignore, sample.masks))
        try:
            columns = row(sample, recipe.square, recipe.form, recipe.points, pixels)
        except ValueError as error:
            done.problems.append(Problem(recipe.file, sample.id, str(error)))
            continue
        one = store.fingerprint(sample.id, pixels, columns["image"])
        shared = [(where, found) for where, known in recipe.known if (found := known.find(one)) is not None]
        if shared:
            reason = f"{SHARED}{shared[0][0]} ({shared[0][1]})"
            done.problems.append(Problem(recipe.file, sample.id, reason, "left out"))
            continue
        done.rows.append({**columns, "image": store.png(columns["image"])})
        done.hashes.append(one)
    return done


def _same_image(a: Sample, b: Sample) -> bool:
    return a.image is b.image or (isinstance(a.image, Picture) and a.image == b.image)


def _unlike(sample: Sample, pixels: NDArray[np.uint8], recipe: Recipe) -> str:
    if recipe.segmenter is None:
        return ""
    if any(mask.shape != pixels.shape[:2] for mask in sample.masks) or not all(m.any() for m in sample.masks):
        return ""  # `row` says so
    found = quality.agreement(recipe.segmenter, pixels, sample.masks, recipe.points)
    low = [f"{v:.2f}" for v in found if v < recipe.min_iou]
    return f"the segmenter finds it again with IoU {', '.join(low)}, below {recipe.min_iou:g}" if low else ""


def joined(kept: Sequence[tuple[Sample, Any]], group: str) -> list[tuple[Sample, Any]]:
    """As published for many objects: one sample of all texts, 'a' and 'b', where something matches them."""
    found = [(s, p) for s, p in kept if s.masks or s.targets]
    if group == "none" or not found:
        return list(kept)
    samples, pixels = [s for s, _ in found], found[0][1]
    ids = [i for s in samples for i in s.ann_ids][:3]
    whole = replace(
        samples[0],
        id=f"{samples[0].id.rpartition('_')[0]}_{'_'.join(ids)}" if ids else samples[0].id,
        text=" and ".join(f"'{s.text}'" for s in samples),
        masks=tuple(m for s in samples for m in s.masks),
        targets=None if samples[0].targets is None else tuple(t for s in samples for t in s.targets or ()),
        ignore=_any([s.ignore for s in samples if s.ignore is not None]),
        ann_ids=tuple(i for s in samples for i in s.ann_ids),
        others=(),
    )
    return [(whole, pixels), *((s, p) for s, p in kept if not (s.masks or s.targets))]


def _any(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_] | None:
    return np.asarray(np.logical_or.reduce(masks)) if masks else None


def _count(groups: Sequence[Any], size: int) -> int:
    return -(-len(groups) // size)


def _grow(
    shards: store.Shards,
    source: Source,
    groups: list[tuple[Item, ...]],
    recipe: Recipe,
    arguments: argparse.Namespace,
) -> None:
    """Writes every shard that is not there; problems.jsonl grows along."""
    size, count = arguments.shard, _count(groups, arguments.shard)
    log = shards.out / out_folder.PROBLEMS
    before = [p for n in range(count) if shards.done(n) for p in shards.about(n)[0]]
    store.write_text(log, store.jsonl([*source.problems, *before]))
    bad = len(source.problems) + len(before)
    workers = 1 if recipe.segmenter is not None else arguments.workers  # a segmenter is for one thread
    with (
        tqdm(total=len(groups), desc=f"prepare {source.name}", unit="item") as bar,
        log.open("a", encoding="utf-8") as problems,
    ):
        for number in range(count):
            part = groups[number * size : (number + 1) * size]
            if shards.done(number):
                bar.update(len(part))
                continue
            whole = store.Shard()
            for one in _each(lambda group: process(group, recipe), part, workers):
                whole.rows.extend(one.rows)
                whole.problems.extend(one.problems)
                whole.hashes.extend(one.hashes)
                bar.update()
            shards.write(number, whole)
            problems.write(store.jsonl(whole.problems))
            problems.flush()
            bad += len(whole.problems)
            bar.set_postfix(problems=bad)


def _each(work: Callable[[Any], store.Shard], part: Sequence[Any], workers: int) -> Iterator[store.Shard]:
    """In order, whatever the number of threads."""
    if workers == 1:
        yield from map(work, part)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(work, part)


if __name__ == "__main__":
    sys.exit(main())
