"""What a family of checkpoints expects: declared in YAML, never guessed from an answer's values.

A user adds one by writing such a file and giving its path where a profile's name is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import yaml

FOLDER = Path(__file__).parents[1] / "profiles"


class ProfileError(ValueError):
    """A profile that is not there or not right; the message says what to do."""


@dataclass(frozen=True)
class Profile:
    """One family of checkpoints.

    prompt: a template's name in `prompt.py`, or the words themselves with `{question}` for the instruction.
    system: the system turn before the prompt; None = none at all.
    square: side of the image that the reasoning model sees, pixels; the aspect ratio is not kept.
    coordinates: "pixels" of the square, or "thousandths" of its sides.
    schema: "single" {bbox, points_1, points_2} or "list" [{bbox_2d, point_2d, label}].
    rounding: how coordinates become source pixels: "round" round(int(v) * f), "half-up" int(v * f + 0.5).
    sam_prompts: what SAM is given: "box", "points" or "both".
    dtype: number format where none is asked for; "auto": by what the device computes with.
    reasoner, segmenter: "embedded", a folder, or a hub name; with the revision to take.
    """

    name: str
    description: str
    prompt: str
    reasoner: str
    segmenter: str
    square: int = 840
    system: str | None = "You are a helpful assistant."
    coordinates: Literal["pixels", "thousandths"] = "pixels"
    schema: Literal["single", "list"] = "list"
    rounding: Literal["round", "half-up"] = "half-up"
    sam_prompts: Literal["box", "points", "both"] = "both"
    max_new_tokens: int = 1024
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    model_class: Literal["qwen2_5_vl", "qwen3_vl"] = "qwen2_5_vl"
    reasoner_revision: str | None = None
    segmenter_revision: str | None = None
    subfolder: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None
    adapter_subfolder: str | None = None
    licence: str = ""

    @property
    def extent(self) -> int:
        """The largest coordinate that an answer may hold."""
        return self.square if self.coordinates == "pixels" else 1000


def list_profiles() -> list[Profile]:
    return [_read(path) for path in sorted(FOLDER.glob("*.yaml"))]


def load_profile(name: str) -> Profile:
    """A profile by its name, or by the path of a YAML file. Raises ProfileError."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ProfileError(f"there is no profile file {name}")
        return _read(path)
    path = FOLDER / f"{name}.yaml"
    known = sorted(p.stem for p in FOLDER.glob("*.yaml"))
    if name not in known:
        raise ProfileError(f"there is no profile {name!r}; known: {', '.join(known)}, or the path of a YAML file")
    return _read(path)


def _read(path: Path) -> Profile:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path.name} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ProfileError(f"{path.name}: expected a mapping of settings")
    known = {f.name for f in fields(Profile)}
    if unknown := sorted(str(k) for k in data if k not in known):
        raise ProfileError(f"{path.name}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    data.setdefault("name", path.stem)
    hints = get_type_hints(Profile)
    for key, value in data.items():
        _check(path.name, key, value, hints[key])
    try:
        profile = Profile(**data)
    except TypeError as error:
        raise ProfileError(f"{path.name}: {str(error).removeprefix('Profile.__init__() ')}") from error
    if profile.square < 28 or profile.max_new_tokens < 1:
        raise ProfileError(f"{path.name}: square must be at least 28 pixels and max_new_tokens at least 1")
    return profile


def _check(file: str, key: str, value: object, kind: object) -> None:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ProfileError(f"{file}: {key} is {value!r}; it is one of {', '.join(get_args(kind))}")
        return
    allowed = get_args(kind) or (kind,)
    if not isinstance(value, allowed) or isinstance(value, bool):  # type: ignore[arg-type]
        names = " or ".join("null" if a is type(None) else a.__name__ for a in allowed)
        raise ProfileError(f"{file}: {key} is {value!r}; it must be {names}")
