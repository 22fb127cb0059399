"""Profiles: those that the package brings, and those of users, a YAML file each. The files are hostile.

A user adds one by writing such a file and giving its path where a profile's name is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path, PurePosixPath
from typing import Literal, get_args, get_origin, get_type_hints

from segzero_ros.core.flat_yaml import read_flat_yaml, shown
from segzero_ros.core.profile import Profile
from segzero_ros.core.prompt import TEMPLATES
from segzero_ros.core.text import one_line

__all__ = ["Profile", "ProfileError", "list_profiles", "load_profile"]

FOLDER = Path(__file__).parents[1] / "profiles"
SQUARES = range(28, 4097)  # pixels; above, an image alone takes more tokens than any of the models reads
TOKENS = range(1, 131_073)
_WORDS = {"prompt", "system", "description", "licence"}  # may be of several lines


class ProfileError(ValueError):
    """A profile that is not there or not right; the message is one sentence of at most 300 characters."""


def list_profiles() -> list[Profile]:
    return [_read(path) for path in sorted(FOLDER.glob("*.yaml"))]


def load_profile(name: str) -> Profile:
    """A profile by its name, or by the path of a YAML file. Raises ProfileError."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not _exists(path):
            raise ProfileError(f"there is no profile file {one_line(name, 200)}")
        return _read(path)
    known = {p.stem: p for p in sorted(FOLDER.glob("*.yaml"))}
    if name not in known:
        listed = ", ".join(known)
        raise ProfileError(f"there is no profile {shown(name)}; known: {listed}, or the path of a YAML file")
    return _read(known[name])


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def _read(path: Path) -> Profile:
    try:
        data = read_flat_yaml(path)
        data.setdefault("name", path.stem)
        _check_keys(data)
        hints = get_type_hints(Profile)
        for key, value in data.items():
            _check_value(key, value, hints[key])
        profile = Profile(**data)  # type: ignore[arg-type]
        for fault in (words for holds, words in _RULES if not holds(profile)):
            raise ValueError(fault)
    except ValueError as error:
        raise ProfileError(one_line(f"{one_line(path.name, 60)}: {error}")) from error
    return profile


def _check_keys(data: dict[str, object]) -> None:
    known = {f.name: f.default is MISSING for f in fields(Profile)}
    if unknown := sorted(data.keys() - known):
        raise ValueError(f"unknown {one_line(', '.join(unknown), 100)}; docs/profiles.md has the settings")
    if missing := [key for key, needed in known.items() if needed and key not in data]:
        raise ValueError(f"missing {', '.join(missing)}")


def _check_value(key: str, value: object, kind: object) -> None:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{key} is {shown(value)}; it is one of {', '.join(get_args(kind))}")
        return
    allowed = get_args(kind) or (kind,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):  # type: ignore[arg-type]
        words = {type(None): "null", bool: "true or false"}
        names = " or ".join(words.get(a) or a.__name__ for a in allowed)
        raise ValueError(f"{key} is {shown(value)}; it must be {names}")
    if isinstance(value, str):
        text = value.replace("\n", " ").replace("\t", " ") if key in _WORDS else value
        if any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in text):
            raise ValueError(f"{key} holds a control character")


def _inside(folder: str | None) -> bool:
    """Whether a subfolder, if any, stays in its repository."""
    path = PurePosixPath(folder or "a")
    return not path.is_absolute() and ".." not in path.parts and "\\" not in path.name and folder != ""


# What must hold between and beside the types, and the sentence where it does not.
_RULES: tuple[tuple[Callable[[Profile], bool], str], ...] = (
    (lambda p: p.square in SQUARES, f"square must be from {SQUARES.start} to {SQUARES.stop - 1} pixels"),
    (lambda p: p.max_new_tokens in TOKENS, f"max_new_tokens must be from {TOKENS.start} to {TOKENS.stop - 1}"),
    (
        lambda p: p.prompt in TEMPLATES or "{question}" in p.prompt,
        "prompt is neither the name of a template nor a text with {question}, where the instruction goes",
    ),
    (lambda p: bool(p.name and p.reasoner and p.segmenter), "name, reasoner and segmenter cannot be empty"),
    (lambda p: p.adapter != "", "adapter cannot be empty; null is none"),
    (lambda p: p.tokenizer != "", "tokenizer cannot be empty; null is none"),
    (
        lambda p: p.adapter is not None or (p.adapter_subfolder is None and p.adapter_revision is None),
        "adapter_subfolder and adapter_revision are of an adapter, and there is none",
    ),
    (
        lambda p: _inside(p.subfolder) and _inside(p.adapter_subfolder),
        "subfolder and adapter_subfolder are relative and stay inside their repository",
    ),
    (
        lambda p: p.rounding != "round" or p.coordinates not in ("percent", "unit"),
        "rounding round drops decimals first, which percent and unit need",
    ),
    (
        lambda p: not p.constrain or p.reader == "json",
        "constrain needs reader json: there is no grammar of the other forms",
    ),
    (
        lambda p: p.reader != "molmo" or (p.order == "xy" and p.coordinates in ("percent", "thousandths")),
        "reader molmo is of order xy, with coordinates percent (Molmo 1) or thousandths (Molmo 2)",
    ),
)
