"""Who may ask, what waits, what replaces what, what a repetition is, and how each request ends.

Every request ends exactly once and in time. One lock, and no thread of its own: askers call `ask`, a worker calls
`take`, `begin` and `finish`, and somebody runs `watch_deadlines`. What ended and is for everybody is handed to
`deliver` in order. docs/decisions/requests.md has the table of states, tests/test_requests.py a test for each row.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from segzero_ros.core.contract import Cancel, Segmentation, SegzeroError, Status
from segzero_ros.core.prompt import validate_instruction
from segzero_ros.core.text import one_line
from segzero_ros.core.tickets import Asked, Asker, Rules, Series, Ticket, Wish

log = logging.getLogger(__name__)

MAX_CALLS = 10  # callers that may wait at the same time
GRACE = 0.5  # seconds that the worker has to end a request by itself, after its deadline or its cancel


class _Gate:
    """Whether anybody may ask. `closed` and `loading` are reasons, empty when there are none. No lock of its own."""

    def __init__(self) -> None:
        self.closed = "the node is not active"
        self.loading = "the models are not loaded"
        self.failed = ""  # why there will be no models
        self.enabled = True

    def refusing(self) -> str:
        return self.closed or ("" if self.enabled else "disabled by ~/enable")

    def refusal(self, by: Asker, rules: Rules) -> SegzeroError | None:
        hasty = by is Asker.SERVICE or (by is Asker.ACTION and not rules.patient_goals)
        if why := self.refusing() or self.failed or (self.loading if hasty else ""):
            return SegzeroError(Status.NOT_READY, why)
        return None


class _Line:
    """What waits and what runs: a goal, which goes first, an instruction, and calls in their order. No lock of its own.

    Several may run where several workers take.
    """

    def __init__(self) -> None:
        self.goal: Ticket | None = None
        self.instruction: Ticket | None = None
        self.calls: deque[Ticket] = deque()
        self.running: list[Ticket] = []

    def put(self, ticket: Ticket) -> None:
        if ticket.by is Asker.SERVICE:
            self.calls.append(ticket)
        elif ticket.by is Asker.ACTION:
            self.goal = ticket
        else:
            self.instruction = ticket

    def next(self) -> Ticket | None:
        ticket = next(iter(self.waiting()), None)
        if ticket:
            self.remove(ticket)
        return ticket

    def remove(self, ticket: Ticket) -> None:
        if ticket is self.goal:
            self.goal = None
        elif ticket is self.instruction:
            self.instruction = None
        else:
            self.calls.remove(ticket)

    def waiting(self) -> list[Ticket]:
        """In the order in which they are taken."""
        return [*(t for t in (self.goal, self.instruction) if t), *self.calls]

    def living_goal(self) -> Ticket | None:
        """The goal that waits or runs; one that was cancelled keeps nobody away."""
        return next((t for t in self.unended() if t.by is Asker.ACTION and t.cancelled is None), None)

    def unended(self) -> list[Ticket]:
        return self.waiting() + [t for t in self.running if t.result is None]

    def refusal(self, by: Asker) -> SegzeroError | None:
        """Why there is no room."""
        if by is Asker.ACTION:
            return None
        if goal := self.living_goal():
            name = f'{goal.request_id[:8]} "{one_line(goal.instruction, 40)}"'
            return SegzeroError(Status.BUSY, f"the goal {name} of ~/ask runs; cancel it, or ask by a goal")
        if by is Asker.SERVICE and len(self.calls) >= MAX_CALLS:
            return SegzeroError(Status.BUSY, f"{MAX_CALLS} calls of ~/segment wait already")
        return None

    def due(self, ticket: Ticket) -> float:
        """When the request is ended by force: one that runs has a moment to end by itself."""
        due = float("inf") if ticket.deadline is None else ticket.deadline + (GRACE if ticket in self.running else 0.0)
        return due if ticket.cancelled is None else min(due, ticket.cancelled + GRACE)

    def asking(self, words: str) -> Ticket | None:
        """The instruction with these words whose answer is still to come."""
        return next((t for t in self.unended() if t.repeatable and t.instruction == words), None)


class _Policy:
    """The rules, for one thread at a time: the gate, the line, what stands and what was answered."""

    def __init__(
        self, rules: Callable[[], Rules], deliver: Callable[[Ticket], None], clock: Callable[[], float]
    ) -> None:
        self.rules = rules
        self.deliver = deliver
        self.clock = clock
        self.gate = _Gate()
        self.line = _Line()
        self._series: Series | None = None
        self._answered: tuple[Ticket, float] | None = None

    def ask(self, ticket: Ticket, problem: SegzeroError | None, rules: Rules, once: bool) -> Asked:
        refusal = self.gate.refusal(ticket.by, rules) or self.line.refusal(ticket.by) or problem
        if refusal:
            ticket.refused = True
            self._end(ticket, refusal.status, refusal.message)
            return Asked(ticket.request_id, ticket, refusal)
        if ticket.by is Asker.ACTION:
            self._answered = None  # the topics will show another answer
            self.end_goal("preempted by a newer goal of ~/ask")
            self._make_room("replaced by a goal of ~/ask", calls=True)
            if waiting := self.line.instruction:
                self.line.remove(waiting)
                self._end(waiting, Status.CANCELLED, "cancelled before it began: replaced by a goal of ~/ask")
        elif ticket.by is Asker.SERVICE:
            self._make_room("replaced by a call of ~/segment", calls=False)
        else:
            standing = rules.continuous and not once and not ticket.wish.prompts
            if not ticket.wish.prompts and (earlier := self._repeated(ticket, rules.repeat_gap, standing)):
                return Asked(earlier, None)
            self.forget("replaced by a newer instruction")
            if standing:
                ticket.series = self._series = Series(ticket.instruction, ticket.request_id, ticket.by)
        self.line.put(ticket)
        return Asked(ticket.request_id, ticket)

    def next(self) -> Ticket | None:
        ticket = self.line.next() or self._round()
        if ticket:
            self.line.running.append(ticket)
            if ticket.deadline is None and not ticket.again:
                ticket.deadline = self.clock() + ticket.timeout
        return ticket

    def begin(self, ticket: Ticket, frame: Any) -> None:
        ticket.frame = frame
        if ticket.deadline is None:
            ticket.deadline = self.clock() + ticket.timeout

    def finish(self, ticket: Ticket, result: Segmentation) -> None:
        """Ends the request unless it has ended. One that was cancelled meanwhile has no other end."""
        if ticket in self.line.running:
            self.line.running.remove(ticket)
        if ticket.cancelled is not None:
            result = replace(result, status=Status.CANCELLED, message=self._reason(ticket), instances=(), scene=None)
        self._finish(ticket, result)

    def cancel(self, ticket: Ticket, reason: str) -> None:
        """Ends one request; nothing else changes."""
        if ticket in self.line.waiting():
            self.line.remove(ticket)
            self._end(ticket, Status.CANCELLED, f"cancelled before it began: {reason}")
        else:
            self._cancel(ticket, reason)

    def end_goal(self, reason: str) -> None:
        for ticket in self.line.unended():
            if ticket.by is Asker.ACTION:
                self.cancel(ticket, reason)

    def forget(self, reason: str) -> None:
        """Ends the instruction, the series and what runs but for a goal."""
        self._answered = None
        series, self._series = self._series, None
        if waiting := self.line.instruction:
            self.line.remove(waiting)
            self._end(waiting, Status.CANCELLED, f"cancelled before it began: {reason}")
        self._make_room(reason, calls=True)
        to_come = [t for t in (waiting, *self.line.unended()) if t and t.series is series]
        if series and series.owed and not to_come:
            end = Ticket(series.request_id, series.instruction, series.by, self.clock(), 0.0, None)
            self._end(end, Status.CANCELLED, reason)

    def follow_rules(self) -> None:
        """A series ends with the mode."""
        if self._series and not self.rules().continuous:
            self.forget("mode is once now")

    def end_waiting(self, status: Status, message: str) -> None:
        for ticket in self.line.waiting():
            self.line.remove(ticket)
            self._end(ticket, status, message)

    def end_all(self, reason: str) -> None:
        """Nothing is left to end afterwards: the worker's late answers are dropped."""
        self.end_goal(reason)
        self.forget(reason)
        self.end_waiting(Status.CANCELLED, reason)
        for running in list(self.line.running):
            self._end(running, Status.CANCELLED, reason)

    def fail(self, message: str) -> None:
        self.gate.failed = message
        self._series = None
        self.end_waiting(Status.NOT_READY, message)

    def expire(self) -> None:
        now = self.clock()
        for ticket in self.line.unended():
            if now < self.line.due(ticket):
                continue
            if ticket not in self.line.running:
                self.line.remove(ticket)
                why = self.gate.loading or "others were before it"
                self._end(ticket, Status.TIMEOUT, f"it was not begun within {ticket.timeout:g} s: {why}")
            elif ticket.cancelled is not None:
                self._end(ticket, Status.CANCELLED, self._reason(ticket))
            else:
                ticket.cancel.set()
                self._end(ticket, Status.TIMEOUT, f"there was no answer within {ticket.timeout:g} s")

    def next_due(self) -> float:
        return min((self.line.due(t) for t in self.line.unended()), default=float("inf"))

    def _make_room(self, reason: str, calls: bool) -> None:
        """Stops what runs but for a goal; calls too if `calls`, else they go on and the next one waits."""
        for running in self.line.running:
            if running.is_instruction or (calls and running.by is Asker.SERVICE):
                self._cancel(running, reason)

    def _repeated(self, ticket: Ticket, gap: float, standing: bool) -> str | None:
        """Id of the instruction with the same words that waits, runs, stands, or was answered within `gap` seconds.

        Words that are to stand repeat an instruction that was asked once, which stands then; not the other way round.
        """
        other = self.line.asking(ticket.instruction)
        if other and (standing or other.series is None):
            if standing and other.series is None:
                other.series = self._series = Series(other.instruction, other.request_id, other.by)
            return other.request_id
        if self._series and standing and self._series.instruction == ticket.instruction:
            return self._series.request_id
        if self._answered and not standing:
            other, when = self._answered
            if other.instruction == ticket.instruction and 0 <= ticket.asked - when < gap:
                return other.request_id
        return None

    def _round(self) -> Ticket | None:
        """The standing instruction again."""
        self.follow_rules()
        if self._series is None or self.line.living_goal():
            return None
        s, seconds = self._series, self.rules().timeout
        return Ticket(s.request_id, s.instruction, s.by, self.clock(), seconds, None, series=s, again=True)

    def _end(self, ticket: Ticket, status: Status, message: str) -> None:
        self._finish(ticket, Segmentation(status, message, ticket.instruction, 0, 0))

    def _finish(self, ticket: Ticket, result: Segmentation) -> None:
        if ticket.result is not None:
            return
        ticket.result = result
        try:
            if self._is_said(ticket, result):
                self.deliver(ticket)
                if ticket.is_instruction and result.status in (Status.OK, Status.NO_OBJECT):
                    self._answered = (ticket, self.clock())
        except Exception:  # who waits must not wait for ever
            log.exception("an answer could not be handed over")
        finally:
            ticket.ended.set()

    def _is_said(self, ticket: Ticket, result: Segmentation) -> bool:
        """Whether the end is for everybody, and news."""
        if ticket.by is Asker.SERVICE:
            return False
        goes_on = ticket.series is not None and ticket.series is self._series
        if ticket.series and ticket.again and ticket.frame is None and result.status is Status.CANCELLED:
            # It waited for a frame: between two rounds nothing runs. But a round before may have ended without a word.
            return not goes_on and ticket.series.owed
        return not goes_on or ticket.series.is_news(result.status)  # type: ignore[union-attr]

    def _reason(self, ticket: Ticket) -> str:
        """Why it was cancelled; a goal's client is also told how long the stop took."""
        assert ticket.cancelled is not None
        took = self.clock() - ticket.cancelled
        return f"{ticket.reason}; it stopped after {took:.2f} s" if ticket.by is Asker.ACTION else ticket.reason

    def _cancel(self, running: Ticket, reason: str) -> None:
        if running.cancelled is None and running.result is None:
            running.cancelled, running.reason = self.clock(), reason
            running.cancel.set()


class Requests:
    """The rules under one lock. `deliver` is called with the lock held and must only hand the ticket over; `on_cancel`
    is called after whatever may cancel, without the lock, for who waits for a frame.
    """

    def __init__(
        self,
        rules: Callable[[], Rules] = Rules,
        deliver: Callable[[Ticket], None] = lambda ticket: None,
        on_cancel: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = _Policy(rules, deliver, clock)
        self._rules = rules
        self._on_cancel = on_cancel
        self._clock = clock
        self._changed = threading.Condition()

    @contextmanager
    def _locked(self) -> Iterator[_Policy]:
        with self._changed:
            yield self._policy
            self._changed.notify_all()

    # -- who asks

    def ask(
        self,
        text: str,
        by: Asker,
        *,
        wish: Wish = Wish(),  # noqa: B008 (immutable)
        timeout: float = 0.0,
        once: bool = False,
        problem: SegzeroError | None = None,
    ) -> Asked:
        """Takes, repeats or refuses; a refusal is a ticket that has ended. timeout: seconds, 0 for the rules'.

        text may be empty where `wish` has prompts. problem: why the asker's own look at the request refuses it.
        """
        rules, now = self._rules(), self._clock()
        seconds = timeout or rules.timeout
        # An instruction at start waits for models that take minutes; its time begins when it is taken.
        deadline = None if by is Asker.PARAMETER else now + seconds
        ticket = Ticket(uuid.uuid4().hex, text[:200], by, now, seconds, deadline, wish)
        try:
            blank = bool(wish.prompts) and not text.strip()
            ticket.instruction = "" if blank else validate_instruction(text, max_chars=rules.max_chars)
        except SegzeroError as error:
            problem = problem or error
        with self._locked() as policy:
            asked = policy.ask(ticket, problem, rules, once)
        self._on_cancel()
        return asked

    def wait(self, ticket: Ticket, meanwhile: Callable[[], None] = lambda: None, period: float = 0.25) -> Segmentation:
        """Blocks until the request has ended; `meanwhile` is called every `period` seconds until then."""
        while not ticket.ended.wait(min(period, max(0.01, self._policy.line.due(ticket) - self._clock()))):
            self.expire()
            meanwhile()
        assert ticket.result is not None
        return ticket.result

    def refusing(self) -> str:
        """Why requests are refused, or ""."""
        return self._policy.gate.refusing()

    # -- who ends

    def cancel(self, ticket: Ticket, reason: str) -> None:
        """Ends one request; nothing else changes."""
        with self._locked() as policy:
            policy.cancel(ticket, reason)
        self._on_cancel()

    def clear(self) -> None:
        """Ends the goal, the instruction and what runs; callers that wait move up."""
        with self._locked() as policy:
            policy.end_goal("cleared by ~/clear")
            policy.forget("cleared by ~/clear")
        self._on_cancel()

    def open(self) -> None:
        with self._locked() as policy:
            policy.gate.closed = ""

    def close(self, reason: str) -> None:
        """Ends everything, and refuses with this reason until `open`."""
        with self._locked() as policy:
            policy.gate.closed = reason
            policy.end_all(reason)
        self._on_cancel()

    def enable(self, on: bool) -> None:
        """Off ends everything and refuses until on."""
        with self._locked() as policy:
            policy.gate.enabled = on
            if not on:
                policy.end_all("disabled by ~/enable")
        self._on_cancel()

    def expire(self) -> None:
        """Ends what is over its time."""
        with self._changed:
            self._policy.expire()

    def watch_deadlines(self, stop: Cancel) -> None:
        """Ends each request when its time is over, until `stop` is set and `wake` called. For a thread of its own."""
        with self._changed:
            while not stop.is_set():
                due = float("inf")
                try:
                    self._policy.expire()
                    due = self._policy.next_due()
                except Exception:  # the thread is the only one that ends what nobody answers
                    log.exception("deadlines could not be looked at")
                    due = self._clock() + GRACE
                self._changed.wait(None if due == float("inf") else max(0.001, due - self._clock()))

    def follow_rules(self) -> None:
        """The mode may have changed."""
        with self._locked() as policy:
            policy.follow_rules()
        self._on_cancel()

    def wake(self) -> None:
        """Look at the stop flags now."""
        with self._locked():
            pass

    # -- who answers

    def models(self, missing: str) -> None:
        """missing: why there are none yet; empty when they are there. Calls are refused while there are none."""
        with self._locked() as policy:
            policy.gate.loading, policy.gate.failed = missing, ""

    def fail(self, message: str) -> None:
        """There will be no models: ends what waits."""
        with self._locked() as policy:
            policy.fail(message)

    def take(self, stop: Cancel) -> Ticket | None:
        """The next request, waiting for one; None when `stop` is set."""
        with self._changed:
            while not stop.is_set():
                ticket = self._policy.next()
                if ticket is not None:
                    self._changed.notify_all()
                    return ticket
                self._changed.wait()
        return None

    def begin(self, ticket: Ticket, frame: Any) -> None:
        """The frame that the request is about; a later end by force carries its header. Starts a round's time."""
        with self._locked() as policy:
            policy.begin(ticket, frame)

    def finish(self, ticket: Ticket, result: Segmentation) -> None:
        """The worker's answer; without effect where the request has ended by then."""
        with self._locked() as policy:
            policy.finish(ticket, result)
