"""The one thread that owns the models. No ROS here.

A slot for one request in front of it: a newer request takes the slot and cancels the one that runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from segzero_ros.core.contract import Cancel, OnProgress, SegzeroError

log = logging.getLogger(__name__)


class State(str, Enum):
    """What the worker does. The names are the constants of segzero_msgs/State."""

    LOADING = "LOADING"
    READY = "READY"
    REASONING = "REASONING"
    FAILED = "FAILED"
    UNLOADED = "UNLOADED"


@dataclass(frozen=True)
class Report:
    """One change of state. progress is 0 to 1 while LOADING."""

    state: State
    message: str = ""
    progress: float = 0.0
    instruction: str = ""


@dataclass(frozen=True, eq=False)
class Request:
    """One question to the models.

    image: a message to reason about, or None for the newest frame. deadline, submitted: time.monotonic() seconds.
    done: called once with the answer, from the worker's thread or from the thread that replaced the request.
    """

    request_id: str
    instruction: str
    deadline: float
    done: Callable[[Any], None]
    image: Any = None
    submitted: float = field(default_factory=time.monotonic)
    cancel: Cancel = field(default_factory=Cancel)


class Worker:
    """Loads, then serves one request after another until stopped.

    load(on_progress, cancel) returns the pipeline, serve(pipeline, request) the answer (it must not raise for failures
    that have a status), cancelled(request) the answer to a request that never ran, idle() the next
    request when the slot is empty, or None. wake() is called after each cancel, for a `serve` that waits for a frame.
    """

    def __init__(
        self,
        load: Callable[[OnProgress, Cancel], Any],
        serve: Callable[[Any, Request], Any],
        cancelled: Callable[[Request], Any],
        report: Callable[[Worker, Report], None],
        idle: Callable[[], Request | None] = lambda: None,
        wake: Callable[[], None] = lambda: None,
        after: Worker | None = None,
    ) -> None:
        self._load, self._serve, self._cancelled = load, serve, cancelled
        self._report, self._idle, self._wake = report, idle, wake
        self._after = after
        self._condition = threading.Condition()
        self._slot: Request | None = None
        self._running: Request | None = None
        self._stop = Cancel()
        self.ready = False
        self._thread = threading.Thread(target=self._run, name="segzero-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Put the request in the slot; what was there or runs is cancelled."""
        with self._condition:
            stopped = self._stop.is_set()
            replaced, self._slot = self._slot, None if stopped else request
            if self._running:
                self._running.cancel.set()
            self._condition.notify_all()
        self._wake()
        if replaced:
            self._hand_out(replaced, self._cancelled(replaced))
        if stopped:
            self._hand_out(request, self._cancelled(request))

    def cancel(self) -> bool:
        """Empty the slot and stop the running request before its next token. False when there was nothing."""
        with self._condition:
            replaced, self._slot = self._slot, None
            running = self._running
            if running:
                running.cancel.set()
        self._wake()
        if replaced:
            self._hand_out(replaced, self._cancelled(replaced))
        return bool(replaced or running)

    def instructions(self) -> tuple[str, ...]:
        """The texts that are queued or running."""
        with self._condition:
            return tuple(r.instruction for r in (self._running, self._slot) if r and not r.cancel.is_set())

    def poke(self) -> None:
        """Ask idle() again."""
        with self._condition:
            self._condition.notify_all()

    def stop(self) -> None:
        """Cancel everything and let the thread end; returns at once."""
        with self._condition:  # no report comes after this
            self._stop.set()
        self.cancel()
        self.poke()

    def join(self, deadline: float) -> bool:
        """Wait at most `deadline` seconds for the thread. True when it has ended."""
        if self._thread.ident is None:
            return True
        self._thread.join(max(0.0, deadline))
        return not self._thread.is_alive()

    def _run(self) -> None:
        if self._after is not None:  # two loads at once would need the memory twice
            if self._after._thread.ident is not None:
                self._after._thread.join()
            self._after = None
        try:
            self._tell(Report(State.LOADING, "starting to load"))
            pipeline = self._load(lambda p, text: self._tell(Report(State.LOADING, text, p)), self._stop)
        except Exception as error:  # hostile files raise anything; the sentence goes to ~/state
            if not self._stop.is_set():
                log.debug("load failed", exc_info=True)
                known = isinstance(error, SegzeroError)
                self._tell(Report(State.FAILED, str(error) if known else f"{type(error).__name__}: {error}"))
            return
        self.ready = True
        self._tell(Report(State.READY, "ready"))
        while (request := self._next()) is not None:
            self._tell(Report(State.REASONING, "reasoning", instruction=request.instruction))
            try:
                answer = self._serve(pipeline, request)
            finally:
                with self._condition:
                    self._running = None
            self._hand_out(request, answer)
            self._tell(Report(State.READY, "ready"))
        self.ready = False

    def _next(self) -> Request | None:
        with self._condition:
            while not self._stop.is_set():
                request, self._slot = self._slot or self._idle(), None
                if request is not None:
                    self._running = request
                    return request
                self._condition.wait()
        return None

    @staticmethod
    def _hand_out(request: Request, answer: Any) -> None:
        try:
            request.done(answer)
        except Exception:  # an answer that cannot be published must end neither the worker nor who replaced it
            log.exception("could not hand out the answer")

    def _tell(self, report: Report) -> None:
        with self._condition:
            if not self._stop.is_set():
                self._report(self, report)
