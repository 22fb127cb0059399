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
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from segzero_ros.core.contract import Cancel, Segmentation, SegzeroError, Status
from segzero_ros.core.prompt import MAX_CHARS, validate_instruction

log = logging.getLogger(__name__)

MAX_CALLS = 10  # callers that may wait at the same time
GRACE = 0.5  # seconds that the worker has to end a request by itself, after its deadline or its cancel


class Asker(Enum):
    """Where a request comes from. All but SERVICE are instructions: their answers are published."""

    TOPIC = "~/instruction"
    COMMAND = "~/set_instruction"
    PARAMETER = "the parameter instruction"
    SERVICE = "~/segment"


@dataclass(frozen=True)
class Rules:
    """The settings of the moment: seconds, seconds, characters, and whether an instruction stands."""

    timeout: float = 120.0
    repeat_gap: float = 2.0
    max_chars: int = MAX_CHARS
    continuous: bool = False


@dataclass(eq=False)
class _Series:
    """An instruction of continuous mode, asked again on newer frames.

    last: how its round before ended. owed: its last round was given up without a word, or there has been none yet.
    """

    instruction: str
    request_id: str
    by: Asker
    last: Status | None = None
    owed: bool = True

    def is_news(self, status: Status) -> bool:
        """Whether a round that ended so is published: a failure is said once, an interruption not at all."""
        if status is Status.CANCELLED:
            self.owed = True
            return False
        self.owed = False
        before, self.last = self.last, status
        answers = (Status.OK, Status.NO_OBJECT, Status.PARSE_ERROR)  # each about a frame of its own
        return status in answers or status is not before


@dataclass(eq=False)
class Ticket:
    """One request. Its `result` is None until it has ended, and never changes after that.

    asked, deadline: seconds of the clock; a deadline of None begins to count when the request is taken.
    image: a message to reason about, or None for the camera. frame: what it is reasoned about, once that is known.
    """

    request_id: str
    instruction: str
    by: Asker
    asked: float
    timeout: float
    deadline: float | None
    image: Any = None
    frame: Any = None
    cancel: Cancel = field(default_factory=Cancel)
    result: Segmentation | None = None
    series: _Series | None = None
    again: bool = False  # a later round of its series
    reason: str = ""  # why it was cancelled
    cancelled: float | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def repeatable(self) -> bool:
        """Whether its answer is still to come, and for everybody."""
        return self.by is not Asker.SERVICE and self.result is None and not self.cancel.is_set()

    @property
    def patient(self) -> bool:
        """Whether it waits for a frame for ever: its series has said already that there is none."""
        return self.again and self.series is not None and self.series.last in (Status.NO_IMAGE, Status.STALE_IMAGE)


@dataclass(frozen=True)
class Asked:
    """request_id: of the answer. ticket: the new request, or None where an earlier one with the same words answers.

    refusal: why it was not taken; the ticket has ended then.
    """

    request_id: str
    ticket: Ticket | None
    refusal: SegzeroError | None = None


class _Gate:
    """Whether anybody may ask. `closed` and `loading` are reasons, empty when there are none. No lock of its own."""

    def __init__(self) -> None:
        self.closed = "the node is not active"
        self.loading = "the models are not loaded"
        self.failed = ""  # why there will be no models
        self.enabled = True

    def refusing(self) -> str:
        return self.closed or ("" if self.enabled else "disabled by ~/enable")

    def refusal(self, by: Asker, calls: int) -> SegzeroError | None:
        if why := self.refusing() or self.failed:
            return SegzeroError(Status.NOT_READY, why)
        if by is Asker.SERVICE and self.loading:
            return SegzeroError(Status.NOT_READY, self.loading)
        if by is Asker.SERVICE and calls >= MAX_CALLS:
            return SegzeroError(Status.BUSY, f"{MAX_CALLS} calls of ~/segment wait already")
        return None


class _Line:
    """What waits and what runs: one instruction, which goes first, and calls in their order. No lock of its own.

    Several may run where several workers take.
    """

    def __init__(self) -> None:
        self.instruction: Ticket | None = None
        self.calls: deque[Ticket] = deque()
        self.running: list[Ticket] = []

    def put(self, ticket: Ticket) -> None:
        if ticket.by is Asker.SERVICE:
            self.calls.append(ticket)
        else:
            self.instruction = ticket

    def next(self) -> Ticket | None:
        if self.instruction:
            ticket, self.instruction = self.instruction, None
            return ticket
        return self.calls.popleft() if self.calls else None

    def remove(self, ticket: Ticket) -> None:
        if ticket is self.instruction:
            self.instruction = None
        else:
            self.calls.remove(ticket)

    def waiting(self) -> list[Ticket]:
        return [*([self.instruction] if self.instruction else []), *self.calls]

    def unended(self) -> list[Ticket]:
        return self.waiting() + [t for t in self.running if t.result is None]

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
        self._series: _Series | None = None
        self._answered: tuple[Ticket, float] | None = None

    def ask(self, ticket: Ticket, problem: SegzeroError | None, rules: Rules, once: bool) -> Asked:
        refusal = self.gate.refusal(ticket.by, len(self.line.calls)) or problem
        if refusal:
            self._end(ticket, refusal.status, refusal.message)
            return Asked(ticket.request_id, ticket, refusal)
        if ticket.by is Asker.SERVICE:
            reason = "replaced by a call of ~/segment"
            for running in self.line.running:
                if running.by is not Asker.SERVICE:  # calls wait for each other
                    self._cancel(running, reason)
        else:
            standing = rules.continuous and not once
            if earlier := self._repeated(ticket, rules.repeat_gap, standing):
                return Asked(earlier, None)
            self.forget("replaced by a newer instruction")
            if standing:
                ticket.series = self._series = _Series(ticket.instruction, ticket.request_id, ticket.by)
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
            result = replace(result, status=Status.CANCELLED, message=ticket.reason, instances=())
        self._finish(ticket, result)

    def forget(self, reason: str) -> None:
        """Ends the instruction, the series and what runs."""
        self._answered = None
        series, self._series = self._series, None
        if waiting := self.line.instruction:
            self.line.remove(waiting)
            self._end(waiting, Status.CANCELLED, f"cancelled before it began: {reason}")
        for running in self.line.running:
            self._cancel(running, reason)
        if series and series.owed and not any(t.series is series for t in (waiting, *self.line.running) if t):
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
                self._end(ticket, Status.CANCELLED, ticket.reason)
            else:
                ticket.cancel.set()
                self._end(ticket, Status.TIMEOUT, f"there was no answer within {ticket.timeout:g} s")

    def next_due(self) -> float:
        return min((self.line.due(t) for t in self.line.unended()), default=float("inf"))

    def _repeated(self, ticket: Ticket, gap: float, standing: bool) -> str | None:
        """Id of the instruction with the same words that waits, runs, stands, or was answered within `gap` seconds.

        Words that are to stand repeat an instruction that was asked once, which stands then; not the other way round.
        """
        other = self.line.asking(ticket.instruction)
        if other and (standing or other.series is None):
            if standing and other.series is None:
                other.series = self._series = _Series(other.instruction, other.request_id, other.by)
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
        if self._series is None:
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
                if result.status in (Status.OK, Status.NO_OBJECT):
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

    def ask(self, text: str, by: Asker, *, image: Any = None, timeout: float = 0.0, once: bool = False) -> Asked:
        """Takes, repeats or refuses; a refusal is a ticket that has ended. timeout: seconds, 0 for the rules'."""
        rules, now = self._rules(), self._clock()
        seconds = timeout or rules.timeout
        # An instruction at start waits for models that take minutes; its time begins when it is taken.
        deadline = None if by is Asker.PARAMETER else now + seconds
        ticket = Ticket(uuid.uuid4().hex, text[:200], by, now, seconds, deadline, image)
        problem = None
        try:
            ticket.instruction = validate_instruction(text, max_chars=rules.max_chars)
        except SegzeroError as error:
            problem = error
        with self._locked() as policy:
            asked = policy.ask(ticket, problem, rules, once)
        self._on_cancel()
        return asked

    def wait(self, ticket: Ticket) -> Segmentation:
        """Blocks until the request has ended."""
        while not ticket.ended.wait(min(0.25, max(0.01, self._policy.line.due(ticket) - self._clock()))):
            self.expire()
        assert ticket.result is not None
        return ticket.result

    def refusing(self) -> str:
        """Why requests are refused, or ""."""
        return self._policy.gate.refusing()

    # -- who ends

    def clear(self) -> None:
        """Ends the instruction and what runs; callers that wait move up."""
        with self._locked() as policy:
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
