"""The formats that are read, and how: what `prepare` and the evaluation have in common."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.image_names import ImageFolder
from training.data.images import Grey
from training.data.samples import Source
from training.data.text_files import check_encoding

SOURCES = (
    "coco",
    "lvis",
    "refcoco",
    "refcoco+",
    "refcocog",
    "grefcoco",
    "reasonseg",
    "labelme",
    "lisa++",
    "rows",
    "tabletop",
)
NEGATIVES = ("coco", "lvis")  # where it is known what an image has none of


class WrongUse(ValueError):
    """The call cannot be done; the message says what to change."""


@dataclass(frozen=True)
class Reading:
    """What is read and how. root: an annotation file, or the folder that the format's documentation describes.

    encoding: of annotation files that are not UTF-8. grey: what is shown of images of more than eight bits, (low, high)
    or "auto". crowds: whether `iscrowd` masks are ignored pixels or objects. strict: what would be mended is bad.
    """

    source: str
    root: str
    images: Path | None = None
    split: str = "train"
    by: str | None = None
    sentences: str = "first"
    instances: Path | None = None
    count: int = 1000
    no_target: int = 0
    seed: int = 0
    join: tuple[str, ...] = ()
    encoding: str | None = None
    grey: Grey = None
    crowds: str = "ignore"
    strict: bool = False


def add_options(group: Any) -> None:
    """The options of an argparse group that say how annotations are read; `options` reads them."""
    group.add_argument("--encoding", metavar="NAME", help="of annotation files that are not UTF-8, such as gbk")
    group.add_argument(
        "--grey-range",
        nargs="+",
        metavar=("LOW", "HIGH"),
        help="values of 16-bit (or floating-point) images that are shown black and white; auto: each file's extremes",
    )
    group.add_argument(
        "--crowds", choices=("ignore", "keep"), default="ignore", help="iscrowd masks: pixels or objects"
    )
    group.add_argument("--strict", action="store_true", help="what would be mended and counted is bad")


def options(a: argparse.Namespace) -> dict[str, Any]:
    """The fields of Reading that `add_options` has asked for. Raises WrongUse for values that are none."""
    if a.encoding is not None:
        try:
            check_encoding(a.encoding)
        except ValueError as error:
            raise WrongUse(str(error)) from error
    return {"encoding": a.encoding, "grey": grey_range(a.grey_range), "crowds": a.crowds, "strict": a.strict}


def grey_range(words: Sequence[str] | None) -> Grey:
    """What `--grey-range` says. Raises WrongUse."""
    if words is None or list(words) == ["auto"]:
        return None if words is None else "auto"
    try:
        low, high = map(float, words)
    except ValueError:
        low, high = 0.0, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise WrongUse(
            f"--grey-range {' '.join(words)[:80]}: expected auto, or two numbers of which the first is lower"
        )
    return low, high


def check_images(source: str, images: Path | None) -> None:
    """Raises WrongUse where a format does not say where its images are, and nobody else does."""
    if source in ("coco", "lvis", "lisa++") and images is None:
        raise WrongUse(f"{source} needs --images DIR")
    if images is not None and not images.is_dir():
        raise WrongUse(f"there is no folder {images}")


def open_source(r: Reading) -> Source:
    """The reader of what is asked for. Raises ValueError for a source that cannot be read at all."""
    root = Path(r.root)
    images = ImageFolder(r.images, r.grey) if r.images is not None else None
    if r.source == "coco":
        from training.data.readers.coco import read_coco

        return read_coco(
            root, _needed(images), no_target=r.no_target, seed=r.seed, crowds=r.crowds, encoding=r.encoding
        )
    if r.source == "lvis":
        from training.data.readers.lvis import read_lvis

        return read_lvis(
            root, _needed(images), no_target=r.no_target, seed=r.seed, crowds=r.crowds, encoding=r.encoding
        )
    if r.source == "reasonseg":
        from training.data.readers.reasonseg import read_reasonseg

        folder = root / r.split if (root / r.split).is_dir() else root
        where = images or ImageFolder(folder, r.grey)
        return read_reasonseg(folder, where, sentences=r.sentences, encoding=r.encoding)
    if r.source == "labelme":
        from training.data.readers.labelme import read_labelme

        folder = root / r.split if (root / r.split).is_dir() else root
        return read_labelme(folder, images or ImageFolder(folder, r.grey), encoding=r.encoding)
    if r.source == "lisa++":
        from training.data.readers.lisa_plus import read_lisa_plus

        return read_lisa_plus(root, _needed(images), instances=r.instances, encoding=r.encoding)
    if r.source == "rows":
        from training.data.readers.published import join_rows, read_rows

        return join_rows(r.join, r.split) if r.join else read_rows(r.root, r.split)
    if r.source == "tabletop":
        from training.data.readers.tabletop import read_tabletop

        return read_tabletop(root / r.split if (root / r.split).is_dir() else root, count=r.count, seed=r.seed)
    from training.data.readers.refer import read_refer

    return read_refer(root, r.source, r.split, by=r.by, images=images, sentences=r.sentences, encoding=r.encoding)


def _needed(images: ImageFolder | None) -> ImageFolder:
    if images is None:
        raise WrongUse("this format needs --images DIR")
    return images
