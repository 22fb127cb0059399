"""Whether a server sees the profile's square as it is: found from what it counts, before anybody asks.

The same words are asked with the square and without a picture; the difference is the picture's tokens, which must be
those of a square that was not resized.
"""

from __future__ import annotations

from collections.abc import Callable

from segzero_ros.core.contract import Image, SegzeroError, Status
from segzero_ros.core.geometry import square_image
from segzero_ros.core.profile import Profile
from segzero_ros.core.prompt import build_prompt
from segzero_ros.models.prompt_tokens import CELLS, PromptTokens, find_counter, image_cells, spell_out
from segzero_ros.models.trial import drawn_picture

Ask = Callable[[str, list[Image | None]], list[int]]  # a prompt, pictures or None -> the server's tokens for each


def calibrate(profile: Profile, context: int, ask: Ask) -> PromptTokens:
    """What the server must count for a prompt. context: tokens of prompt and answer that it takes; 0: not known.

    Raises SegzeroError(BACKEND_ERROR) with a sentence, and what `ask` raises.
    """
    count, known = find_counter(profile)
    cell, side = known or CELLS[profile.model_class], profile.square
    picture = square_image(drawn_picture(), side)
    prompt = spell_out(build_prompt(profile, "x"))
    total, words = ask(prompt, [picture, None])
    found = f"the server counts {total - words} tokens for a picture of {side} x {side} pixels"
    if total <= words:
        raise _refused(f"{found}: it does not look at pictures; is the model one that sees?")
    cells = image_cells(total - words)
    if cells * cell != side and (known or not _has_own_cells(side, cells, words, lambda p: ask(prompt, [p])[0])):
        wanted = f"{(side // cell) ** 2} and two around it" if side % cell == 0 else f"a multiple of {cell} pixels"
        raise _refused(
            f"{found}, where {wanted} would be right: it resizes pictures, and boxes would be shifted; check the"
            " server's min_pixels and max_pixels, and the profile's square and model_class"
        )
    if context and total + profile.max_new_tokens > context:
        raise _refused(
            f"the server takes {context} tokens in all, and a prompt of {total} with an answer of"
            f" {profile.max_new_tokens} needs more; start it with a longer context (vLLM: --max-model-len)"
        )
    return PromptTokens(prompt, total, count, count.split if count else None)


def _has_own_cells(side: int, cells: int, words: int, ask: Callable[[Image], int]) -> bool:
    """Whether weights with cells of an unknown size see the square as it is: then a square that is smaller by one cell
    has one row less. A resized one would have as many as before, since both are brought to one size."""
    if not cells or side % cells or cells < 2:
        return False
    smaller = ask(square_image(drawn_picture(), side - side // cells))
    return image_cells(smaller - words) == cells - 1


def _refused(sentence: str) -> SegzeroError:
    return SegzeroError(Status.BACKEND_ERROR, sentence)
