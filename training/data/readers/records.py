"""Fields of JSON records as exporters write them: ids, sizes and flags as numbers or as text, and ids given twice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]
Key = int | str  # an id
NUMBER_OR_TEXT = "an id is a number in one place and text in another"
SIZE_AS_TEXT = "the size of its image is written as text or with a decimal point"
_FLAGS = {None: False, "": False, "0": False, "1": True, "false": False, "true": True}


def key_of(value: Any) -> Key | None:
    """An id: a whole number or a text, or None where it is neither."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) and value != "" else None


def shown(value: Any) -> str:
    """A value in a sentence, bounded."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def side_of(value: Any) -> int | None:
    """A width or height in pixels; None where it is missing or, as exporters that do not know it write, below 1.

    Raises ValueError for what is no whole number.
    """
    number = value
    if isinstance(value, str) and len(value) < 20:
        with contextlib.suppress(ValueError):
            number = float(value) if value.strip() else None
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or number != number or number % 1:
        raise ValueError(f"{shown(value)}, no whole number")
    return int(number) if number >= 1 else None


def flag_of(value: Any) -> bool:
    """0 or 1, as a number, a truth value or text. Raises ValueError for anything else."""
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    text = value.strip().lower() if isinstance(value, str) else value
    if isinstance(text, Hashable) and not isinstance(text, (int, float)) and text in _FLAGS:
        return _FLAGS[text]
    raise ValueError(f"{shown(value)}, neither 0 nor 1")


@dataclass(frozen=True)
class Table:
    """Records by id. spoiled: those of an id that several different records have, or a bad one; none of them counts.

    bad: what is wrong with the records of an id. again: how many records only repeat one that is there.
    """

    known: dict[Key, Record] = field(default_factory=dict)
    spoiled: dict[Key, list[Record]] = field(default_factory=dict)
    bad: list[tuple[Key, str]] = field(default_factory=list)
    again: int = 0

    def find(self, value: Any) -> Key | None:
        """The id under which a record is known that `value` means: "7" is 7 where there is no other of the two."""
        return self._among(self.known, value)

    def find_spoiled(self, value: Any) -> list[Record]:
        """The records that `value` may mean, none of which counts."""
        key = self._among(self.spoiled, value)
        return [] if key is None else self.spoiled[key]

    def _among(self, records: dict[Key, Any], value: Any) -> Key | None:
        key = key_of(value)
        if key is None or key in records:
            return key
        other = _other_form(key)
        # "7" is 7 only where it is not an id of its own, good or spoiled.
        return other if other in records and key not in self.known and key not in self.spoiled else None


def read_table(records: list[tuple[Key, Record, str]], meaning: Callable[[Record], Any], kind: str) -> Table:
    """records: (id, record, what is wrong with it or ""). meaning: what two records of one id must share to be the same
    thing said twice."""
    by_id: dict[Key, list[tuple[Record, str]]] = {}
    for key, record, wrong in records:
        by_id.setdefault(key, []).append((record, wrong))
    known: dict[Key, Record] = {}
    spoiled: dict[Key, list[Record]] = {}
    bad: list[tuple[Key, str]] = []
    again = 0
    for key, given in by_id.items():
        first = given[0][0]
        if not any(wrong for _, wrong in given) and all(meaning(r) == meaning(first) for r, _ in given[1:]):
            known[key] = first
            again += len(given) - 1
            continue
        spoiled[key] = [record for record, _ in given]
        several = f"its id is given to {len(given)} different {kind}; what points to it is refused"
        bad += [(key, wrong or several) for _, wrong in given]
    return Table(known, spoiled, bad, again)


def _other_form(key: Key) -> Key | None:
    if isinstance(key, int):
        return str(key) if abs(key) < 10**18 else None
    digits = key.strip()
    if len(digits) > 18 or not digits.removeprefix("-").isascii() or not digits.removeprefix("-").isdigit():
        return None
    return int(digits) if str(int(digits)) == digits else None
