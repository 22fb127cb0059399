"""A thread that owns models: it loads them, then answers one request after another. No ROS here.

Whatever its callbacks raise ends the request in hand with a status, is logged with its trace, and the thread goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from segzero_ros.core.contract import Cancel, OnProgress, Segmentation, SegzeroError, Status
from segzero_ros.core.failures import drop_frames, is_lost_device, is_out_of_memory, lost_device_sentence
from segzero_ros.core.tickets import Ticket

log = logging.getLogger(__name__)
PAUSE = 0.1  # seconds after an error that may come again at once


class State(str, Enum):
    """What the node does. The names are the constants of segzero_msgs/State."""

    LOADING = "LOADING"
    READY = "READY"
    REASONING = "REASONING"
    FAILED = "FAILED"
    UNLOADED = "UNLOADED"
    INACTIVE = "INACTIVE"


@dataclass(frozen=True)
class Snapshot:
    """The state at one moment. progress is 0 to 1 while LOADING."""

    state: State
    message: str = ""
    progress: float = 0.0
    instruction: str = ""


OnState = Callable[[Snapshot], None]


class Source(Protocol):
    """Where requests come from and go to: `core.requests.Requests`."""

    def take(self, stop: Cancel) -> Ticket | None: ...
    def finish(self, ticket: Ticket, result: Segmentation) -> None: ...
    def wake(self) -> None: ...


class Worker:
    """Loads, then serves until stopped.

    load(on_progress, cancel) returns the models, loaded(models) is told of them, serve(models, ticket, on_state)
    returns the answer. on_state(snapshot) is told of each change, never after `stop`. release() gives memory back, when
    a request found none and when the models are dropped. on_lost(why) is told when the device is lost to this process
    (`models.lost`); the thread ends. after: a worker to wait for, since two loads need the memory twice.
    """

    def __init__(
        self,
        source: Source,
        load: Callable[[OnProgress, Cancel], Any],
        serve: Callable[[Any, Ticket, OnState], Segmentation],
        on_state: OnState,
        loaded: Callable[[Any], None] = lambda models: None,
        release: Callable[[], None] = lambda: None,
        on_lost: Callable[[str], None] = lambda why: None,
        after: Worker | None = None,
    ) -> None:
        self._source = source
        self._load = load
        self._serve = serve
        self._on_state = on_state
        self._loaded = loaded
        self._release = release
        self._on_lost = on_lost
        self._after = after
        self._gate = threading.Lock()  # nothing is told after stop()
        self._stop = Cancel()
        self._told: Snapshot | None = None
        self._lost = ""  # why the device can be used no more
        self._thread = threading.Thread(target=self._run, name="segzero-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end and return at once: a load cannot be interrupted. Cancelling requests is the source's."""
        with self._gate:
            self._stop.set()
        self._source.wake()

    def join(self, deadline: float) -> bool:
        """Wait at most `deadline` seconds for the thread. True when it has ended."""
        if self._thread.ident is None:
            return True
        self._thread.join(max(0.0, deadline))
        return not self._thread.is_alive()

    def _run(self) -> None:
        if self._after is not None and self._after._thread.is_alive():
            self._tell(Snapshot(State.LOADING, "waiting for an earlier load to end"))
            self._after._thread.join()
        self._after = None
        models = self._loaded_models()
        while models is not None and (ticket := self._taken()) is not None:
            result = self._answer(models, ticket)
            self._guarded(self._source.finish, ticket, result)
            if lost := self._lost or getattr(models, "lost", ""):
                self._guarded(self._on_lost, lost)
                break
            self._tell(Snapshot(State.READY, "ready"))
            if result.status is Status.OUT_OF_MEMORY:
                self._guarded(self._release)
        models = None
        self._guarded(self._release)

    def _taken(self) -> Ticket | None:
        while not self._stop.is_set():
            try:
                return self._source.take(self._stop)
            except BaseException:
                log.exception("a request could not be taken")
                self._stop.wait(PAUSE)
        return None

    def _loaded_models(self) -> Any:
        """The models, or None: then the state says why, unless nobody wants them any more."""
        try:
            self._tell(Snapshot(State.LOADING, "starting to load"))
            models = self._load(lambda share, what: self._tell(Snapshot(State.LOADING, what, share)), self._stop)
        except BaseException as error:  # hostile files raise anything
            log.debug("loading failed", exc_info=True)
            known = isinstance(error, SegzeroError)
            why = str(error) if known else f"{type(error).__name__}: {error}"
            drop_frames(error)
            self._tell(Snapshot(State.FAILED, why))
            if is_lost_device(error):
                self._guarded(self._on_lost, why)
            return None
        with self._gate:
            if self._stop.is_set():
                return None
            self._guarded(self._loaded, models)
        self._tell(Snapshot(State.READY, "ready"))
        return models

    def _answer(self, models: Any, ticket: Ticket) -> Segmentation:
        try:
            return self._serve(models, ticket, self._tell)
        except BaseException as error:  # the thread is the only one that answers
            log.exception("a request failed")
            drop_frames(error)
            why = f"{type(error).__name__}: {error}"
            if is_lost_device(error):
                why = self._lost = lost_device_sentence(error)
            status = Status.OUT_OF_MEMORY if is_out_of_memory(error) else Status.BACKEND_ERROR
            return Segmentation(status, why, ticket.instruction, 0, 0)

    def _tell(self, snapshot: Snapshot) -> None:
        with self._gate:
            if not self._stop.is_set() and snapshot != self._told:
                self._told = snapshot
                self._guarded(self._on_state, snapshot)

    @staticmethod
    def _guarded(call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except BaseException:
            log.exception("a callback of the worker failed")
