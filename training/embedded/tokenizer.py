"""The embedded reasoner's tokenizer: whole words of the tabletop's language, letters and bytes for all else.

Made, not trained, so it comes out the same every time. A word that is not known is spelled by its letters alone, also
where a known one is part of it: "colored" has no "red" in it. Numbers 0 to 255 are single tokens.
"""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from training.data.tabletop.instructions import FUNCTIONS, MANY_TEMPLATES, RELATIONS, SUPERLATIVES, TEMPLATES
from training.data.tabletop.scene import CATEGORIES, COLORS

PAD, BOS, EOS = "<pad>", "<|im_start|>", "<|im_end|>"
SPECIAL = (PAD, BOS, EOS, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
NUMBERS = 256
FIRST_NUMBER = len(SPECIAL)
STRUCTURE = (
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    '[{"bbox_2d": [',
    '], "point_2d": [',
    '], "label": "',
    '"}, {"bbox_2d": [',
    '"}]',
    "[]",
    " at (",
    ").",
    ", ",
)
_TEXTS = (
    *TEMPLATES,
    *MANY_TEMPLATES,
    *(text for texts in FUNCTIONS.values() for text in texts),
    *(f"{c} {c}s" for c in CATEGORIES),
    *COLORS,
    *SUPERLATIVES,
    *(f"the {r} the" for r in RELATIONS),
    "bunnies all the two three four both objects object thing plain ball that is not",
    "user assistant system The target is all the. I see a an. There is none. The is at",
)


def words(more: str = "") -> list[str]:
    found = {w for text in (*_TEXTS, more) for w in re.findall(r"[A-Za-z]+(?:-[A-Za-z]+)*", text)}
    found |= {w.lower() for w in found}
    return sorted(found)


def _piece(known: list[str]) -> str:
    """A regular expression of what is one token, or bytes: a word as a whole, a letter, a number, a sign."""
    word = "|".join(re.escape(w) for w in sorted(known, key=len, reverse=True))
    return rf"(?: |(?<![A-Za-z]))(?:{word})(?![A-Za-z])| ?[A-Za-z]|\d{{1,3}}|\n| ?[^\sA-Za-z\d]|\s"


def build_tokenizer(more: str = "") -> Any:
    """more: a text of further words that are to be single tokens."""
    pieces = [*SPECIAL, *(str(n) for n in range(NUMBERS))]
    known = set(pieces)
    for piece in (
        *(form for w in words(more) for form in (w, " " + w)),
        *string.ascii_letters,
        *(" " + c for c in string.ascii_letters + string.punctuation),
        *string.punctuation,
        " ",
        "\n",
        *(f"<0x{byte:02X}>" for byte in range(256)),
    ):
        if piece not in known:
            pieces.append(piece)
            known.add(piece)

    def score(piece: str) -> float:
        return -20.0 if piece.startswith("<0x") else -10.0 if len(piece.strip()) <= 1 else -8.0

    tokenizer = Tokenizer(models.Unigram([(piece, score(piece)) for piece in pieces], unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_piece(words(more))), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in STRUCTURE])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=None,
        unk_token=None,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def save_tokenizer(folder: Path | str, more: str = "") -> Any:
    tokenizer = build_tokenizer(more)
    tokenizer.save_pretrained(folder)
    return tokenizer
