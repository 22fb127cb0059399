"""A YAML file of plain settings, one value for each key. The file is hostile: every fault is one short sentence."""

from __future__ import annotations

from pathlib import Path

import yaml

from segzero_ros.core.text import one_line

MAX_BYTES = 64 * 1024


def read_flat_yaml(path: Path) -> dict[str, object]:
    """The settings of a file. Raises ValueError with a sentence for whatever is none."""
    try:
        if not path.is_file():
            raise ValueError("is not a file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"could not be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES // 1024} KB")
    try:
        text = data.decode("utf-8")
        _check_events(text)
        settings = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text: byte {error.start}") from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"is not valid YAML: {line}{one_line(error.problem, 160)}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"is not valid YAML: {one_line(error, 160)}") from error
    except _NotFlat:
        raise
    except (ValueError, OverflowError) as error:  # a date or a number that YAML takes for one and Python does not
        raise ValueError(f"holds a value that is none: {one_line(error, 160)}") from error
    if not isinstance(settings, dict):
        raise ValueError("expected a mapping of settings")
    if wrong := [k for k in settings if not isinstance(k, str)]:
        raise ValueError(f"the key {shown(wrong[0])} is not a word")
    return settings


class _NotFlat(ValueError):
    """More than YAML's `key: value` lines."""


def _check_events(text: str) -> None:
    """Before anything is built: no alias can multiply, nothing can nest, no tag names a type, no key comes twice."""
    depth, documents, scalars = 0, 0, 0
    mapping = False
    keys: set[str] = set()
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1  # type: ignore[union-attr]
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _NotFlat(f"line {line}: a second document begins; one is taken")
        elif isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _NotFlat(f"line {line}: anchors and aliases are not taken")
        elif getattr(event, "tag", None):
            raise _NotFlat(f"line {line}: tags are not taken")
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            mapping = isinstance(event, yaml.MappingStartEvent)
            if depth > 1:
                raise _NotFlat(f"line {line}: lists and mappings are not taken as keys or values")
        elif isinstance(event, yaml.ScalarEvent) and mapping:
            scalars += 1
            if scalars % 2 and event.value in keys:
                raise _NotFlat(f"line {line}: {one_line(event.value, 60)} is there twice")
            if scalars % 2:
                keys.add(event.value)


def shown(value: object) -> str:
    """A value in an error's sentence."""
    try:
        return one_line(repr(value), 60)
    except ValueError:  # Python prints no integer of thousands of digits
        return "a number of thousands of digits"
