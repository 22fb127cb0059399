"""What a server is tried for before its answers are relied on: that it goes on with a turn, and keeps a constraint.

One that does not know these settings ignores them, with HTTP 200.
"""

from __future__ import annotations

from collections.abc import Callable

from segzero_ros.core.answer_schema import continuation
from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.profile import Profile
from segzero_ros.core.prompt import TEMPLATES
from segzero_ros.models.prompt_tokens import MORE, Count
from segzero_ros.models.server_events import broken
from segzero_ros.models.server_thoughts import BEGINS, BegunTurn

WORD = "zebra42"  # that no model answers by itself
ONE_WORD = {"type": "structural_tag", "format": {"type": "regex", "pattern": WORD}}
ROOM = 16  # tokens for it
MARK = "1"  # a token of its own beside letters and signs, in every vocabulary of these models


def find_begun_turn(profile: Profile, count: Count | None, ask: Callable[[str, str | None], int]) -> BegunTurn:
    """How the server goes on with a turn. ask: the tokens of a prompt by its words, with the model's turn begun or not.

    A message of one word is a token more. A server that ends the turn and opens a new one counts at least five more.
    What the beginning of a turn costs in tokens stands in both counts, however long a template's is. Without a
    tokenizer here the server counts the texts that end a thought itself. Raises SegzeroError(BACKEND_ERROR), and what
    `ask` raises.
    """
    plain = ask(MARK, None)
    times = max(1, TEMPLATES.get(profile.prompt, profile.prompt).count("{question}"))  # StAR's prompt says it twice

    def count_between(text: str) -> int:
        """Its tokens, between two words of one."""
        if count is not None:
            return count(text)
        more = (ask(f"{MARK}{text}{MARK}", None) - plain) // times - 1
        return min(max(0, more), len(text.encode()))

    text = f"{MARK}</think>\n\n{MARK}" if profile.thinking == "opened" else MARK
    most = MORE + 1 + (1 + count_between(_between(profile, text[1:-1])) if len(text) > 1 else 0)
    why = ""
    for begin in dict.fromkeys((BEGINS[profile.thinking], "")):
        turn = BegunTurn(profile, begin)
        try:
            more = ask(MARK, turn.message(text)) - plain
        except SegzeroError as error:
            if error.status is not Status.BACKEND_ERROR:
                raise
            why = why or error.message
            continue
        if 1 <= more <= most:
            if count is None:
                ends = {continuation(begun, profile)[len(begun) :] for begun in ("", MARK, f"<think>{MARK}")} - {""}
                turn = BegunTurn(profile, begin, {end: count_between(_between(profile, end)) for end in sorted(ends)})
            return turn
        why = why or f"it counts {more} tokens for what was begun, where {most} are the most"
    raise broken(
        f"the server does not go on with a turn that was begun (continue_final_message), as an end of the thought needs"
        f" it: {why}"
    )


def _between(profile: Profile, end: str) -> str:
    """The end of a thought as it is sent behind a word."""
    return BegunTurn(profile, "").message(MARK + end)[len(MARK) :]


def try_constraint(turn: BegunTurn, ask: Callable[[str], str]) -> None:
    """ask: the text behind a turn that was begun, constrained to ONE_WORD.

    Behind the thought, since a server with a reasoning parser constrains nothing before. Raises SegzeroError.
    """
    profile = turn.profile
    begun = turn.message(continuation("x" if profile.thinking != "written" else "<think>x", profile))
    found = ask(begun)
    if found != WORD:
        raise broken(
            "the server ignores constraints (response_format of type structural_tag): leave constrain off, or start it"
            " with a backend of structured outputs (vLLM and SGLang: xgrammar)"
        )
