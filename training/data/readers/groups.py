"""What is annotated in one image by what it is called: each group is one instruction with all its objects.

`by_name`, `spelled` and `take_name` are every format's; the rest is over COCO's annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from training.data.image_names import ImageFolder
from training.data.readers.instances import Instances, fallen, name_of
from training.data.readers.names import NO_OBJECT, check_text, clean_name, spelling, texts_of
from training.data.readers.records import Record
from training.data.samples import BadRow, Item, LeftOut, Sample

SPELLED = "an instruction is spelled in several ways, and is one"
NO_OBJECT_SAID = '"{}" is no object'
TWO_CATEGORIES = "several categories have one name, and are one instruction"
TWO_IMAGES = "several image records are of one file, and are one image"
Names = Callable[[Record], Sequence[str]]  # what an annotation can be called, its own text first
One = TypeVar("One")


def by_name(annotated: Iterable[One], names: Callable[[One], Sequence[str]]) -> dict[str, list[tuple[One, str]]]:
    """By clean name all that have it and what each is called there, in the order in which they are first named; "" for
    what has no name. A name that comes first for nothing makes no group."""
    called = [(one, [(clean_name(name), name) for name in names(one)]) for one in annotated]
    groups: dict[str, list[tuple[One, str]]] = {}
    for _, pairs in called:
        groups.setdefault(pairs[0][0] if pairs else "", [])
    for one, pairs in called:
        for key, name in (dict(reversed(pairs)) if pairs else {"": ""}).items():
            if key in groups:
                groups[key].append((one, name))
    return groups


def spelled(names: Iterable[str]) -> tuple[str, ...]:
    """What is to be said of the names of one group."""
    return (SPELLED,) if len(set(names)) > 1 else ()


def take_name(name: str, taken: set[str]) -> str:
    """The name with a number, where it is taken already; it is taken then."""
    whole, n = name, 1
    while whole in taken:
        n += 1
        whole = f"{name}_{n}"
    taken.add(whole)
    return whole


@dataclass(frozen=True)
class Group:
    """Annotations over one image file that one name means. key: the clean name, "" where they have none.

    lost: ids of annotations that are left away and have this name too. others: texts that mean the same.
    """

    key: str
    text: str
    annotations: list[Record] = field(repr=False)
    lost: tuple[Any, ...] = ()
    others: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()


def groups_of(index: Instances, file: str, names: Names) -> Iterator[Group]:
    """In the order in which they are first named."""
    groups = by_name(index.over(file), names)
    lost = [(a.get("id"), {clean_name(name) for name in names(a)}) for a in index.lost.get(file, ())]
    for key, members in groups.items():
        annotations = [a for a, _ in members]
        text = spelling([name for _, name in members])
        gone = tuple(who for who, keys in lost if key in keys) if key else ()
        mended = _mended(index, key, members)
        yield Group(key, text, annotations, gone, _others(annotations, groups), mended)


def _others(annotations: Sequence[Record], groups: dict[str, Any]) -> tuple[str, ...]:
    """Texts of all of them that name nothing else."""
    texts = {clean_name(t): t for t in reversed(texts_of(annotations[0]))}
    for annotation in annotations[1:]:
        if not texts:
            break
        shared = {clean_name(t) for t in texts_of(annotation)}
        texts = {key: t for key, t in texts.items() if key in shared}
    return tuple(t for key, t in reversed(texts.items()) if key not in groups)


def _mended(index: Instances, key: str, pairs: Sequence[tuple[Record, str]]) -> tuple[str, ...]:
    if len(pairs) == 1:
        return ()
    found = [*spelled(name for _, name in pairs)]
    if len({a["image_id"] for a, _ in pairs}) > 1:
        found.append(TWO_IMAGES)
    categories = {a.get("category_id") for a, _ in pairs} - {None}
    if len(categories) > 1:
        named = [c for c in categories if key in map(clean_name, index.category_names({"category_id": c}))]
        if len(named) > 1:
            found.append(TWO_CATEGORIES)
    return tuple(found)


def item_of(index: Instances, images: Path | ImageFolder, file: str, group: Group, crowds: str, name: str) -> Item:
    """name: of the item and its sample."""
    return Item(name, name_of(index.image(file)), partial(_sample, index, images, name, group, crowds))


def name_group(index: Instances, group: Group, taken: set[str], of_category: bool = False) -> str:
    """A name of an item that no other of the file has, of its first annotations. of_category: and of the category where
    that is meant."""
    name = f"{index.file.stem}_{'_'.join(str(a['id']) for a in group.annotations[:3])}"
    if of_category and group.key in map(clean_name, index.category_names(group.annotations[0])):
        name += f"_{group.text}".replace(" ", "-")
    return take_name(name, taken)


def _sample(index: Instances, images: Path | ImageFolder, name: str, group: Group, crowds: str) -> Sample:
    """The sample of one instruction. crowds: "ignore" for pixels that count neither way, "keep" for objects."""
    every, text = group.annotations, group.text
    if not text:
        raise BadRow(*((f"annotation {a['id']}", "it has neither text nor category") for a in every))
    if group.lost:
        why = f'annotation {group.lost[0]}, bad itself, is of the same instruction, "{text}"'
        raise BadRow(*((f"annotation {a['id']}", why) for a in every))
    if group.key in NO_OBJECT:
        raise LeftOut(*((f"annotation {a['id']}", NO_OBJECT_SAID.format(text)) for a in every))
    try:
        check_text(text)
    except ValueError as error:
        raise fallen([(a, str(error)) for a in every], every) from error
    aside = [a for a in every if a["iscrowd"]] if crowds == "ignore" else []
    objects = [a for a in every if not a["iscrowd"]] if aside else every
    if not objects:
        why = f'"{text}" is but a crowd here (iscrowd), no object; --crowds keep makes it one'
        raise LeftOut(*((f"annotation {a['id']}", why) for a in aside))
    path, size = index.pictures(every, images)
    found = index.objects(objects, size, aside)
    mended = tuple(dict.fromkeys((*group.mended, *found.mended)))
    ids = tuple(str(a["id"]) for a in found.annotations)
    return Sample(name, text, path, found.masks, found.ignore, group.others, ann_ids=ids, mended=mended)
