"""What a server streams: bytes to events, an event to its pieces, pieces to the text that the model wrote.

All of it is hostile: bounded in size, refused with a sentence, never guessed.
"""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Any

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.text import one_line

MAX_LINE = 1 << 20  # bytes of one event; a token takes some hundred
DONE = b"[DONE]"
OPEN, CLOSE, ANSWER = "<think>", "</think>", "<answer>"


class EventLines:
    """Server-sent events, of which a chat uses `data:` lines alone, and older builds of llama.cpp an `error:` line;
    the bytes may be cut anywhere."""

    def __init__(self, limit: int) -> None:
        """limit: bytes of the whole stream."""
        self.ended = False  # [DONE] came: nothing behind it is read
        self._limit = limit
        self._rest = bytearray()
        self._is_begun = False

    def add(self, data: bytes) -> list[str]:
        """The data of each line that is complete, up to [DONE]. Raises SegzeroError(BACKEND_ERROR)."""
        self._limit -= len(data)
        if self._limit < 0:
            raise broken("the server's stream does not end")
        self._rest += data
        lines: list[bytearray] = []
        if b"\n" in data:  # else a line that comes byte by byte would be read anew with each
            *lines, self._rest = self._rest.replace(b"\r\n", b"\n").split(b"\n")
        if lines and not self._is_begun:
            lines[0], self._is_begun = lines[0].removeprefix(codecs.BOM_UTF8), True
        if len(self._rest) > MAX_LINE:
            raise broken(f"the server sends a line of more than {MAX_LINE >> 20} MB")
        found = [bytes(line.partition(b":")[2].strip()) for line in lines if line.startswith((b"data:", b"error:"))]
        if DONE in found:
            self.ended, found = True, found[: found.index(DONE)]
        try:
            return [line.decode("utf-8") for line in found if line]
        except UnicodeDecodeError:
            raise broken("the server's events are not UTF-8") from None


@dataclass(frozen=True)
class Piece:
    """What one event brings."""

    content: str = ""
    thought: str = ""
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def read_event(data: str) -> Piece:
    """One `chat.completion.chunk`. Raises SegzeroError(BACKEND_ERROR) for what is none, and for the server's errors."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        raise broken(f"the server's events are not JSON: {one_line(data, 80)}") from None
    if not isinstance(event, dict):
        raise broken(f"the server's events are no JSON objects: {one_line(data, 80)}")
    is_error = event.get("error") or event.get("object") == "error"
    if is_error or ("choices" not in event and server_sentence(event)):  # `event: error` may have its sentence alone
        raise broken(f"the server broke its answer off: {server_sentence(event) or 'it does not say why'}")
    usage = _part(event, "usage")
    choices = event.get("choices")
    listed: list[Any] = choices if isinstance(choices, list) else []
    # Others than the first are other answers.
    first = next((c for c in listed if isinstance(c, dict) and c.get("index") in (None, 0)), {})
    delta = _part(first, "delta")
    if not delta and (first.get("message") or first.get("text")):
        raise broken("the server's events hold no `delta`, so that it does not stream a chat; is the URL right?")
    if delta.get("tool_calls") or delta.get("function_call"):
        raise broken("the server gave no answer: it wanted to call a tool; start it without a tool parser")
    if refusal := _text(delta, "refusal"):
        raise broken(f"the model refuses to answer: {one_line(refusal, 100)}")
    content, thought = _read_content(delta.get("content"))
    return Piece(
        content,
        thought or _text(delta, "reasoning") or _text(delta, "reasoning_content"),  # some send both, with one text
        _text(first, "finish_reason"),
        _count(usage, "prompt_tokens"),
        _count(usage, "completion_tokens"),
    )


def _read_content(content: Any) -> tuple[str, str]:
    """Its text and its thought: a string, or a list of parts. Raises SegzeroError for a part that is neither."""
    if not isinstance(content, list):
        return (content if isinstance(content, str) else ""), ""
    text = thought = ""
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "output_text"):
            text += _text(part, "text")
        elif kind == "thinking":
            inner = part.get("thinking")
            thought += inner if isinstance(inner, str) else _read_content(inner)[0]
        else:
            raise broken(f"the server's answer holds a part that is no text: {one_line(kind, 40)}")
    return text, thought


def server_sentence(body: Any) -> str:
    """What a server's error says of itself, in one line; "" where it says nothing."""
    for _ in range(4):
        if isinstance(body, list) and body:
            body = body[0]
        if not isinstance(body, dict):
            break
        body = next((body[key] for key in ("error", "message", "detail", "msg") if body.get(key)), "")
    return one_line(body, 200) if isinstance(body, str) else ""


def read_error(body: bytes) -> str:
    """The sentence of an error that comes with HTTP 200; "" for what is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    is_error = isinstance(found, dict) and (found.get("error") or found.get("object") == "error")
    return server_sentence(found) if is_error else ""


def _part(event: dict[str, Any], key: str) -> dict[str, Any]:
    value = event.get(key)
    return value if isinstance(value, dict) else {}


def _text(event: dict[str, Any], key: str) -> str:
    value = event.get(key)
    return value if isinstance(value, str) else ""


def _count(event: dict[str, Any], key: str) -> int:
    value = event.get(key)
    return value if type(value) is int and 0 < value < 1 << 31 else 0


class AnswerText:
    """The text that the model wrote, from the fields that a server parts it into.

    A thought that comes in a field of its own stands between tags again, once, also where the content repeats it; what
    comes in the content alone is the model's own text. opened: the prompt opened the thought, so that the model's text
    has no tag before it.
    """

    def __init__(self, *, opened: bool = False) -> None:
        self.text = ""
        self._opened = opened
        # nothing, thought (of a field), repeated (a thought in the content again), content, continued (any field)
        self._state = "nothing"
        self._held = ""  # content that waits for what follows
        self._tag = ""  # the beginning of a thought that may be its own tag
        self._content_halves, self._thought_halves = _Halves(), _Halves()

    def add(self, piece: Piece) -> str:
        """What the piece adds to the text."""
        before = len(self.text)
        if self._state == "continued":
            self.text += self._content_halves.join(piece.thought + piece.content)
            return self.text[before:]
        self._add_thought(self._thought_halves.join(piece.thought))
        self._add_content(self._content_halves.join(piece.content))
        return self.text[before:]

    def end(self, *, finished: bool) -> str:
        """What the end adds. finished: the model ended its text itself."""
        before = len(self.text)
        self._begin_thought(self._tag)
        if self._state == "repeated":  # it did not end: an answer in it could be a part of the thought
            self._state, self._held = "thought", ""
        if self._state == "thought":
            if finished and not self.text.rstrip().endswith(CLOSE):
                self.text += CLOSE
            if finished or self._held.strip():
                self.text += self._held
        elif self._state == "nothing":
            self.text += self._held
        return self.text[before:]

    @property
    def waits(self) -> bool:
        """Whether some of what came is not in the text yet, since what follows says what it is. A thought that is
        repeated is left out whatever follows."""
        return bool(self._tag or (self._held and self._state != "repeated"))

    def go_on(self, text: str) -> None:
        """Adds this; what comes now is the rest of the text, in whichever field. Nothing waits."""
        self.text += text
        self._state, self._held, self._tag = "continued", "", ""
        self._content_halves = _Halves()

    def _add_thought(self, text: str) -> None:
        if not text or self._state in ("content", "repeated"):
            return
        if self._state == "thought":
            self.text += text
            return
        self._tag += text
        begin = self._tag.lstrip()
        if len(begin) >= len(OPEN) or not OPEN.startswith(begin):
            self._begin_thought(self._tag)

    def _begin_thought(self, text: str) -> None:
        if not text:
            return
        has_tag = text.lstrip().startswith(OPEN)
        self.text += self._held + ("" if has_tag or self._opened else OPEN) + text
        self._state, self._held, self._tag = "thought", "", ""

    def _add_content(self, text: str) -> None:
        if not text:
            return
        if self._state == "content":
            self.text += text
            return
        self._held += text
        begin = self._held.lstrip()
        if self._tag and begin:
            self._begin_thought(self._tag)
        if self._state == "nothing" and begin:
            self._turn_to_content(self._held)
        elif self._state == "thought" and begin and (len(begin) >= len(OPEN) or not OPEN.startswith(begin)):
            if begin.startswith(OPEN):
                self._state = "repeated"
            else:
                self._turn_to_content(self._held)
        if self._state == "repeated":
            if CLOSE in self._held:
                self._turn_to_content(self._held.partition(CLOSE)[2])
            elif ANSWER in self._held:  # nobody closes that thought
                self._turn_to_content("".join(self._held.partition(ANSWER)[1:]))
            else:
                self._held = self._held[-len(CLOSE) :]

    def _turn_to_content(self, text: str) -> None:
        if self._state in ("thought", "repeated") and not self.text.rstrip().endswith(CLOSE):
            self.text += CLOSE
        self.text += text
        self._state, self._held = "content", ""


class _Halves:
    """JSON may name a character beyond 16 bits by two numbers, and a server may send them in two events."""

    def __init__(self) -> None:
        self._first = ""

    def join(self, text: str) -> str:
        text = self._first + text
        self._first = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._first = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def broken(sentence: str) -> SegzeroError:
    return SegzeroError(Status.BACKEND_ERROR, sentence)
