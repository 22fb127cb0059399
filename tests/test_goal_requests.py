"""Goals of ~/ask and clicks in the table of docs/decisions/requests.md, a test for each row."""

from __future__ import annotations

import pytest

from segzero_ros.core.contract import Prompt, Status
from segzero_ros.core.requests import GRACE
from segzero_ros.core.tickets import Asker, Rules, Ticket, Wish
from tests.request_bench import Bench

ACTION, CLICK, SERVICE, TOPIC = Asker.ACTION, Asker.CLICK, Asker.SERVICE, Asker.TOPIC
CLICKED = Wish(prompts=(Prompt(points=((3.0, 4.0),), positive=(True,)),))


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def standing() -> Bench:
    return Bench(continuous=True)


def status(ticket: Ticket) -> Status | None:
    return ticket.result.status if ticket.result else None


def test_a_goal_waits_for_models_that_load_or_is_refused_as_the_rules_say(bench: Bench) -> None:
    bench.requests.models("the models are loading: weights (30%)")
    assert bench.ask(by=ACTION).result is None
    bench.rules = Rules(patient_goals=False)
    refused = bench.ask(by=ACTION)
    assert status(refused) is Status.NOT_READY and "30%" in refused.result.message  # type: ignore[union-attr]


def test_a_newer_goal_preempts_one_that_waits_and_one_that_runs(bench: Bench) -> None:
    first = bench.ask("mug", ACTION)
    assert bench.take() is first
    second = bench.ask("duck", ACTION)
    third = bench.ask("ball", ACTION)
    assert status(second) is Status.CANCELLED and "newer goal" in second.result.message  # type: ignore[union-attr]
    assert first.cancel.is_set() and first.result is None, "it ends by itself before its next token"
    bench.answer(first)
    assert status(first) is Status.CANCELLED and bench.take() is third


def test_the_same_words_are_no_repetition_of_a_goal(bench: Bench) -> None:
    first = bench.ask("mug", ACTION)
    assert bench.ask("mug", ACTION) is not first and status(first) is Status.CANCELLED
    bench.answer(bench.take())
    assert bench.ask("mug", TOPIC).result is None, "nor does an instruction repeat it"


def test_words_that_come_again_after_a_goal_are_new(bench: Bench) -> None:
    bench.ask("mug")
    bench.answer(bench.take())
    bench.ask("duck", ACTION)
    bench.answer(bench.take())
    assert bench.ask("mug").result is None, "the topics show the duck by now"


def test_a_goal_stops_an_instruction_that_waits_or_runs(bench: Bench) -> None:
    running = bench.ask("mug")
    bench.take()
    goal = bench.ask("duck", ACTION)
    assert running.cancel.is_set()
    bench.answer(running)
    assert status(running) is Status.CANCELLED and bench.take() is goal
    bench.answer(goal)
    waiting = bench.ask("ball")
    bench.ask("duck", ACTION)
    assert status(waiting) is Status.CANCELLED


def test_a_goal_stops_a_call_that_runs_and_goes_before_those_that_wait(bench: Bench) -> None:
    running, waiting = bench.ask("mug", SERVICE), bench.ask("ball", SERVICE)
    bench.take()
    goal = bench.ask("duck", ACTION)
    assert running.cancel.is_set()
    bench.answer(running)
    assert bench.take() is goal
    bench.answer(goal)
    assert bench.take() is waiting


@pytest.mark.parametrize("by", [a for a in Asker if a is not ACTION])
@pytest.mark.parametrize("runs", [False, True])
def test_while_a_goal_waits_or_runs_everybody_else_is_busy(bench: Bench, by: Asker, runs: bool) -> None:
    goal = bench.ask("the red mug", ACTION)
    if runs:
        bench.take()
    refused = bench.ask("duck", by, wish=CLICKED if by is CLICK else Wish())
    assert status(refused) is Status.BUSY and goal.result is None
    assert goal.request_id[:8] in refused.result.message and "the red mug" in refused.result.message  # type: ignore[union-attr]


def test_a_goal_that_was_cancelled_keeps_nobody_away(bench: Bench) -> None:
    goal = bench.ask("mug", ACTION)
    bench.take()
    bench.requests.cancel(goal, "cancelled by its client")
    assert bench.ask("duck").result is None


def test_a_cancel_ends_a_goal_that_waits_at_once_and_tells_how_long_a_running_one_took(bench: Bench) -> None:
    waiting = bench.ask("mug", ACTION)
    bench.requests.cancel(waiting, "cancelled by its client")
    assert status(waiting) is Status.CANCELLED and "before it began" in waiting.result.message  # type: ignore[union-attr]
    running = bench.ask("duck", ACTION)
    bench.take()
    bench.requests.cancel(running, "cancelled by its client")
    bench.now += 0.25
    bench.answer(running)
    assert running.result and running.result.message == "cancelled by its client; it stopped after 0.25 s"


def test_a_goal_whose_model_does_not_look_up_ends_by_force(bench: Bench) -> None:
    goal = bench.ask("mug", ACTION)
    bench.take()
    bench.requests.cancel(goal, "cancelled by its client")
    bench.later(GRACE)
    assert status(goal) is Status.CANCELLED
    bench.answer(goal)
    assert len(bench.delivered) == 1, "its late answer is dropped"


def test_a_goal_ends_at_its_own_deadline_whoever_still_listens(bench: Bench) -> None:
    goal = bench.ask("mug", ACTION, timeout=3.0)
    bench.later(3.0)
    assert status(goal) is Status.TIMEOUT


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("what", ["clear", "disable", "close"])
def test_clear_disable_and_deactivate_end_a_goal(bench: Bench, what: str, runs: bool) -> None:
    goal = bench.ask("mug", ACTION)
    if runs:
        bench.take()
    {
        "clear": bench.requests.clear,
        "disable": lambda: bench.requests.enable(False),
        "close": lambda: bench.requests.close("the node is not active"),
    }[what]()
    bench.later(GRACE)
    assert status(goal) is Status.CANCELLED


def test_a_standing_instruction_pauses_for_a_goal_and_goes_on_without_a_word(standing: Bench) -> None:
    series = standing.ask("mug")
    standing.answer(standing.take())
    a_round = standing.take()
    goal = standing.ask("duck", ACTION)
    assert a_round.cancel.is_set()
    standing.answer(a_round)
    assert standing.take() is goal
    assert standing.requests._policy.next() is None, "paused also where several workers take"
    standing.answer(goal)
    again = standing.take()
    assert again.request_id == series.request_id
    standing.answer(again)
    assert [s for s, _ in standing.said()] == ["mug", "duck", "mug"]


def test_a_standing_instruction_that_has_not_begun_stands_after_the_goal(standing: Bench) -> None:
    series = standing.ask("mug")
    goal = standing.ask("duck", ACTION)
    assert standing.take() is goal
    standing.answer(goal)
    assert standing.take().request_id == series.request_id


def test_the_mode_may_change_while_a_goal_runs(standing: Bench) -> None:
    standing.ask("mug")
    goal = standing.ask("duck", ACTION)
    standing.take()
    standing.rules = Rules(continuous=False)
    standing.requests.follow_rules()
    assert not goal.cancel.is_set() and standing.said() == [("mug", Status.CANCELLED)]


def test_the_answers_of_goals_are_for_everybody(bench: Bench) -> None:
    goal = bench.ask("mug", ACTION)
    bench.answer(bench.take())
    assert bench.delivered == [goal]


def test_a_click_is_an_instruction_that_repeats_nothing(bench: Bench) -> None:
    first = bench.ask("", CLICK, wish=CLICKED)
    second = bench.ask("", CLICK, wish=CLICKED)
    assert status(first) is Status.CANCELLED and second.result is None
    bench.answer(bench.take())
    third = bench.ask("", CLICK, wish=CLICKED)
    assert third.result is None and bench.ask("mug").result is None and status(third) is Status.CANCELLED


def test_a_click_does_not_stand(standing: Bench) -> None:
    standing.ask("", CLICK, wish=CLICKED)
    standing.answer(standing.take())
    assert standing.requests._policy.next() is None


def test_prompts_need_no_words_and_words_beside_them_are_checked(bench: Bench) -> None:
    assert bench.ask(" ", ACTION, wish=CLICKED).instruction == ""
    assert status(bench.ask("x" * 2001, ACTION, wish=CLICKED)) is Status.BAD_INSTRUCTION
    assert status(bench.ask(" ", ACTION)) is Status.BAD_INSTRUCTION


GOAL_TESTS = {name for name in globals() if name.startswith("test_")}
