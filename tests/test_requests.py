"""The table of states in docs/decisions/requests.md, a test for each row. Plain fakes, a clock that is set by hand."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segzero_ros.core.contract import Cancel, Prompt, Segmentation, Status
from segzero_ros.core.requests import GRACE, MAX_CALLS, Requests
from segzero_ros.core.tickets import Asker, Rules, Ticket, Wish
from tests.request_bench import Bench
from tests.test_goal_requests import GOAL_TESTS

TOPIC, COMMAND, PARAMETER, SERVICE, ACTION = (
    Asker.TOPIC,
    Asker.COMMAND,
    Asker.PARAMETER,
    Asker.SERVICE,
    Asker.ACTION,
)
PATIENCE = 30.0  # seconds; only a failing test waits so long
INSTRUCTIONS = (TOPIC, COMMAND, PARAMETER)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- who may ask


@pytest.mark.parametrize("by", Asker)
def test_nobody_may_ask_a_node_that_is_not_active(bench: Bench, by: Asker) -> None:
    bench.requests.close("the node is not active")
    ticket = bench.ask(by=by)
    assert ticket.result and ticket.result.status is Status.NOT_READY and "not active" in ticket.result.message
    assert len(bench.delivered) == (by is not SERVICE), "a refusal is an answer, and comes where answers come"


def test_a_disabled_node_refuses_until_it_is_enabled(bench: Bench) -> None:
    bench.requests.enable(False)
    assert "enable" in bench.ask().result.message  # type: ignore[union-attr]
    bench.requests.enable(True)
    assert bench.ask().result is None


@pytest.mark.parametrize("text", ["", " \n\t", "x" * 2001])
def test_an_instruction_that_is_none_is_refused(bench: Bench, text: str) -> None:
    ticket = bench.ask(text)
    assert ticket.result and ticket.result.status is Status.BAD_INSTRUCTION
    assert len(ticket.instruction) <= 200


def test_while_models_load_instructions_wait_and_calls_are_refused_with_the_reason(bench: Bench) -> None:
    bench.requests.models("the models are loading: weights (30%)")
    assert bench.ask().result is None
    call = bench.ask(by=SERVICE)
    assert call.result and call.result.status is Status.NOT_READY and "30%" in call.result.message


def test_ten_calls_wait_and_the_next_is_refused_at_once(bench: Bench) -> None:
    bench.ask(by=SERVICE)
    running = bench.take()
    waiting = [bench.ask(f"mug {n}", SERVICE) for n in range(MAX_CALLS)]
    refused = bench.ask("one more", SERVICE)
    assert refused.result and refused.result.status is Status.BUSY
    assert not any(t.result for t in [running, *waiting])
    bench.answer(running)
    for ticket in waiting:  # in their order
        assert bench.take() is ticket
        bench.answer(ticket)


# -- what replaces what


@pytest.mark.parametrize("first", INSTRUCTIONS)
@pytest.mark.parametrize("second", INSTRUCTIONS)
def test_a_newer_instruction_replaces_one_that_waits(bench: Bench, first: Asker, second: Asker) -> None:
    old, new = bench.ask("mug", first), bench.ask("duck", second)
    assert old.result and old.result.status is Status.CANCELLED and "before it began" in old.result.message
    assert bench.take() is new


@pytest.mark.parametrize("second", Asker)
def test_whatever_comes_stops_an_instruction_that_runs(bench: Bench, second: Asker) -> None:
    old = bench.ask()
    bench.take()
    new = bench.ask("duck", second)
    assert old.cancel.is_set() and old.result is None, "the worker ends it, before its next token"
    assert bench.cancels == 2, "who waits for a frame is woken"
    bench.answer(old, Status.CANCELLED, "the request was cancelled")
    assert old.result and "replaced" in old.result.message
    assert bench.take() is new


def test_an_instruction_stops_a_call_that_runs_and_goes_before_those_that_wait(bench: Bench) -> None:
    running = bench.ask("mug 1", SERVICE)
    bench.take()
    waiting = bench.ask("mug 2", SERVICE)
    instruction = bench.ask("duck")
    assert running.cancel.is_set() and waiting.result is None
    bench.answer(running, Status.CANCELLED)
    assert bench.take() is instruction
    bench.answer(instruction)
    assert bench.take() is waiting


def test_a_call_waits_behind_an_instruction_that_waits(bench: Bench) -> None:
    running = bench.ask("duck", SERVICE)
    bench.take()
    instruction, call = bench.ask("mug"), bench.ask("bear", SERVICE)
    bench.answer(running)
    assert instruction.result is None and bench.take() is instruction
    bench.answer(instruction)
    assert bench.take() is call


def test_calls_wait_for_each_other(bench: Bench) -> None:
    first = bench.ask("mug", SERVICE)
    bench.take()
    second = bench.ask("mug", SERVICE)
    assert not first.cancel.is_set() and second is not first
    bench.answer(first)
    assert bench.take() is second


# -- what a repetition is


def repeats(bench: Bench, text: str = "mug", by: Asker = TOPIC) -> str:
    asked = bench.requests.ask(text, by)
    assert asked.ticket is None
    return asked.request_id


@pytest.mark.parametrize("by", INSTRUCTIONS)
def test_the_same_words_are_a_repetition_while_the_first_waits_or_runs(bench: Bench, by: Asker) -> None:
    first = bench.ask()
    assert repeats(bench, by=by) == first.request_id
    bench.take()
    bench.later(60)
    assert repeats(bench, " mug ", by) == first.request_id, "the id is the one that will answer"
    assert not first.cancel.is_set()


@pytest.mark.parametrize("status", [Status.OK, Status.NO_OBJECT])
def test_the_same_words_are_a_repetition_shortly_after_an_answer_and_new_later(bench: Bench, status: Status) -> None:
    first = bench.ask()
    bench.answer(bench.take(), status)
    bench.now += 1.9
    assert repeats(bench) == first.request_id
    bench.now += 0.2
    assert bench.ask().request_id != first.request_id


@pytest.mark.parametrize("status", sorted(set(Status) - {Status.OK, Status.NO_OBJECT}))
def test_after_a_failure_the_same_words_are_new_at_once(bench: Bench, status: Status) -> None:
    first = bench.ask()
    bench.answer(bench.take(), status)
    assert bench.ask().request_id != first.request_id


def test_after_a_cancel_the_same_words_are_new_at_once(bench: Bench) -> None:
    first = bench.ask()
    bench.take()
    bench.requests.clear()
    assert bench.ask().request_id != first.request_id
    bench.answer(first, Status.OK)
    assert first.result and first.result.status is Status.CANCELLED, "an answer that comes after the cancel is dropped"
    bench.requests.clear()
    assert bench.ask().result is None, "cleared words are forgotten"


def test_other_words_in_between_make_the_same_words_new(bench: Bench) -> None:
    for text in ("mug", "duck"):
        bench.ask(text)
        bench.answer(bench.take())
    assert bench.ask("mug").result is None


def test_a_call_neither_repeats_nor_is_repeated(bench: Bench) -> None:
    call = bench.ask(by=SERVICE)
    bench.take()
    instruction = bench.ask()
    assert call.cancel.is_set(), "its answer is for its caller alone"
    bench.answer(call)
    bench.answer(bench.take())
    assert instruction.result and bench.ask(by=SERVICE).result is None


# -- when a deadline ends it


def test_a_request_that_waits_ends_at_its_deadline(bench: Bench) -> None:
    bench.rules = Rules(timeout=1.0)
    bench.requests.models("the models are loading: weights (30%)")
    ticket = bench.ask()
    bench.later(0.99)
    assert ticket.result is None
    bench.later(0.01)
    assert ticket.result and ticket.result.status is Status.TIMEOUT
    assert "1 s" in ticket.result.message and "30%" in ticket.result.message


def test_an_instruction_at_start_waits_for_the_models_and_its_time_begins_then(bench: Bench) -> None:
    bench.rules = Rules(timeout=1.0)
    bench.requests.models("the models are loading")
    ticket = bench.ask(by=PARAMETER)
    bench.later(1000)
    assert ticket.result is None
    bench.requests.models("")
    assert bench.take() is ticket and ticket.deadline == bench.now + 1.0


def test_a_request_that_runs_has_a_moment_to_end_by_itself_and_is_ended_then(bench: Bench) -> None:
    ticket = bench.ask(by=SERVICE, timeout=2.0)
    bench.take()
    bench.requests.begin(ticket, "the frame")
    bench.later(2.0 + GRACE / 2)
    assert ticket.result is None
    bench.later(GRACE / 2)
    assert ticket.result and ticket.result.status is Status.TIMEOUT and ticket.cancel.is_set()
    assert ticket.frame == "the frame"
    bench.answer(ticket)
    assert ticket.result.status is Status.TIMEOUT, "one end"


def test_a_worker_that_does_not_hear_a_cancel_keeps_nobody_waiting(bench: Bench) -> None:
    old = bench.ask()
    bench.take()
    bench.ask("duck")
    bench.later(GRACE)
    assert old.result and old.result.status is Status.CANCELLED and "newer" in old.result.message
    bench.answer(old)
    assert bench.said() == [("mug", Status.CANCELLED)], "and its answer comes too late"


# -- what ends everything


def test_clear_ends_the_instruction_and_what_runs_and_callers_move_up(bench: Bench) -> None:
    running = bench.ask(by=SERVICE)
    bench.take()
    waiting = bench.ask("mug 2", SERVICE)
    bench.requests.clear()
    assert running.cancel.is_set() and waiting.result is None
    bench.answer(running, Status.CANCELLED)
    assert bench.take() is waiting


@pytest.mark.parametrize("ending", ["close", "disable"])
def test_closing_and_disabling_end_all(bench: Bench, ending: str) -> None:
    running = bench.ask()
    bench.take()
    calls = [bench.ask(f"mug {n}", SERVICE) for n in range(3)]
    if ending == "close":
        bench.requests.close("the node is not active")
    else:
        bench.requests.enable(False)
    assert running.cancel.is_set()
    assert [t.result and t.result.status for t in (running, *calls)] == [Status.CANCELLED] * 4, "and at once"
    bench.answer(running)
    assert bench.said() == [("mug", Status.CANCELLED)]


def test_a_failed_load_answers_what_waited_with_its_reason(bench: Bench) -> None:
    bench.requests.models("the models are loading")
    ticket = bench.ask(by=PARAMETER)
    bench.requests.fail("loading failed: no weights")
    assert ticket.result and ticket.result.status is Status.NOT_READY and "no weights" in ticket.result.message


def test_after_a_failed_load_everybody_is_refused_with_its_reason_until_the_next_one(bench: Bench) -> None:
    bench.requests.fail("loading failed: no weights")
    for by in Asker:
        refused = bench.ask(by=by)
        assert refused.result and refused.result.status is Status.NOT_READY and "no weights" in refused.result.message
    bench.requests.models("the models are loading")
    assert bench.ask().result is None


def test_a_delivery_that_fails_keeps_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    def fail(ticket: Ticket) -> None:
        raise RuntimeError("on purpose")

    requests = Requests(deliver=fail)
    requests.open()
    ticket = requests.ask("mug", TOPIC).ticket
    requests.close("the end")
    assert ticket and ticket.ended.is_set() and "could not be handed over" in caplog.text


def test_two_workers_may_have_a_request_each_and_both_end_in_time(bench: Bench) -> None:
    first = bench.ask("mug", SERVICE, timeout=1.0)
    bench.take()
    second = bench.ask("duck", SERVICE, timeout=2.0)
    bench.take()
    bench.later(1.0 + GRACE)
    assert first.result and second.result is None
    bench.later(1.0)
    assert second.result and second.result.status is Status.TIMEOUT


# -- continuous mode


@pytest.fixture
def standing() -> Bench:
    return Bench(continuous=True)


def test_a_standing_instruction_is_asked_again_under_its_id(standing: Bench) -> None:
    first = standing.ask()
    for _ in range(3):
        ticket = standing.take()
        assert ticket.request_id == first.request_id
        standing.answer(ticket)
    assert standing.said() == [("mug", Status.OK)] * 3


def test_the_standing_words_are_a_repetition_at_any_time(standing: Bench) -> None:
    first = standing.ask()
    standing.answer(standing.take())
    standing.now += 1000
    assert repeats(standing) == first.request_id


def test_a_failure_of_a_series_is_said_once_until_something_else_happens(standing: Bench) -> None:
    standing.ask()
    stale, ok, unread = Status.STALE_IMAGE, Status.OK, Status.PARSE_ERROR
    for status in (stale, stale, ok, ok, stale, stale, unread, unread):
        standing.answer(standing.take(), status)
    assert [s for _, s in standing.said()] == [stale, ok, ok, stale, unread, unread]


def test_after_a_missing_frame_was_said_a_round_waits_for_the_next_one(standing: Bench) -> None:
    standing.ask()
    ticket = standing.take()
    assert not ticket.patient
    standing.answer(ticket, Status.NO_IMAGE)
    assert standing.take().patient


def test_a_round_that_waits_for_a_frame_has_no_deadline_and_one_that_reasons_has(standing: Bench) -> None:
    standing.ask()
    standing.answer(standing.take())
    ticket = standing.take()
    standing.later(1000)
    assert ticket.result is None
    standing.requests.begin(ticket, "frame")
    standing.later(120 + GRACE)
    assert ticket.result and ticket.result.status is Status.TIMEOUT


def test_a_call_comes_between_two_rounds_and_the_series_says_nothing_of_it(standing: Bench) -> None:
    series = standing.ask()
    running = standing.take()
    call = standing.ask("duck", SERVICE)
    standing.answer(running, Status.CANCELLED)
    assert standing.take() is call
    standing.answer(call)
    again = standing.take()
    assert again.request_id == series.request_id and standing.said() == []


@pytest.mark.parametrize("ending", ["clear", "close", "disable", "another instruction", "once"])
def test_a_series_that_is_stopped_has_one_end(standing: Bench, ending: str) -> None:
    standing.ask()
    running = standing.take()
    ends = {
        "clear": standing.requests.clear,
        "close": lambda: standing.requests.close("the node is not active"),
        "disable": lambda: standing.requests.enable(False),
        "another instruction": lambda: standing.ask("duck"),
        "once": lambda: standing.ask("duck", COMMAND, once=True),
    }
    ends[ending]()
    standing.later(GRACE)
    standing.answer(running)
    assert standing.said() == [("mug", Status.CANCELLED)]
    standing.stop.set()
    left = standing.requests.take(standing.stop)
    assert left is None or left.instruction == "duck"


def test_a_series_between_two_rounds_ends_without_a_word(standing: Bench) -> None:
    standing.ask()
    standing.answer(standing.take())
    waiting = standing.take()  # for a newer frame
    standing.requests.clear()
    standing.answer(waiting, Status.CANCELLED)
    assert standing.said() == [("mug", Status.OK)]


@pytest.mark.parametrize("ending", ["clear", "mode", "close"])
def test_a_series_whose_round_was_given_up_for_a_call_still_has_its_end(standing: Bench, ending: str) -> None:
    series = standing.ask()
    running = standing.take()
    standing.ask("duck", SERVICE)
    standing.answer(running, Status.CANCELLED)
    standing.take()
    if ending == "mode":
        standing.rules = Rules(continuous=False)
        standing.requests.follow_rules()
    elif ending == "clear":
        standing.requests.clear()
    else:
        standing.requests.close("the end")
    assert [(t.request_id, t.result and t.result.status) for t in standing.delivered] == [
        (series.request_id, Status.CANCELLED)
    ]


def test_words_that_were_asked_once_stand_when_they_come_again_to_stand(standing: Bench) -> None:
    once = standing.ask("mug", COMMAND, once=True)
    running = standing.take()
    assert repeats(standing) == once.request_id
    standing.answer(running)
    assert standing.take().request_id == once.request_id, "and are asked again"


def test_standing_words_that_are_asked_once_are_a_new_request_and_stand_no_more(standing: Bench) -> None:
    standing.ask()
    standing.answer(standing.take())
    standing.now += 10
    once = standing.ask("mug", COMMAND, once=True)
    assert standing.take() is once
    standing.answer(once)
    assert standing.requests._policy.next() is None


def test_a_series_ends_with_the_mode(standing: Bench) -> None:
    standing.ask()
    standing.answer(standing.take())
    standing.rules = Rules(continuous=False)
    duck = standing.ask("duck")
    assert standing.take() is duck
    standing.answer(duck)
    assert standing.requests._policy.next() is None


# -- races


def test_a_worker_that_waits_is_woken_by_a_request_and_by_its_stop(bench: Bench) -> None:
    taken: list[Ticket | None] = []

    def work() -> None:
        for _ in range(2):
            taken.append(bench.requests.take(bench.stop))

    thread = threading.Thread(target=work)
    thread.start()
    ticket = bench.ask()
    while not taken and thread.is_alive():
        thread.join(0.001)
    bench.stop.set()
    bench.requests.wake()
    thread.join(PATIENCE)
    assert taken == [ticket, None]


def test_a_deadline_ends_a_request_without_anybody_looking() -> None:
    requests = Requests(lambda: Rules(timeout=0.05))
    requests.open()
    requests.models("")
    stop = Cancel()
    watch = threading.Thread(target=requests.watch_deadlines, args=(stop,))
    watch.start()
    ticket = requests.ask("mug", TOPIC).ticket
    assert ticket is not None and ticket.ended.wait(PATIENCE)
    assert ticket.result and ticket.result.status is Status.TIMEOUT
    stop.set()
    requests.wake()
    watch.join(PATIENCE)
    assert not watch.is_alive()


def test_a_caller_that_waits_needs_nobody_else_to_end() -> None:
    requests = Requests()
    requests.open()
    requests.models("")
    ticket = requests.ask("mug", SERVICE, timeout=0.05).ticket
    assert ticket is not None and requests.wait(ticket).status is Status.TIMEOUT


STORM = st.lists(
    st.sampled_from(
        (
            *("topic", "command", "call", "goal", "click", "cancel", "clear"),
            *("enable", "disable", "open", "close", "take", "finish", "late"),
        )
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(STORM, st.booleans())
@example(["topic", "topic", "topic", "topic", "take", "finish", "take"], True)  # given up, then waiting for a frame
@example(["topic", "take", "call", "late"], True)  # given up and ended by force, while the worker still has it
def test_whatever_happens_every_request_ends_once(storm: list[str], continuous: bool) -> None:
    bench = Bench(continuous=continuous)
    asked: list[Ticket] = []
    running: list[Ticket] = []
    for n, what in enumerate(storm):
        if by := {"topic": TOPIC, "command": COMMAND, "call": SERVICE, "goal": ACTION, "click": Asker.CLICK}.get(what):
            wish = Wish(prompts=(Prompt(),) if by is Asker.CLICK else ())
            ticket = bench.requests.ask(f"mug {n % 3}", by, once=what == "command", wish=wish).ticket
            asked += [ticket] if ticket else []
        elif what == "cancel" and asked:
            bench.requests.cancel(asked[n % len(asked)], "cancelled by the client")
        elif what == "take" and not running and (ticket := bench.requests._policy.next()):
            running.append(ticket)
        elif what == "finish" and running:
            bench.answer(running.pop(), list(Status)[n % len(Status)])
        elif what == "late":
            bench.later(200)
        elif what in ("clear", "open", "close", "enable", "disable"):
            {
                "clear": bench.requests.clear,
                "open": bench.requests.open,
                "close": lambda: bench.requests.close("closed"),
                "enable": lambda: bench.requests.enable(True),
                "disable": lambda: bench.requests.enable(False),
            }[what]()
    bench.requests.close("the end")
    bench.later(1000)
    assert all(t.result is not None and t.ended.is_set() for t in asked)
    assert len({id(t) for t in bench.delivered}) == len(bench.delivered)
    ends = {d.request_id for d in bench.delivered}
    assert all(t.request_id in ends for t in asked if t.by is not SERVICE), (
        "and everybody who was given an id hears of it"
    )
    assert not any(t.by is SERVICE for t in bench.delivered)


def test_from_many_threads_each_caller_gets_its_own_answer() -> None:
    requests, stop = Requests(), Cancel()
    requests.open()
    requests.models("")

    def work() -> None:
        while (ticket := requests.take(stop)) is not None:
            requests.finish(ticket, Segmentation(Status.OK, ticket.instruction, ticket.instruction, 0, 0))

    results: dict[str, Segmentation] = {}

    def call(text: str) -> None:
        ticket = requests.ask(text, SERVICE).ticket
        assert ticket
        results[text] = requests.wait(ticket)

    worker = threading.Thread(target=work)
    worker.start()
    callers = [threading.Thread(target=call, args=(f"mug {n}",)) for n in range(40)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(PATIENCE)
    stop.set()
    requests.wake()
    worker.join(PATIENCE)
    assert len(results) == 40
    for text, result in results.items():
        assert result.instruction == text and result.status in (Status.OK, Status.BUSY)


def test_the_table_of_the_decisions_page_names_tests_that_there_are() -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "decisions" / "requests.md"
    named = {part for part in page.read_text(encoding="utf-8").split("`") if part.startswith("test_")}
    assert named and named <= globals().keys() | GOAL_TESTS
