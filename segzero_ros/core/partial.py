"""The objects of an answer that is still being written, each as soon as it is complete.

What is told early is not taken back later: each form is read by the rules of `answer.py` and `readers.py`, and where
the end of a text could change what they find (a brace in a label, an array in two blocks), the rest waits for the whole
answer. No text raises; each character is looked at a few times, however the text is cut into pieces.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

from segzero_ros.core.answer import MAX_CHARS, MAX_OBJECTS, read_candidate
from segzero_ros.core.contract import Candidate
from segzero_ros.core.profile import Profile
from segzero_ros.core.prompt import TEMPLATES
from segzero_ros.core.readers import MOLMO_TAG, load_object, molmo_objects, rex_omni_label, rex_omni_object

_SECTIONS = ("<think>", "</think>", "<answer>", "</answer>")
_GLM_BLOCK = ("<|begin_of_box|>", "<|end_of_box|>")
_REX_OMNI_BLOCK = ("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>")
_TAGS = (*_SECTIONS, *_GLM_BLOCK, *_REX_OMNI_BLOCK)
_LONGEST = max(map(len, _TAGS))
_CUT_TAGS = {tag[:n] for tag in _TAGS for n in range(1, len(tag))}


def _marks(*words: str, others: str = "") -> re.Pattern[str]:
    return re.compile("|".join([*map(re.escape, words), *([others] if others else [])]))


class PartialAnswer:
    """One answer while it grows. Where it begins is decided as in `answer.py`."""

    _MARKS = _marks(*_SECTIONS)

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._thinking = profile.thinking == "opened"  # the prompt opened a thought that has not ended
        self._expects_tags = "<answer>" in TEMPLATES.get(profile.prompt, profile.prompt)
        self._tagged = False  # an <answer> was opened
        self._drafting = False  # a thought that the model began has not ended
        self._open = not self._thinking and not self._expects_tags  # what comes is the answer
        self._turned = False  # a section has begun or ended
        self._done = 0  # characters that were read
        self._candidates: list[Candidate] = []
        self._begin()

    def read(self, text: str) -> tuple[Candidate, ...] | None:
        """All candidates so far, in the profile's coordinates; None if there is no more than at the call before.

        text: all that was written so far: that of the call before, and more.
        """
        end = _settled(text) if len(text) <= MAX_CHARS else MAX_CHARS
        grown = False
        for mark in self._MARKS.finditer(text, self._done, end):
            grown |= self._scan(text, mark.start(), closes=True)
            self._turn(mark.group(), first=not self._turned and not text[: mark.start()].strip())
            self._turned = True
            self._done = mark.end()
        grown |= self._scan(text, end)
        self._done = max(self._done, end)
        return tuple(self._candidates) if grown else None

    def _begin(self) -> None:
        """An answer begins. The candidates of one before it stay until it has its own."""
        self._form = _FORMS[self._profile.reader](self._profile)
        self._taken = 0  # of the form's objects
        self._fresh = True  # no candidate is of this answer yet

    def _turn(self, tag: str, first: bool) -> None:
        """A tag begins or ends a section. first: there are no words before it."""
        if tag == "<think>":
            self._drafting = not self._tagged
        if tag == "</think>":
            self._drafting = False
        if tag == "<answer>" and self._drafting:  # whether it is the answer shows where the thought ends
            self._open = False
        elif tag == "<answer>":
            self._tagged = self._open = True
            self._begin()
        elif tag == "</think>" and (self._thinking or not self._tagged):
            self._thinking = self._tagged = False
            self._open = not self._expects_tags
            self._begin()
        else:
            self._open = False
            self._thinking &= not (tag == "<think>" and first)

    def _scan(self, text: str, end: int, *, closes: bool = False) -> bool:
        """Whether there is one more candidate before the end. closes: a section ends there."""
        if not self._open or self._done > end:
            return False
        self._form.scan(text, self._done, end)
        if closes:
            self._form.close(text, end)
        more = self._form.objects[self._taken : MAX_OBJECTS]
        self._taken += len(more)
        found = [c for item in more if (c := read_candidate(item, self._profile)[0]) is not None]
        if not found:
            return False
        self._candidates = found if self._fresh else self._candidates + found
        self._fresh = False
        return True


def _settled(text: str) -> int:
    """Up to where the text holds no tag that its end may have cut off."""
    at = text.rfind("<", max(0, len(text) - _LONGEST + 1))
    return at if at >= 0 and text[at:] in _CUT_TAGS else len(text)


class _Form(Protocol):
    objects: list[dict[str, Any]]  # complete, in the order of the text

    def scan(self, text: str, begin: int, end: int) -> None:
        """Reads on. The text before `begin` was read by the calls before; there is no cut tag at the end."""
        ...

    def close(self, text: str, end: int) -> None:
        """The answer ends there, after `scan`."""
        ...


class _Json:
    """Objects between innermost braces. A brace in quotes, or an odd quote, ends what can be told early."""

    _MARKS = re.compile(r'[{}"\\\n]')

    def __init__(self, _: Profile) -> None:
        self.objects: list[dict[str, Any]] = []
        self._begin = -1  # of the innermost open brace
        self._quoted = self._unsure = False
        self._escaped = -1  # where a character has a backslash before it

    @property
    def pending(self) -> bool:
        """Whether something has begun and not ended."""
        return self._begin >= 0 or self._quoted

    def scan(self, text: str, begin: int, end: int) -> None:
        for mark in self._MARKS.finditer(text, begin, end):
            if self._unsure:
                return
            self._read(text, mark.group(), mark.start())

    def close(self, text: str, end: int) -> None:
        pass

    def _read(self, text: str, character: str, at: int) -> None:
        if at == self._escaped:
            self._unsure = character == "\n"
        elif character == '"':
            self._quoted = not self._quoted
        elif character == "\\":
            self._escaped = at + 1 if self._quoted else -1
        elif character == "\n":
            pass
        elif self._quoted:
            self._unsure = True
        elif character == "{":
            self._begin = at
        elif self._begin >= 0:
            item = load_object(text[self._begin : at + 1])
            self.objects += [item] if isinstance(item, dict) else []
            self._begin = -1


class _Glm:
    """Arrays, or JSON, between GLM's tags; without the tags nothing is told early."""

    _MARKS = _marks(*_GLM_BLOCK, others=r"[\[(<{\])>]")

    def __init__(self, profile: Profile) -> None:
        self.objects: list[dict[str, Any]] = []
        self._json = _Json(profile)
        self._inside = self._braces = self._unsure = False
        self._begin = -1  # of the innermost open bracket

    def scan(self, text: str, begin: int, end: int) -> None:
        for mark in self._MARKS.finditer(text, begin, end):
            if self._unsure:
                return
            if mark.group() in _GLM_BLOCK:
                if self._inside:
                    self._scan_json(text, begin, mark.start())
                    begun = self._json.pending if self._braces else self._begin >= 0
                    self._unsure = begun  # and the next block may go on with it
                self._inside = mark.group() == _GLM_BLOCK[0]
                begin = mark.end()
            elif self._inside and not self._braces:
                self._read(text, mark.group(), mark.start())
        if self._inside and not self._unsure:
            self._scan_json(text, begin, end)

    def close(self, text: str, end: int) -> None:
        pass

    def _scan_json(self, text: str, begin: int, end: int) -> None:
        self._json.scan(text, begin, end)
        if self._braces:
            self.objects = self._json.objects

    def _read(self, text: str, character: str, at: int) -> None:
        if character == "{":
            self._braces, self._unsure = True, bool(self.objects)
        elif character in "[(<":
            self._begin = at
        elif self._begin >= 0:
            inside = text[self._begin + 1 : at]
            self._begin = -1
            values = inside.split(",") if 3 <= len(inside) <= 120 else []
            if len(values) in (2, 4):
                self.objects.append({"bbox_2d" if len(values) == 4 else "point_2d": values})


class _RexOmni:
    """Each part of a block is complete at its comma, but points only at the block's end."""

    _MARKS = _marks(*_REX_OMNI_BLOCK[2:], others=",")

    def __init__(self, _: Profile) -> None:
        self.objects: list[dict[str, Any]] = []
        self._held: list[dict[str, Any]] = []  # behind a point of a block that has not ended
        self._label = ""
        self._inside = False
        self._block = self._part = -1  # where they begin

    def scan(self, text: str, begin: int, end: int) -> None:
        if self._block < 0:
            self._block = begin
        for mark in self._MARKS.finditer(text, begin, end):
            if mark.group() == "<|box_start|>":
                self._end_block(text, mark.start(), closed=False)
                self._label = rex_omni_label(text[self._block : mark.start()], self._label)
                self._inside = True
                self._block = self._part = mark.end()
            elif self._inside and mark.group() == ",":
                self._end_part(text, mark.start())
            else:
                self._end_block(text, mark.start(), closed=True)

    def close(self, text: str, end: int) -> None:
        self._end_block(text, end, closed=False)

    def _end_part(self, text: str, at: int) -> None:
        item = rex_omni_object(text[self._part : at], self._label)
        self._part = at + 1
        if item is not None:
            (self._held if self._held or "point_2d" in item else self.objects).append(item)

    def _end_block(self, text: str, at: int, closed: bool) -> None:
        if not self._inside:
            return
        self._end_part(text, at)
        self.objects += [item for item in self._held if closed or "bbox_2d" in item]
        self._held = []
        self._inside = False


class _Molmo:
    """A tag is complete where the next one begins."""

    _MARKS = _marks("<")

    def __init__(self, profile: Profile) -> None:
        self.objects: list[dict[str, Any]] = []
        self._profile = profile
        self._begin = -1  # of the last tag

    def scan(self, text: str, begin: int, end: int) -> None:
        for mark in self._MARKS.finditer(text, begin, end):
            self.close(text, mark.start())
            self._begin = mark.start()

    def close(self, text: str, end: int) -> None:
        tag = MOLMO_TAG.match(text, self._begin, end) if self._begin >= 0 else None
        self._begin = -1
        if tag is not None:
            self.objects += molmo_objects(tag, self._profile)[0]


_FORMS: dict[str, Callable[[Profile], _Form]] = {
    "json": _Json,
    "glm": _Glm,
    "rex-omni": _RexOmni,
    "molmo": _Molmo,
}
