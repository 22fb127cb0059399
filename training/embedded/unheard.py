"""Words that mean nothing among an instruction's, so that words training never heard come to be read over.

Words are put in, and those that carry no meaning exchanged or left out, at random ("easy data augmentation",
https://aclanthology.org/D19-1670). Half of them are made up: the tokenizer spells what it does not know by letters.
"""

from __future__ import annotations

import numpy as np

from training.data.tabletop.instructions import Item
from training.data.tabletop.scene import CATEGORIES, COLORS
from training.data.tabletop.wordings import NAMES

INSERTED, EXCHANGED, LEFT_OUT = 0.1, 0.08, 0.05  # chance at each place, and of each word that means nothing
BEFORE, AFTER = 5, 4  # words at most around it
_LETTERS = list("etaoinshrdlucmfwypvbgk")
IDLE = """
a about actually again ah alright am an and anyway are around as ask at away be because been before begin being bit
bring by call came can care carefully carry catch chair chance check clean clear close color colored coloured come
could day dear did do does done door down draw drop during easy either end enough even ever example fast feel fetch
few find fine first floor follow food for friend from game gently get give go going good got grab great guess had half
hand happen hard has have he hear hello help her here hey hi him his hold home hope house how hurry I idea if image
important in inside into is it its job just keep kind kitchen know last later lay lead leave let lie like likely
listen little locate located long look lot love lunch made make may maybe me mean meet might mind mine minute moment
move much must my name need new nice now of off often oh ok okay old on once one only onto or our out over own part
pass perhaps photo pick picture piece place plan play please point possible possibly put quick quickly quite reach
ready real really request robot room run said same saw say scene see seem seen send set shall she should show shown
simply sir sit sitting slowly so some soon sorry spot stand standing start stay step stop stuff such sure surely table
take talk task tell thank thanks that the their them then there these they think this those though time to today
together too took touch toward towards try turn up upon us use used usual very view visible wait want was watch way we
well went were what when where which while who why will wish with wonder work would yes you your yours
"""
# What an instruction means, as far as it stands in words of its own.
_SAID = """
left right front behind back side closer nearer farther away than in of to on leftmost rightmost biggest largest
smallest tiniest nearest closest farthest furthest not isn't ain't doesn't no other except but unless excluding
instead without never different another any all each every both two three four everything whole object objects thing
things item items something whatever what which anything
"""
_IDLE_WORDS = tuple(IDLE.split())
_MEANT = frozenset(_SAID.split()) | {
    w for name in (*CATEGORIES, *COLORS, *(n for some in NAMES.values() for n in some)) for w in name.split()
}
_PARTS = sorted(w for w in _MEANT if w.isalpha())


def unheard(rng: np.random.Generator, item: Item) -> str:
    """The instruction among words that mean nothing, in lower case."""

    def letters(least: int, most: int) -> str:
        return "".join(rng.choice(_LETTERS, int(rng.integers(least, most))))

    def idle() -> str:
        chance = rng.random()
        if chance < 0.35:
            return letters(2, 9)
        if chance < 0.55:  # "colored" holds a "red", "everybody" an "every", and so they are spelled
            return letters(0, 4) + _PARTS[int(rng.integers(len(_PARTS)))] + letters(2, 5)
        return _IDLE_WORDS[int(rng.integers(len(_IDLE_WORDS)))]

    words = item.text.split()
    if item.kind == "function":  # any of its words may be one that is not known
        if rng.random() < 0.5:
            words[int(rng.integers(len(words)))] = idle()
    else:
        chances = rng.random(len(words))
        kept = (_means(w) or c >= EXCHANGED + LEFT_OUT for w, c in zip(words, chances, strict=True))
        changed = (
            w if keep else idle() if c < EXCHANGED else "" for w, keep, c in zip(words, kept, chances, strict=True)
        )
        words = [w for w in changed if w]
    within = [w for word in words for w in ((idle(), word) if rng.random() < INSERTED else (word,))]
    before, after = (int(rng.integers(1, most)) if rng.random() < 0.5 else 0 for most in (BEFORE, AFTER))
    return " ".join([*(idle() for _ in range(before)), *within, *(idle() for _ in range(after))])


def _means(word: str) -> bool:
    bare = word.lower().strip(",.?!:;")
    return bare in _MEANT or bare.removesuffix("s") in _MEANT or bare.startswith(("non-", "bunnies"))
