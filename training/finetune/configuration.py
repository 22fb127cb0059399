"""A run's configuration: one YAML file, checked before anything is loaded.

What belongs to TRL stands in the sections `trl` (both methods), `grpo` and `sft` under TRL's own names and reaches
GRPOConfig or SFTConfig as it is; all else is a field here. `base:` names a file to start from, mappings being merged
key by key, so that a supervised twin differs from its recipe in a few lines.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from training.finetune.checks import check
from training.finetune.settings import (
    ARCHITECTURES,
    Batch,
    Configuration,
    ConfigurationError,
    Data,
    Hardware,
    Lora,
    Model,
    Reward,
    Watch,
    architecture_file,
    main_process,
    processes,
)

__all__ = [  # with the sections, so that whoever reads a configuration finds all of it here
    "ARCHITECTURES",
    "FOLDER",
    "Batch",
    "Configuration",
    "ConfigurationError",
    "Data",
    "Hardware",
    "Lora",
    "Model",
    "Reward",
    "Watch",
    "architecture_file",
    "build",
    "differences",
    "every",
    "find",
    "load",
    "main_process",
    "merged",
    "of_run",
    "plain",
    "processes",
    "read",
]

FOLDER = Path(__file__).parents[1] / "configs"
ANSWER_TOKENS = "grpo.max_completion_length"  # of both methods: validation answers too


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: PyYAML reads 1e-6 as a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf)$|^\.(nan|NaN)$"),
    list("-+0123456789."),
)
# First come, first served: whole numbers stay whole.
for _first in _Loader.yaml_implicit_resolvers:
    _Loader.yaml_implicit_resolvers[_first] = sorted(
        _Loader.yaml_implicit_resolvers[_first], key=lambda pair: pair[0] != "tag:yaml.org,2002:int"
    )


def find(name: str) -> Path:
    """A file by its path, or by its name below training/configs. Raises ConfigurationError."""
    for path in (Path(name), FOLDER / f"{name}.yaml", FOLDER / "ablations" / f"{name}.yaml"):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path
    raise ConfigurationError(f"there is no configuration {name!r}; known: {', '.join(p.stem for p in every())}")


def every() -> list[Path]:
    """The configurations that come with the package, ablations last."""
    return [*sorted(FOLDER.glob("*.yaml")), *sorted((FOLDER / "ablations").glob("*.yaml"))]


def read(path: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """The file's mapping, over that of its base. Raises ConfigurationError."""
    path = path.resolve()
    if path in above:
        raise ConfigurationError(f"{path.name}: base leads back to itself")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(f"{above[-1].name if above else path.name}: there is no {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path.name} is not readable: {error}") from error
    try:
        data = yaml.load(text, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise ConfigurationError(f"{path.name} is not readable YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigurationError(f"{path.name}: expected a mapping of settings")
    base = data.pop("base", None)
    if base is None:
        return data
    return merged(read(path.parent / str(base), (*above, path)), data)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings key by key, all else replaced."""
    found = copy.deepcopy(below)
    for key, value in above.items():
        mine = found.get(key)
        found[key] = merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return found


def load(name: str, settings: Sequence[str] = ()) -> Configuration:
    """A configuration by path or name, with settings as "model.path=folder". Raises ConfigurationError."""
    path = find(name)
    data = {"name": path.stem, **read(path)}
    said: list[str] = []
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key.strip():
            raise ConfigurationError(f"--set {setting}: expected key=value")
        place = data
        *sections, last = key.strip().split(".")
        for section in sections:
            if place.get(section) is None:
                place[section] = {}
            place = place[section]
            if not isinstance(place, dict):
                raise ConfigurationError(f"--set {setting}: {section} is no section")
        try:
            place[last] = yaml.load(value, _Loader) if value.strip() else ""  # a SafeLoader
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"--set {setting[:200]}: {value[:200]} is not readable YAML: {error}") from error
        found = place[last]
        said += [f"{last}.{inner}" for inner in found] if not sections and isinstance(found, dict) else [key.strip()]
    return _heard(build(data), said)


def _heard(c: Configuration, said: Sequence[str]) -> Configuration:
    """The configuration. said: keys of --set. Raises ConfigurationError for those of the other method's section; a file
    may have them, since a twin has them of its base."""
    other = "sft" if c.method == "grpo" else "grpo"
    idle = [key for key in said if key.startswith(f"{other}.") and key != ANSWER_TOKENS]
    if idle:
        raise ConfigurationError(
            f"{c.name}: --set {', '.join(idle)}: nothing comes of it, since method is {c.method}; of TRL's it reads "
            f"the sections trl and {c.method}"
        )
    return c


def of_run(run: Path) -> dict[str, Any]:
    """What a run wrote down of its configuration, configuration.yaml. Raises ConfigurationError."""
    file = run / "configuration.yaml"
    if not file.is_file():
        raise ConfigurationError(f"{run} holds no run: {file.name} is missing")
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{file} is not readable YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigurationError(f"{file}: expected a mapping of settings")
    return data


def build(data: dict[str, Any]) -> Configuration:
    """A checked configuration from a mapping. Raises ConfigurationError that names every wrong key."""
    name = str(data.get("name", "configuration"))[:100]
    c = _typed(data, name)
    if "out" in data and not c.out.strip():
        raise ConfigurationError(f"{name!r}: out is empty; expected a folder, or no `out`, which is runs/ and the name")
    check(c)
    # The libraries would take ~ for a home, and everything of ours for a folder of that name.
    return replace(c, out=os.path.expanduser(c.out) if c.out else f"runs/{c.name}")


def _typed(data: dict[str, Any], name: str) -> Configuration:
    try:
        return TypeAdapter(Configuration).validate_python(data)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigurationError(f"{name}: " + "; ".join(lines)) from None


def trained(data: dict[str, Any], name: str) -> tuple[Configuration, list[str]]:
    """What a run was trained by, which a newer rule may refuse to train by: every key has its type and no more is
    asked. And the keys, dotted, that are no settings any longer, left out. Raises ConfigurationError."""
    data = copy.deepcopy(data)
    gone: list[str] = []
    try:
        return TypeAdapter(Configuration).validate_python(data), gone
    except ValidationError as error:
        for wrong in error.errors():
            if wrong["type"] == "unexpected_keyword_argument":
                *sections, last = wrong["loc"]
                place: Any = data
                for section in sections:
                    place = place[section]
                del place[last]
                gone.append(".".join(map(str, wrong["loc"])))
    return _typed(data, name), gone


def plain(c: Configuration) -> dict[str, Any]:
    """As it goes into files: lists, mappings, numbers, texts."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(c)))
    return found


def differences(old: dict[str, Any], new: dict[str, Any], at: str = "") -> list[str]:
    """Keys, dotted, whose values differ."""
    found = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{at}{key}.")
        elif a != b:
            found.append(at + key)
    return found
