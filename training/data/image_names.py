"""Image files by their annotated names, which exporters write in their own ways.

A name is taken as it is where such a file is there. Else it is looked for under the folder by what every exporter
keeps, the end of its path: Windows' separators, percent-encoding, the case of letters, Unicode's forms and the prefix
that Label Studio puts before uploaded files are borne, and folders that one of both sides lacks. What was borne is said
of the picture. Where two files fit, or two annotated names would be one file, nothing is taken; nor is a file that is
itself named by its whole path. No name leads out of the folder; links in it are followed, since a hub's cache and DVC
keep their files elsewhere, and two links to one file are one image.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from training.data.images import Grey, Picture, open_picture

MOST_FILES = 2_000_000  # of a folder that is searched
# COCO's own numbers are the same in 2014 and 2017, whatever stands before them; any other name is taken as it is.
_OF_COCO = re.compile(
    r"(?:.*/)??(?:(?P<folder>(?:train|val|test|unlabeled)\d{4})/)?(?:COCO_(?P<split>(?:train|val|test)\d{4})_)?"
    r"(?P<file>\d{12}\.\w+)"
)
_OF_LABEL_STUDIO = re.compile(r"[0-9a-f]{8}-(?=.)")
_LOCAL_FILES = re.compile(r".*[?&]d=")  # Label Studio's address of a file that it was not given but shown


@dataclass(frozen=True)
class _Name:
    """An annotated name. parts: of its path, separators and percents undone; keys: without case and Unicode's form."""

    text: str
    parts: tuple[str, ...]

    @cached_property
    def keys(self) -> tuple[str, ...]:
        return tuple(map(_key, self.parts))

    @cached_property
    def of_coco(self) -> tuple[str, str] | None:
        """The number's file name and the split and year ("" where not said), of a name as COCO writes it."""
        found = _OF_COCO.fullmatch("/".join(self.parts))
        if not found or not (found["split"] or found["folder"] or len(self.parts) == 1):
            return None
        return found["file"], found["split"] or found["folder"] or ""

    def may_be(self, other: _Name) -> bool:
        """Whether both may mean one file: one ends like the other, or both are of one number of COCO's."""
        if self.of_coco and other.of_coco:
            (number, a), (another, b) = self.of_coco, other.of_coco
            # An image is in one split of a year only.
            return number == another and not (a != b and a[-4:] == b[-4:])
        return _ends_alike(self.keys, other.keys)


class ImageFolder:
    """A folder of images. names: every one that will be asked for, where that is known beforehand."""

    def __init__(self, path: Path, grey: Grey = None, names: Iterable[str] = ()) -> None:
        self.path, self.grey, self.names = path, grey, frozenset(names)
        self._found: dict[str, list[Path]] = {}
        self._real: dict[str, str | None] = {}
        self._parents: dict[Path, str] = {}  # folders, links resolved

    def expecting(self, names: Iterable[str]) -> ImageFolder:
        """The same folder, to be asked for these names."""
        return ImageFolder(self.path, self.grey, names)

    def find(self, name: str, annotated: tuple[Any, Any] | None = None) -> Picture:
        """An image by its annotated name. annotated: (height, width), where the annotations give them.

        Raises ValueError if it is missing, in doubt or no image, or if the name leads out of the folder.
        """
        path, mended = self._locate(name)
        picture = open_picture(path, annotated, self.grey)
        return Picture(picture.path, picture.size, picture.upright, self.grey, (*mended, *picture.mended))

    def file_of(self, name: str) -> str | None:
        """The path of the file that a name means, links resolved; None where it is missing or in doubt."""
        if name not in self._real:
            try:
                self._real[name] = self._resolved(self._locate(name)[0])
            except ValueError:
                self._real[name] = None
        return self._real[name]

    def _resolved(self, file: Path) -> str:
        """As os.path.realpath, which looks at every folder above each of a hundred thousand files."""
        if os.path.islink(file):
            return os.path.realpath(file)
        if file.parent not in self._parents:
            self._parents[file.parent] = os.path.realpath(file.parent)
        return os.path.join(self._parents[file.parent], file.name)

    def file_in_doubt(self, name: str) -> str | None:
        """The path of the only file that a name fits, links resolved, though another name may be meant by it."""
        found = self._candidates(name)
        return os.path.realpath(found[0]) if len(found) == 1 else None

    def _locate(self, text: str) -> tuple[Path, tuple[str, ...]]:
        own = self._own(text)
        if own is not None:
            return own, ()
        name, found = _split(text), self._candidates(text)
        if len(found) > 1:
            some = " and ".join(repr(str(f.relative_to(self.path))) for f in found[:2])
            raise ValueError(f"the image name {text[:200]!r} fits {len(found)} files under {self.path}, such as {some}")
        if not found:
            raise ValueError(self._missing(text, name))
        inside = PurePosixPath(found[0].relative_to(self.path))
        for other, owns in self._claims.get(os.path.realpath(found[0]), ()):
            if other.keys == name.keys or (name.of_coco and other.of_coco and name.may_be(other)):
                continue
            if owns or not name.may_be(other):
                claim = f"as {other.text[:200]!r} does"
                raise ValueError(f"the image name {text[:200]!r} fits no file but {str(inside)!r}, {claim}")
        return found[0], () if self._of_coco(name) else self._borne(name, inside)

    def _own(self, name: str) -> Path | None:
        """The file of exactly this path."""
        inside = os.path.normpath(name)
        if os.path.isabs(inside) or inside.split("/")[0] == "..":
            return None
        return _file(self.path / inside)

    def _of_coco(self, name: _Name) -> Path | None:
        """The file of COCO's own number, in a folder without COCO's folders."""
        if not name.of_coco:
            return None
        return _file(self.path / name.parts[-1]) or _file(self.path / name.of_coco[0])

    def _candidates(self, text: str) -> list[Path]:
        """The files that a name may mean; several links to one file are one."""
        if text not in self._found:
            name = _split(text)
            exact = self._own(text) or self._of_coco(name)
            found = [exact] if exact else [self.path / file for file in self._fitting(name)]
            self._found[text] = list({os.path.realpath(file): file for file in reversed(found)}.values())[::-1]
        return self._found[text]

    def _fitting(self, name: _Name) -> list[PurePosixPath]:
        """The files, relative to the folder, that fit a name best."""
        if not name.parts:
            return []
        base = name.keys[-1]
        found = _best(name, self._by_key.get(base, ()))
        if not found and _OF_LABEL_STUDIO.match(base):  # the folders before it are Label Studio's own
            found = self._by_upload.get(_as_uploaded(_OF_LABEL_STUDIO.sub("", base)), [])
        return found

    @cached_property
    def _files(self) -> list[PurePosixPath]:
        files: list[PurePosixPath] = []
        for file in _walk(self.path):
            files.append(file)
            if len(files) > MOST_FILES:
                raise ValueError(f"{self.path} holds more than {MOST_FILES:,} files, too many to search for an image")
        return files

    @cached_property
    def _by_key(self) -> dict[str, list[PurePosixPath]]:
        found = defaultdict(list)
        for file in self._files:
            found[_key(unquote(file.name))].append(file)
        return dict(found)

    @cached_property
    def _by_upload(self) -> dict[str, list[PurePosixPath]]:
        found = defaultdict(list)
        for file in self._files:
            found[_as_uploaded(_key(unquote(file.name)))].append(file)
        return dict(found)

    @cached_property
    def _claims(self) -> dict[str, list[tuple[_Name, bool]]]:
        """Which of the expected names may mean a file, by its resolved path, and whether it is theirs exactly."""
        claims: dict[str, list[tuple[_Name, bool]]] = defaultdict(list)
        for text in sorted(self.names):
            found = self._candidates(text)
            if len(found) == 1:
                claims[os.path.realpath(found[0])].append((_split(text), self._own(text) is not None))
        return dict(claims)

    def _missing(self, text: str, name: _Name) -> str:
        if text.partition("\0")[1] or not name.parts:
            return f"the image name {text[:200]!r} is none"
        if os.path.isabs(text) or ".." in PurePosixPath(text.replace("\\", "/")).parts:
            why = f"the image name {text[:200]!r} leads out of {self.path}"
        else:
            why = f"the image {str(self.path / text)[:400]} is missing"
        elsewhere = self._by_key.get(name.keys[-1], [])
        if not elsewhere:
            return why
        there = self.path / elsewhere[0].parent
        return f"{why}; a file of that name is in {there}: if it is meant, say --images {there}"

    def _borne(self, name: _Name, file: PurePosixPath) -> tuple[str, ...]:
        """In which ways a file's path differs from the annotated name; what is not there differs from row to row."""
        ways = []
        if "\\" in name.text:
            ways.append("Windows' separators")
        if unquote(name.text) != name.text or unquote(str(file)) != str(file):
            ways.append("percent-encoding")
        theirs, ours = name.parts[::-1], tuple(unquote(p) for p in file.parts[::-1])
        pairs = list(zip(theirs, ours, strict=False))
        if _key(theirs[0]) != _key(ours[0]):
            ways.append("Label Studio's prefix")
            pairs = []  # the folders are Label Studio's
        if any(_form(a) != _form(b) for a, b in pairs):
            ways.append("upper and lower case")
        if any(a != b and _form(a) == _form(b) for a, b in pairs):
            ways.append("Unicode's form")
        hint = ""
        if len(theirs) != len(ours):
            ways.append("leading folders")
            hint = self._hint(name, file)
        return (f"its image is found by the end of its name, which differs from the file's in {_listed(ways)}{hint}",)

    def _hint(self, name: _Name, file: PurePosixPath) -> str:
        """Which folder to give, so that the whole name is the file's."""
        more, above = len(name.parts) - len(file.parts), self.path.absolute().parents
        if more > len(above):
            return ""
        there = self.path.joinpath(*file.parts[:-more]) if more < 0 else above[more - 1]
        return f"; --images {there} has it by its whole name" if os.path.exists(there.joinpath(*name.parts)) else ""


def find_image(folder: Path | ImageFolder, name: str, annotated: tuple[Any, Any] | None = None) -> Picture:
    """`ImageFolder.find`, of a folder that is searched for this one name alone where it is a path."""
    return (folder if isinstance(folder, ImageFolder) else ImageFolder(folder)).find(name, annotated)


def image_folder(folder: Path | ImageFolder, names: Iterable[str]) -> ImageFolder:
    """A folder that knows which names it will be asked for, so that no two of them become one file."""
    return (folder if isinstance(folder, ImageFolder) else ImageFolder(folder)).expecting(names)


def _walk(folder: Path) -> Iterator[PurePosixPath]:
    """All files under a folder, relative to it, in order. Linked folders are entered once each."""
    seen = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        inside = PurePosixPath(os.path.relpath(where, folder))
        yield from (inside / file for file in sorted(files))


def _split(text: str) -> _Name:
    """A name's parts; those that lead upwards, drives and the root are not among them."""
    plain = _LOCAL_FILES.sub("", text)
    plain = unquote(plain).replace("\\", "/")
    parts: list[str] = []
    for part in re.sub(r"^[A-Za-z]:", "", plain).split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return _Name(text, tuple(parts))


def _best(name: _Name, files: Iterable[PurePosixPath]) -> list[PurePosixPath]:
    """Those whose path ends like the name or the other way round: in most parts, and of these the most literally."""
    fits = []
    for file in files:
        ours = tuple(_key(unquote(part)) for part in file.parts)
        shared = min(len(ours), len(name.keys))
        if ours[-shared:] == name.keys[-shared:]:
            literal = sum(a == b for a, b in zip(name.parts[::-1], file.parts[::-1], strict=False))
            fits.append(((shared, literal), file))
    most = max((score for score, _ in fits), default=None)
    return [file for score, file in fits if score == most]


def _ends_alike(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Whether one is the end of the other's path."""
    shared = min(len(a), len(b))
    return a[-shared:] == b[-shared:]


def _file(path: Path) -> Path | None:
    try:
        return None if stat.S_ISDIR(os.stat(path).st_mode) else path
    except (OSError, ValueError):
        return None


def _key(part: str) -> str:
    return _form(part).casefold()


def _form(part: str) -> str:
    return part if part.isascii() else unicodedata.normalize("NFC", part)


def _as_uploaded(key: str) -> str:
    """As Label Studio (Django's get_valid_filename) writes the name of an uploaded file."""
    return re.sub(r"[^-\w.]", "", key.strip().replace(" ", "_"))


def _listed(ways: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(ways[:-1]), ways[-1]))) if ways else "spelling"
