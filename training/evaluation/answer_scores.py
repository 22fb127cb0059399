"""Scores of question answering, each as its authors' script has it: a model's answer and the right ones to [0, 1].

Known oddities are kept, since published figures have them: VQAv2 compares raw text where all annotators agree; relaxed
accuracy compares text where the true number is 0; ANLS counts .5 itself, which the paper's equation does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

Score = Callable[[str, Sequence[str]], float]


def exact(answer: str, answers: Sequence[str]) -> float:
    """Equal to one of them, but for case, white space and a full stop."""
    return float(_bare(answer) in {_bare(a) for a in answers})


def _bare(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .")


# Contractions that the VQA script mends, by their right forms; the wrong ones lack one apostrophe each.
_CONTRACTED = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've he'd"""
CONTRACTIONS = {
    right[:n] + right[n + 1 :]: right for right in _CONTRACTED.split() for n, c in enumerate(right) if c == "'"
} | {"somebody'd": "somebodyd"}
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")


def _unpunctuated(text: str, number_comma: str) -> str:
    """Marks at a word's edge vanish, others become a space; all vanish where a comma stands between digits."""
    comma = re.search(number_comma, text) is not None
    out = text
    for mark in _PUNCTUATION:
        out = out.replace(mark, "" if comma or f"{mark} " in text or f" {mark}" in text else " ")
    return _PERIOD.sub("", out, count=32)  # the script passes a flag, which is 32, for the count


def _plain_words(text: str) -> str:
    words = [NUMBERS.get(w, w) for w in text.lower().split()]
    return " ".join(CONTRACTIONS.get(w, w) for w in words if w not in ("a", "an", "the"))


def normalise_vqa(text: str) -> str:
    return _plain_words(_unpunctuated(text, r"\d,\d"))


def normalise_textvqa(text: str) -> str:
    tokens = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    tokens = tokens.replace("\n", " ").replace("\t", " ").strip()
    return _plain_words(_unpunctuated(tokens, r"(?<=\d),+(?=\d)"))


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    said, true = _line(answer), [_line(a) for a in answers]
    if len(set(true)) > 1:
        said, true = normalise_vqa(said), [normalise_vqa(a) for a in true]
    return _soft(said, true)


def textvqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    return _soft(normalise_textvqa(answer), [normalise_textvqa(a) for a in answers])


def _line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _soft(said: str, true: Sequence[str]) -> float:
    """Each annotator in turn is left out, and a third of a point given for each other one who says the same."""
    same = true.count(said)
    if not true:
        raise ValueError("a question has no answers")
    return float(np.mean([min(1.0, (same - (a == said)) / 3) for a in true]))


def anls(answer: str, answers: Sequence[str]) -> float:
    """For the nearest right answer. Case and runs of white space do not count (but in the length, as published)."""
    best = max(_similarity(a, answer) for a in answers)
    return best if best >= 0.5 else 0.0


def _similarity(true: str, said: str) -> float:
    longer = max(len(true), len(said))
    distance = edit_distance(" ".join(true.lower().split()), " ".join(said.lower().split()))
    return 1 - distance / longer if longer else 1.0


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's: fewest insertions, deletions and replacements of a character."""
    row = list(range(len(b) + 1))
    for i, c in enumerate(a, 1):
        before, row = row, [i]
        for j, d in enumerate(b, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (c != d)))
    return row[-1]


def relaxed_accuracy(answer: str, answers: Sequence[str]) -> float:
    return float(any(_relaxed(answer, a) for a in answers))


def _relaxed(said: str, true: str) -> bool:
    a, b = _number(said), _number(true)
    if a is not None and b:
        return abs(a - b) / abs(b) <= 0.05
    return said.lower() == true.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
