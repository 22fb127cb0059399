"""Constrained answers and thought budgets over a server: the seam between two requests, and servers that spoil it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from segzero_ros.core.answer_schema import continuation
from segzero_ros.core.contract import Cancel, SegzeroError, Status, ThoughtBudget
from segzero_ros.models.checkpoints import EMBEDDED
from segzero_ros.models.prompt_tokens import PromptTokens, TextTokens
from segzero_ros.models.reasoner_server import ServerReasoner, load_server_reasoner
from segzero_ros.models.server_address import read_address
from segzero_ros.models.server_answers import ServerAnswer
from segzero_ros.models.server_constraint import AnswerForm
from segzero_ros.models.server_events import AnswerText, Piece
from segzero_ros.models.server_requests import new_turn
from segzero_ros.models.server_thoughts import BEGINS, BegunTurn, ThoughtLimit
from segzero_ros.models.server_trials import find_begun_turn
from tests.servers import misbehaving
from tests.servers.process import served
from tests.test_misbehaving_servers import PROFILE, SQUARE, ask, told

BACKEND = Status.BACKEND_ERROR
ROOMY = replace(PROFILE, max_new_tokens=400)  # more than the room of an answer, without a tokenizer
WORDS = "the red mug"
ANSWER = "".join(misbehaving.ANSWER)
FEW = ThoughtBudget(4)
CLOSED = "<think>thought0 thought1 thought2 </think>\n\n"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served("misbehaving") as found:
        yield found


def load(address: str, way: str, constrain: bool) -> ServerReasoner:
    return load_server_reasoner(ROOMY, f"{address}/{way}/v1", constrain=constrain)


@pytest.mark.parametrize("constrain", [False, True])
class TestAServerThatDoesWell:
    def test_a_thought_is_ended_and_the_answer_comes(self, address: str, constrain: bool) -> None:
        found, pieces = ask(load(address, "thinks", constrain), WORDS, thought_budget=FEW)
        assert found.text == pieces == CLOSED + ANSWER
        assert not found.truncated and not found.cancelled

    def test_both_requests_are_counted(self, address: str, constrain: bool) -> None:
        one = load(address, "thinks", constrain)
        plain, _ = ask(one, WORDS)
        found, _ = ask(one, WORDS, thought_budget=FEW)
        assert found.prompt_tokens == plain.prompt_tokens == 115, "known from the question before"
        assert found.completion_tokens == len(CLOSED.split()) + 3

    def test_no_thought_at_all_is_one_request(self, address: str, constrain: bool) -> None:
        one = load(address, "thinks", constrain)
        ask(one, WORDS, thought_budget=ThoughtBudget(500))  # what is tried once is tried here
        before = told(address, "thinks", "times")
        assert ask(one, WORDS, thought_budget=ThoughtBudget(0))[0].text == "<think></think>\n\n" + ANSWER
        assert told(address, "thinks", "times") == before + 1

    def test_a_thought_within_its_budget_is_one_request(self, address: str, constrain: bool) -> None:
        one = load(address, "thinks", constrain)
        ask(one, WORDS, thought_budget=FEW)
        before = told(address, "thinks", "times")
        found, _ = ask(one, WORDS, thought_budget=ThoughtBudget(22))
        assert found.text == "<think>" + "".join(misbehaving.THOUGHTS) + "</think>\n\n" + ANSWER
        assert told(address, "thinks", "times") == before + 1

    def test_seconds_end_it_as_tokens_do(self, address: str, constrain: bool) -> None:
        found, pieces = ask(load(address, "thinks", constrain), WORDS, thought_budget=ThoughtBudget(seconds=1e-9))
        assert found.text == pieces == "<think></think>\n\n" + ANSWER

    def test_a_batch_keeps_its_order(self, address: str, constrain: bool) -> None:
        one = load(address, "thinks", constrain)
        pieces = ["", "", ""]

        def say(index: int, text: str) -> None:
            pieces[index] += text

        found = one.generate([SQUARE] * 3, ["a", "b b", "c"], on_text=say, thought_budget=FEW)
        assert [f.text for f in found] == pieces == [CLOSED + ANSWER] * 3

    def test_a_cancel_before_and_behind_the_seam_keeps_what_was_written(self, address: str, constrain: bool) -> None:
        one = load(address, "thinks", constrain)
        ends = set()
        for wanted in range(1, 9):
            flag = Cancel()
            pieces: list[str] = []

            def say(_: int, text: str, pieces: list[str] = pieces, flag: Cancel = flag, wanted: int = wanted) -> None:
                pieces.append(text)
                if len(pieces) >= wanted:
                    flag.set()

            found, _ = ask(one, WORDS, thought_budget=FEW, cancel=flag, on_text=say)
            assert found.text == "".join(pieces) and (CLOSED + ANSWER).startswith(found.text)
            assert found.cancelled
            ends.add(found.text)
        assert any("</think>" in text for text in ends) and any("</think>" not in text for text in ends)


@pytest.mark.parametrize("way", ["stops_thinking", "stops_before_a_tag"])
def test_seconds_end_a_thought_while_the_server_says_nothing(address: str, way: str) -> None:
    one = load(address, way, False)
    found, pieces = ask(one, WORDS, thought_budget=ThoughtBudget(seconds=2.0))
    assert found.thought_ended and found.text == pieces == "<think>thought0 thought1 </think>\n\n" + ANSWER
    assert told(address, way, "gone") is True


def test_a_constrained_answer_is_left_its_room(address: str) -> None:
    one = load(address, "thinks", True)
    found, pieces = ask(one, WORDS, max_new_tokens=AnswerForm(ROOMY, None).room + 4)
    assert found.text == pieces == CLOSED + ANSWER


def test_a_limit_without_any_room_cuts(address: str) -> None:
    found, _ = ask(load(address, "thinks", True), WORDS, max_new_tokens=2)
    assert found.truncated and found.text == "<think>thought0 "


LOADS = {
    "ignores_constraints": "the server ignores constraints",
    "refuses_constraints": "refuses the request (400): no grammars",
    "refuses_large_constraints": "refuses the request (400): too complex",
    "opens_new_turns": "does not go on with a turn that was begun",
    "drops_begun_turns": "does not go on with a turn that was begun",
    "refuses_begun_turns": "(400): the last message must be the user's",
}


@pytest.mark.parametrize("way", LOADS)
def test_a_server_that_cannot_constrain_is_refused_while_it_loads(address: str, way: str) -> None:
    with pytest.raises(SegzeroError) as error:
        load(address, way, True)
    assert error.value.status is Status.NOT_READY and LOADS[way] in error.value.message
    assert len(error.value.message) <= 600
    assert ask(load(address, way, False))[0].text.endswith(ANSWER), "without constrain it is as good as any"


@pytest.mark.parametrize("way", ["opens_new_turns", "drops_begun_turns", "refuses_begun_turns"])
def test_a_server_that_cannot_end_a_thought_says_so_when_it_is_asked_to(address: str, way: str) -> None:
    with pytest.raises(SegzeroError, match="does not go on with a turn") as error:
        ask(load(address, way, False), thought_budget=FEW)
    assert error.value.status is BACKEND


LATER = {
    # way: status, words of the sentence, text that was told before
    "begins_anew": (BACKEND, "began the answer anew", CLOSED + "<think>"),
    "repeats_the_thought_alone": (BACKEND, "began the answer anew", CLOSED + "thought0 thought1 thought2 "),
    "dies_between": (BACKEND, "broke the connection off", CLOSED),
    "dies_behind_the_thought": (BACKEND, "broke the connection off, after 13 characters", CLOSED + "the beginning"),
    "loads_between": (Status.BUSY, "(503): later", CLOSED),
    "resizes_between": (BACKEND, "resized or dropped the picture", CLOSED + ANSWER),
    "opens_new_turns_later": (BACKEND, "began a new turn", CLOSED + ANSWER),
}


@pytest.mark.parametrize("way", LATER)
def test_what_goes_wrong_behind_the_thought_is_a_typed_failure(address: str, way: str) -> None:
    status, words, text = LATER[way]
    one = load(address, way, False)
    ask(one, WORDS)  # its tokens are known now
    pieces: list[str] = []
    with pytest.raises(SegzeroError) as error:
        ask(one, WORDS, thought_budget=FEW, on_text=lambda _, piece: pieces.append(piece))
    assert error.value.status is status and words in error.value.message
    assert "".join(pieces) == text


def test_a_cancel_ends_the_second_request(address: str) -> None:
    one, flag = load(address, "hangs_between", False), Cancel()
    ask(one, WORDS, thought_budget=ThoughtBudget(500))  # what is tried once is tried here
    before = told(address, "hangs_between", "times")

    def set_once_it_was_asked_again() -> None:
        while told(address, "hangs_between", "times") < before + 2:
            pass
        flag.set()

    def set_at_the_seam(_: int, text: str) -> None:
        if "</think>" in text:
            threading.Thread(target=set_once_it_was_asked_again, daemon=True).start()

    found, _ = ask(one, WORDS, thought_budget=FEW, cancel=flag, on_text=set_at_the_seam)
    assert found.cancelled and found.text == CLOSED
    assert told(address, "hangs_between", "gone") is True


@pytest.mark.parametrize("budget", [None, FEW])
def test_an_answer_out_of_its_form_names_the_constraint_that_was_dropped(
    address: str, budget: ThoughtBudget | None
) -> None:
    with pytest.raises(SegzeroError, match="dropped the constraint") as error:
        ask(load(address, "answers_in_prose", True), thought_budget=budget)
    assert error.value.status is BACKEND
    assert ask(load(address, "answers_in_prose", False), thought_budget=budget)[0].text.endswith("the red one.")


def test_nothing_behind_a_thought_that_was_ended_is_not_the_constraints_fault(address: str) -> None:
    with pytest.raises(SegzeroError, match="wrote nothing where it was to go on") as error:
        ask(load(address, "writes_nothing_later", True), thought_budget=FEW)
    assert error.value.status is BACKEND


CUT = {"cuts_behind_a_box": ANSWER[:27] + "}]", "cuts_before_a_box": "[", "cuts_a_number": '[{"bbox_2d": [1, 2, 30, 4'}


@pytest.mark.parametrize("way", CUT)
def test_an_answer_that_is_cut_is_closed_where_nothing_has_to_be_made_up(address: str, way: str) -> None:
    found, pieces = ask(load(address, way, True), thought_budget=FEW)
    assert found.truncated and found.text == pieces == CLOSED + CUT[way]


def test_every_way_is_tried() -> None:
    assert set(misbehaving.STEERED) == {
        "thinks",
        "hangs_between",
        "stops_thinking",
        "stops_before_a_tag",
        "answers_in_prose",
        "writes_nothing_later",
        *LOADS,
        *LATER,
        *CUT,
    }


def test_answers_without_a_grammar_cannot_be_constrained() -> None:
    with pytest.raises(SegzeroError, match="have no grammar"):
        ServerReasoner(read_address("http://h/v1"), replace(PROFILE, reader="glm"), constrain=True)


class Scripted:
    """A client whose server writes this text in these pieces, and goes on where it is told to."""

    def __init__(self, text: str, cuts: list[int], parts: bool) -> None:
        self.text, self.cuts, self.parts = text, cuts, parts
        self.address = read_address("http://h/v1")
        self.sent: list[Any] = []
        self.given = ""  # of the first turn

    async def ask(self, _: Any, body: Any, limit: int, on_piece: Callable[[Piece], None]) -> None:
        self.sent.append(body)
        begun = body["messages"][-1]
        text = ANSWER if begun["role"] == "assistant" else self.text
        ends = sorted({cut % (len(text) + 1) for cut in self.cuts} | {len(text)})
        for begin, end in zip([0, *ends], ends, strict=False):
            piece = self.piece(text, begin, end)
            if len(self.sent) == 1:
                self.given += piece.thought + piece.content
            on_piece(piece)
        on_piece(Piece(finish="stop"))
        on_piece(Piece(prompt_tokens=100, completion_tokens=len(ends)))

    def piece(self, text: str, begin: int, end: int) -> Piece:
        """Parted into fields as a reasoning parser does it, or as it is."""
        opened, closed = text.find("<think>"), text.find("</think>")
        if not self.parts or opened < 0:
            return Piece(content=text[begin:end])
        start = opened + len("<think>")
        return Piece(
            thought=text[max(begin, start) : min(end, closed)], content=text[max(begin, closed + len("</think>")) : end]
        )


FORMS = {thinking: AnswerForm(replace(ROOMY, thinking=thinking), None) for thinking in ("written", "opened")}
THOUGHT = "A cup, é 猫 😀 < b, and \n more"


class Merging(Scripted):
    """Its events have one token or several, as those of a server that is busy."""

    async def ask(self, _: Any, body: Any, limit: int, on_piece: Callable[[Piece], None]) -> None:
        self.sent.append(body)
        text = ANSWER if body["messages"][-1]["role"] == "assistant" else self.text
        tokens, sizes = TOKENS.split(text), itertools.cycle(self.cuts)
        while tokens:
            size = next(sizes)
            on_piece(Piece(content="".join(tokens[:size])))
            tokens = tokens[size:]
        on_piece(Piece(finish="stop", prompt_tokens=100))


TOKENS = TextTokens(Tokenizer.from_file(str(EMBEDDED / "reasoner" / "tokenizer.json")))


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), tokens=st.integers(0, 12))
def test_a_thought_ends_where_it_must_however_many_tokens_come_in_an_event(sizes: list[int], tokens: int) -> None:
    def answer(sizes: list[int]) -> tuple[str, str]:
        pieces: list[str] = []
        client = Merging(f"<think>The red mug is at the left, é 猫 😀</think>\n\n{ANSWER}", sizes, False)
        one = ServerAnswer(
            WORDS,
            {"messages": [{"role": "user"}], "max_tokens": 400},
            thought=ThoughtLimit(ROOMY, 400, None, ThoughtBudget(tokens), TOKENS),
            begun=BegunTurn(ROOMY, BEGINS["written"]),
            split=TOKENS.split,
            say=pieces.append,
        )
        asyncio.run(one.ask(client, None))  # type: ignore[arg-type]
        return one.text, "".join(pieces)

    assert answer(sizes) == answer([1])


class CountingInEveryEvent(Merging):
    """Events of several tokens, with the sum so far where it is asked for (vLLM, SGLang)."""

    async def ask(self, _: Any, body: Any, limit: int, on_piece: Callable[[Piece], None]) -> None:
        counts = bool(body["stream_options"].get("continuous_usage_stats"))
        self.sent.append(body)
        is_answer = body["messages"][-1]["role"] == "assistant"
        tokens, sizes, sent = TOKENS.split(ANSWER if is_answer else self.text), itertools.cycle(self.cuts), 0
        while tokens:
            size = min(next(sizes), len(tokens))
            sent += size
            text = "".join(tokens[:size])
            on_piece(Piece(text, prompt_tokens=100 * counts, completion_tokens=sent * counts))
            tokens = tokens[size:]
        on_piece(Piece(finish="stop", prompt_tokens=100, completion_tokens=sent))


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), budget=st.integers(1, 12))
def test_a_budget_is_counted_without_a_tokenizer_by_a_server_that_counts_in_every_event(
    sizes: list[int], budget: int
) -> None:
    thought = "<think>The red mug is at the left, and it is the only one that I see on this table"
    client = CountingInEveryEvent(f"{thought}</think>\n\n{ANSWER}", sizes, False)
    one = ServerAnswer(
        WORDS,
        new_turn(ROOMY, "m", None, WORDS, 400),
        thought=ThoughtLimit(ROOMY, 400, None, ThoughtBudget(budget), None),
        begun=BegunTurn(ROOMY, BEGINS["written"]),
    )
    asyncio.run(one.ask(client, None))  # type: ignore[arg-type]
    written = TOKENS(one.text.partition("</think>")[0])
    events = itertools.accumulate(itertools.cycle(sizes))
    assert written == next(total for total in events if total >= budget), (
        "of the event that uses the budget up, no more"
    )


class Echoing(Scripted):
    """It writes what it was sent before it goes on."""

    def piece(self, text: str, begin: int, end: int) -> Piece:
        begun = self.sent[-1]["messages"][-1].get("content", "") if begin == 0 else ""
        return Piece(content=begun + text[begin:end])


@pytest.mark.parametrize("begin", ["<think>\n", ""])
def test_a_thought_that_the_server_writes_once_more_is_not_taken_for_the_answer(begin: str) -> None:
    profile = replace(ROOMY, thinking="opened")
    one = ServerAnswer(
        WORDS,
        {"messages": [{"role": "user"}], "max_tokens": 400},
        opened=True,
        thought=ThoughtLimit(profile, 400, None, ThoughtBudget(2), None),
        begun=BegunTurn(profile, begin),
    )
    with pytest.raises(SegzeroError, match="began the answer anew"):
        asyncio.run(one.ask(Echoing("It is red, I think.</think>\n\n[]", [5, 9], False), None))  # type: ignore[arg-type]


def test_text_behind_a_closed_thought_that_comes_in_two_fields_is_whole() -> None:
    text = AnswerText()
    text.add(Piece(thought="It is red."))
    text.go_on("</think>\n\n")
    assert text.add(Piece(thought='[{"bbox_2d": [1, 2', content=", 30, 40]}]")) == '[{"bbox_2d": [1, 2, 30, 40]}]'


class Counting(Merging):
    """It counts as its tokenizer does, a token to an event."""

    def prompt_tokens(self, words: str, begun: str | None) -> int:
        return 100 + TOKENS(words) + TOKENS(begun or "")

    async def ask(self, _: Any, body: Any, limit: int, on_piece: Callable[[Piece], None]) -> None:
        begun = body["messages"][1]["content"] if len(body["messages"]) > 1 else None
        pieces = TOKENS.split(ANSWER if begun else self.text)
        for text in pieces:
            on_piece(Piece(content=text))
        count = self.prompt_tokens(body["messages"][0]["content"], begun)
        on_piece(Piece(finish="stop", prompt_tokens=count, completion_tokens=len(pieces)))


@pytest.mark.parametrize("tokens", [0, 2, 6])
def test_what_closes_a_thought_is_of_the_answer_and_not_of_the_prompt_without_a_tokenizer_too(tokens: int) -> None:
    client = Counting("<think>The red mug is at the left, and it is the only one</think>\n\n" + ANSWER, [1], False)
    one = ServerAnswer(
        WORDS,
        {"messages": [{"role": "user", "content": WORDS}], "max_tokens": 400},
        expected=PromptTokens("x", 101, None),
        thought=ThoughtLimit(ROOMY, 400, None, ThoughtBudget(tokens), None),
        begun=find_begun_turn(ROOMY, None, client.prompt_tokens),
    )
    asyncio.run(one.ask(client, None))  # type: ignore[arg-type]
    assert one.ended and one.text.endswith(ANSWER)
    assert one.prompt_tokens == 100 + TOKENS(WORDS)
    assert one.tokens == TOKENS(one.text)


@given(st.text(st.characters(categories=None)))
def test_pieces_of_a_token_are_the_text(text: str) -> None:
    assert "".join(TOKENS.split(text)) == text


@settings(max_examples=300, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 60), max_size=30),
    tokens=st.integers(0, 9),
    parts=st.booleans(),
    thinking=st.sampled_from(["written", "opened"]),
    counted=st.booleans(),
    before=st.sampled_from(["", "<", "<thin", "</thin"]),
)
def test_however_a_stream_is_cut_what_was_told_is_the_text(
    cuts: list[int], tokens: int, parts: bool, thinking: Any, counted: bool, before: str
) -> None:
    profile = replace(ROOMY, thinking=thinking)
    opened = thinking == "opened"
    whole = f"{'' if opened else '<think>'}{before}{THOUGHT}</think>\n\n{ANSWER}"
    client = Scripted(f"<think>{before}{THOUGHT}</think>\n\n{ANSWER}" if parts else whole, cuts, parts)
    pieces: list[str] = []
    count = (lambda text: len(text.split())) if counted else None
    answer = ServerAnswer(
        WORDS,
        {"messages": [{"role": "user"}], "max_tokens": 400},
        opened=opened,
        form=FORMS[thinking],
        thought=ThoughtLimit(profile, 400, None, ThoughtBudget(tokens), count),
        begun=BegunTurn(profile, BEGINS[thinking]),
        say=pieces.append,
    )
    asyncio.run(answer.ask(client, None))  # type: ignore[arg-type]
    assert answer.done and "".join(pieces) == answer.text
    thought, _, behind = answer.text.partition("</think>")
    assert behind == "\n\n" + ANSWER
    assert whole.startswith(thought) or (not thought and opened) or thought == "<think>"
    if len(client.sent) == 1:
        begun = client.sent[0]["messages"][-1]["role"] == "assistant"
        assert begun or answer.text == whole
        return
    assert continuation(thought, profile) == thought + "</think>\n\n", "the thought was left where it was open"
    given = "" if "<think>".startswith(client.given) and not parts and not opened else client.given
    kept, given = thought.removeprefix("<think>"), given.removeprefix("<think>")
    assert f"{kept}</think>".startswith(given) and len(kept) <= len(given), "all that came, and no more"


class TestBegunTurns:
    def test_a_template_that_opens_the_thought_finds_the_message_again(self) -> None:
        profile = replace(PROFILE, thinking="opened")
        message = BegunTurn(profile, "<think>\n").message("\nIt is red.\n</think>\n\n")
        # As the templates of Qwen3-VL-Thinking and Qwen3.5 write a turn with a thought.
        content = message.partition("</think>")[2].lstrip("\n")
        thought = message.partition("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
        assert message == f"<think>\n{thought}\n</think>\n\n{content}"

    def test_what_the_model_wrote_cannot_end_its_turn(self) -> None:
        message = BegunTurn(PROFILE, "").message("<think>a<|im_end|>\n<|im_start|>user</think>\n\n")
        assert "<|im_end|>" not in message and "<|im_start|>" not in message

    @pytest.mark.parametrize(
        ("twice", "begin"), [(False, "<think>\n"), (True, "")], ids=["whole", "behind the template's own"]
    )
    def test_a_server_that_opens_the_thought_itself_is_sent_the_rest(self, twice: bool, begin: str) -> None:
        """Some render the message as a turn, others set it behind the beginning of a new one."""

        profile = replace(PROFILE, thinking="opened")
        assert find_begun_turn(profile, None, self.server(twice=twice)).begin == begin

    @staticmethod
    def server(*, twice: bool = False, tag: str = " . ", template: int = 20, more: int = 0) -> Any:
        """One whose template writes `template` tokens, and opens the thought. tag: what it makes of </think>."""

        def count(text: str) -> int:
            words = text.replace("</think>", tag).replace("<think>", " . ").replace("\n\n", " . ")
            return len(words.replace("\n", " . ").split())

        def tokens(words: str, begun: str | None) -> int:
            own = 2  # <think> and a line break
            if begun is None:
                return template + count(words) + own
            return template + count(words) + own * twice + count(begun) + more

        return tokens

    @pytest.mark.parametrize("tag", [" . ", " < / think > "], ids=["one token", "four tokens"])
    @pytest.mark.parametrize("template", [3, 200])
    def test_a_turn_is_found_however_long_its_template_and_the_end_of_a_thought_are(
        self, tag: str, template: int
    ) -> None:
        profile = replace(PROFILE, thinking="opened")
        turn = find_begun_turn(profile, None, self.server(tag=tag, template=template))
        assert turn.begin == "<think>\n"
        assert turn.count("</think>\n\n") == 2 + len(tag.split()), "with the line break before"
        with pytest.raises(SegzeroError, match="does not go on with a turn that was begun"):
            find_begun_turn(profile, None, self.server(tag=tag, template=template, more=5))

    def test_the_second_prompt_has_its_number_where_a_tokenizer_is_here(self) -> None:
        expected = PromptTokens("find x", 1000, lambda text: len(text.split()))
        expected.check_continued("find x", 1003, "a b c", "", 2)
        for wrong in (1005, 999, 1003 - 30):
            with pytest.raises(SegzeroError, match="began a new turn"):
                expected.check_continued("find x", wrong, "a b c", "", 2)


def test_the_profile_says_whether_answers_are_constrained(address: str) -> None:
    profile = replace(ROOMY, constrain=True)
    url = f"{address}/thinks/v1"
    assert load_server_reasoner(profile, url).constrain
    assert not load_server_reasoner(profile, url, constrain=False).constrain
    assert not load_server_reasoner(ROOMY, url).constrain
