"""How many tokens a server must count for a prompt: a picture that it resized, or a prompt that it cut, is noticed.

Qwen's models write coordinates of the picture that they saw. A server that resizes it answers boxes of another scale
with HTTP 200; all that shows is `usage.prompt_tokens`.
"""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.profile import Profile
from segzero_ros.core.text import clean, one_line
from segzero_ros.models import checkpoints, hub
from segzero_ros.models.server_address import is_address

CELLS = {"qwen2_5_vl": 28, "qwen3_vl": 32, "qwen3_5": 32}  # pixels of a token's side in the published checkpoints
AROUND = 8  # tokens that a template may put around a picture; Qwen's are two
SLACK = 8  # tokens by which the joints of template and instruction may differ
KEPT = 256  # prompts whose count is remembered
# By which a turn that was begun may differ: templates trim blanks, and text is tokenized across a joint. A server that
# ends it and opens a new one adds five.
FEWER, MORE = 3, 1

# A server tokenizes the whole conversation at once, and would obey these in an instruction; the second is llama.cpp's.
_SPECIAL = re.compile(r"<(\|\w{1,64}\||__\w{1,64}__)>")

Count = Callable[[str], int]
Split = Callable[[str], list[str]]


def spell_out(prompt: str) -> str:
    """The words as they are sent: no part of them is a special token, and all of them are text."""
    return _SPECIAL.sub(r"< \1 >", clean(prompt))


def image_cells(difference: int) -> int:
    """The side of a square picture in cells, from the tokens that it added to a prompt; 0 where it added no square."""
    side = math.isqrt(max(0, difference))
    return side if difference - side * side <= AROUND else 0


class PromptTokens:
    """What the server counts for the profile's square and a text, from one prompt whose picture was found right.

    count: a text's tokens. Without it, an instruction has at most as many tokens as bytes, and one that was asked
    before has as many as then. split: a text in pieces of a token. Thread-safe.
    """

    def __init__(self, prompt: str, total: int, count: Count | None, split: Split | None = None) -> None:
        self.is_exact = count is not None
        self.count, self.split = count, split
        self._prompt, self._total = prompt, total
        self._known: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def bounds(self, prompt: str) -> tuple[int, int]:
        """The least and the most tokens that this prompt can have."""
        if self.count is not None:
            exact = self._total + self.count(prompt) - self.count(self._prompt)
            return exact, exact
        with self._lock:
            if known := self._known.get(prompt):
                return known, known
        more = len(prompt.encode()) - len(self._prompt.encode())
        return self._total + min(0, more) - SLACK, self._total + max(0, more) + SLACK

    def check(self, prompt: str, found: int) -> None:
        """Raises SegzeroError(BACKEND_ERROR) with a sentence where the server counted something else."""
        least, most = self.bounds(prompt)
        if not least <= found <= most:
            raise _mistrusted(found, least, most, "it resized or dropped the picture or cut the text")
        if self.count is None:
            with self._lock:
                self._known[prompt] = found
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)

    def check_continued(self, prompt: str, found: int, begun: str, begin: str, tokens: int) -> None:
        """As `check`, where the model's turn was begun and sent along.

        begin: the part of it that the template of a new turn writes itself. tokens: of it, which came from this server.
        """
        least, most = self.bounds(prompt)
        if self.count is not None:
            more = self.count(begun) - self.count(begin)
            least, most = least + more - FEWER, most + more + MORE
        else:
            least, most = least + tokens - tokens // 4 - FEWER, most + len(begun.encode())
        if not least <= found <= most:
            why = "it resized or dropped the picture, or began a new turn where it was to go on with the one sent"
            raise _mistrusted(found, least, most, why)


def _mistrusted(found: int, least: int, most: int, why: str) -> SegzeroError:
    wanted = f"{least}" if least == most else f"{least} to {most}"
    return SegzeroError(
        Status.BACKEND_ERROR,
        f"the server counted {found} tokens for a prompt of {wanted}: {why}, so its coordinates cannot be trusted; was"
        " it started anew with other settings?",
    )


class TextTokens:
    """A tokenizer, for text without special tokens. Thread-safe."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> int:
        return len(self._encode(text).ids)

    def split(self, text: str) -> list[str]:
        """The text in pieces of a token each; a character that takes several tokens is one piece.

        Half a character, which JSON can have, is not taken apart.
        """
        if any("\ud800" <= c <= "\udfff" for c in text):
            return [text]
        ends = sorted({end for _, end in self._encode(text).offsets} - {0} | {len(text)})
        return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False) if begin < end]

    def _encode(self, text: str) -> Any:
        return self._tokenizer.encode(text, add_special_tokens=False)


def find_counter(profile: Profile) -> tuple[TextTokens | None, int | None]:
    """A tokenizer of the served model on this disk, and the side of its cells in pixels; None for what is not here.

    By the profile's `tokenizer`, else its reasoner where that is no URL. The network is never asked. Raises
    SegzeroError(NOT_READY) for a tokenizer that is named and not here, or does not read.
    """
    name = profile.tokenizer or ("" if is_address(profile.reasoner) else profile.reasoner)
    folder = _folder(name, None if profile.tokenizer else profile.reasoner_revision) if name else None
    if folder is None or not (folder / "tokenizer.json").is_file():
        if profile.tokenizer:
            raise _refused(f"the tokenizer {one_line(name, 100)} is not on this disk: tokenizer.json is missing")
        return None, None
    return _counter(folder), _cell(folder)


def _folder(name: str, revision: str | None) -> Path | None:
    if name == "embedded":
        return checkpoints.EMBEDDED / "reasoner"
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
    except (OSError, RuntimeError, ValueError):
        return None
    return hub.cached(name, revision) if hub.is_name(name) else None


def _counter(folder: Path) -> TextTokens:
    from tokenizers import Tokenizer

    try:
        tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except BaseException as error:  # the library raises its own bare Exception, and panics that are none
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise _refused(f"the tokenizer in {folder} cannot be read: {one_line(error, 200)}") from error
    return TextTokens(tokenizer)


def _cell(folder: Path) -> int | None:
    if not (folder / "config.json").is_file():
        return None
    vision = checkpoints.read_json(folder / "config.json", "a reasoner").get("vision_config")
    sizes: list[Any] = [vision.get(k) for k in ("patch_size", "spatial_merge_size")] if isinstance(vision, dict) else []
    return sizes[0] * sizes[1] if sizes and all(type(n) is int and 0 < n < 100 for n in sizes) else None


def _refused(sentence: str) -> SegzeroError:
    return SegzeroError(Status.NOT_READY, sentence)
