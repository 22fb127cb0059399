"""A profile's grammar over a tokenizer's vocabulary, by llguidance: which tokens may come next."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from segzero_ros.core.answer_schema import answer_language, lark_grammar, room_of_answer, sample_answer, sample_point
from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.profile import Profile
from segzero_ros.core.regular import Automaton
from segzero_ros.core.text import first_line, one_line

_WORDS = 'the red mug on the left, é 猫 <answer>[{"bbox_2d": [3, 12]}]</answer>\n'


class Grammar:
    """Of one model and profile; made once, since llguidance takes up to a second for a large vocabulary."""

    def __init__(self, tokenizer: Any, profile: Profile, ends: set[int], rows: int) -> None:
        """ends: the tokens that end a turn. rows: of the model's output, which may be more than the tokenizer knows.

        Raises SegzeroError(NOT_READY).
        """
        self._lark = lark_grammar(profile, profile.thinking == "opened")
        self.automaton = Automaton(answer_language(profile))
        try:
            import llguidance
        except ImportError as error:
            raise _refused(f"constrain needs the library llguidance, which cannot be imported ({error})") from error
        self._library = llguidance
        self._rows = rows
        try:
            written = what_tokens_write(tokenizer)
            vocabulary = llguidance.TokenizerWrapper(_Vocabulary(tokenizer, written, min(ends)))
            self._vocabulary = llguidance.LLTokenizer(vocabulary, n_vocab=rows, eos_token=sorted(ends))
        except SegzeroError:
            raise
        except Exception as error:  # the library raises what its native part says
            raise _refused(f"the tokenizer has no form that llguidance reads: {first_line(error)}") from error
        if why := llguidance.LLMatcher.validate_grammar(self._lark, self._vocabulary):
            raise _refused(f"the grammar of profile {profile.name} is refused: {one_line(why, 200)}")

        def count(text: str) -> int:
            return len(tokenizer.encode(text, add_special_tokens=False))

        self.room = room_of_answer(profile, count)
        # Within its object: alone, its first characters would be other tokens than behind a box's bracket.
        answer = sample_answer(profile)
        self.point_room = count(answer) - count(answer.replace(sample_point(profile), "", 1)) + 4
        self.further_objects = _rows_of(rows, (b"{" in said or re.search(rb"\}\s*,", said) for said in written))
        self.further_entries = _rows_of(rows, (b"," in said or b"{" in said for said in written))  # objects, too

    def reading(self) -> Reading:
        return Reading(self._library.LLMatcher(self._vocabulary, self._lark, log_level=0), self._rows)


def _rows_of(rows: int, holds: Iterable[object]) -> torch.Tensor:
    """(rows,), bool: the tokens of which it holds."""
    found = torch.zeros(rows, dtype=torch.bool)
    found[[number for number, true in enumerate(holds) if true]] = True
    return found


class Reading:
    """One text while it is written."""

    def __init__(self, matcher: Any, rows: int) -> None:
        self._matcher, self._rows = matcher, rows

    def read(self, tokens: list[int]) -> None:
        """Raises SegzeroError(BACKEND_ERROR) for tokens that `allowed` ruled out, and where the library gives up."""
        if tokens and not self._matcher.consume_tokens(tokens):
            raise self._failed()

    def allowed(self) -> torch.Tensor:
        """(rows,), bool: which tokens may come next; the ends of a turn among them where the text may end."""
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise self._failed()
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[: self._rows]
        allowed = torch.zeros(self._rows, dtype=torch.bool)
        allowed[: len(bits)] = torch.from_numpy(bits).bool()
        return allowed

    def _failed(self) -> SegzeroError:
        why = one_line(self._matcher.get_error() or "it allows nothing more", 200)
        return SegzeroError(Status.BACKEND_ERROR, f"the grammar of the answer failed: {why}")


class _Vocabulary:
    """A tokenizer as llguidance takes one. Special are those that the tokenizer itself calls so: they write nothing."""

    def __init__(self, tokenizer: Any, written: list[bytes], end: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = end, None
        self.tokens = written
        self.special_token_ids = [i for i, t in tokenizer.added_tokens_decoder.items() if t.special]

    def __call__(self, text: bytes) -> list[int]:
        return list(self._tokenizer.encode(text.decode("utf-8", "replace"), add_special_tokens=False))


def what_tokens_write(tokenizer: Any) -> list[bytes]:
    """The bytes of every token, by number. Raises SegzeroError(NOT_READY) where a text is not made of them."""
    import llguidance.hf

    known = llguidance.hf.from_tokenizer(tokenizer, slices=[])
    written = [known.decode_bytes([number]) for number in range(known.vocab_size)]
    if b"".join(written[t] for t in tokenizer.encode(_WORDS, add_special_tokens=False)) != _WORDS.encode():
        raise _refused("the tokenizer's tokens are not pieces of text, so constrain has to stay off")
    return written


def _refused(sentence: str) -> SegzeroError:
    return SegzeroError(Status.NOT_READY, sentence)
