"""Weights between those of a checkpoint and of a further course from it: often better than both.

A course that teaches new wordings forgets some of what it does not ask; a straight line between its beginning and its
end keeps more of both (Wortsman et al., Robust fine-tuning of zero-shot models, https://arxiv.org/abs/2109.01903).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from training.embedded.reasoner import EMBEDDINGS, export, go_on_from, read_model


def mix(before: str, after: str, share: float) -> Any:
    """The model (1 - share) * before + share * after, float32, with the tokenizer of `after`.

    Words that `before` spells have their embeddings from `after` alone. Raises ValueError for a share outside 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share of {share} is not between 0 and 1")
    tokenizer = AutoTokenizer.from_pretrained(after)
    mixed, former = read_model(after), read_model(after)
    go_on_from(former, before, tokenizer)
    old, new = former.state_dict(), mixed.state_dict()
    found = {name: torch.lerp(old[name], new[name], share) for name in new}
    known = AutoTokenizer.from_pretrained(before).get_vocab()
    fresh = [number for token, number in tokenizer.get_vocab().items() if token not in known]
    found[EMBEDDINGS][fresh] = new[EMBEDDINGS][fresh]
    mixed.load_state_dict(found | {"lm_head.weight": found[EMBEDDINGS]})
    return mixed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", help="folder of the weights that the course began with")
    parser.add_argument("after", help="folder of its own, whose tokenizer is taken")
    parser.add_argument("--share", type=float, default=0.5, help="of the second (default: 0.5)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    mixed = mix(arguments.before, arguments.after, arguments.share)
    export(mixed, AutoTokenizer.from_pretrained(arguments.after), arguments.out)


if __name__ == "__main__":
    main()
