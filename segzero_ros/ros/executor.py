"""Runs the node's callbacks: subscriptions at once and in turn, all that may wait (services, actions, timers, tasks) in
threads.

rclpy's MultiThreadedExecutor hands a callback that has not begun yet to its threads over and over, without a pause.
Beside a model that holds the interpreter's lock that loop takes most of a core, and answers take ten times as long.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import rclpy.executors
from rclpy.action import ActionServer
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, TimeoutException
from rclpy.guard_condition import GuardCondition
from rclpy.service import Service
from rclpy.task import Task
from rclpy.timer import Timer

log = logging.getLogger(__name__)

PATIENCE = 0.05  # seconds to wait for a pool thread to pick a callback up; longer only when all are in use
IN_THREADS = (Service, ActionServer, Timer, GuardCondition)  # and tasks, such as an action's goals
QUIET = 10.0  # seconds in which the same error is logged once
PAUSE = 0.05  # seconds after an error of the waiting itself, which may come again at once


class Executor(rclpy.executors.Executor):
    """threads: how many services, actions, timers, guard conditions and tasks may wait at the same time.

    What a callback raises is logged with its trace and ends nothing else.
    """

    def __init__(self, threads: int, *, context: Context | None = None) -> None:
        super().__init__(context=context)
        self._threads = ThreadPoolExecutor(threads, "segzero-callback")
        self._busy = 0  # tasks in threads
        self._idle = threading.Condition()
        self._logged: dict[str, float] = {}  # what was logged when
        self._spins = threading.RLock()  # held as long as it spins; a callback may end it

    def spin(self) -> None:
        with self._spins:
            super().spin()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Stops spinning before the wait set is destroyed (rclpy destroys it while in use), and ends the threads.

        False where callbacks have not ended in time; None or a negative time waits for them.
        """
        limit = None if timeout_sec is None or timeout_sec < 0 else timeout_sec
        with self._shutdown_lock:
            if not self._is_shutdown:
                self._is_shutdown = True
                self._guard.trigger()
        if not self._spins.acquire(timeout=-1 if limit is None else limit):
            return False
        try:
            with self._idle:
                if not self._idle.wait_for(lambda: not self._busy, limit):
                    return False
            self._threads.shutdown(wait=False)
            return bool(super().shutdown(timeout_sec))
        finally:
            self._spins.release()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """One callback."""
        task: Task
        entity: Any
        try:
            task, entity, _ = self.wait_for_ready_callbacks(timeout_sec)
        except (TimeoutException, ShutdownException, ExternalShutdownException):
            return
        except Exception as error:  # an entity that was destroyed at a bad moment: the next round does without it
            if self._context.ok() and not self._is_shutdown:
                self._log("the executor could not wait", error)
                threading.Event().wait(PAUSE)
            return
        if entity is None or isinstance(entity, IN_THREADS):
            begun = threading.Event()
            with self._idle:
                self._busy += 1
            self._threads.submit(self._in_thread, task, begun)
            begun.wait(PATIENCE)
        else:
            self._run(task)

    def _make_handler(self, entity: Any, node: Any, take: Any, *more: Any) -> Task:
        """A message that cannot be taken is logged: where rclpy's handler raises, its entity is never asked again."""

        def taken(entity: Any) -> Any:
            try:
                return take(entity)
            except Exception as error:
                self._log("a message could not be taken", error)
                return None

        return super()._make_handler(entity, node, taken, *more)

    def _in_thread(self, task: Task, begun: threading.Event) -> None:
        begun.set()
        try:
            self._run(task)
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()

    def _run(self, task: Task) -> None:
        task()
        error = task.exception() if task.done() else None
        if error is not None:
            self._log("a callback failed", error)

    def _log(self, what: str, error: BaseException) -> None:
        """With its trace; an error that comes again and again, once in a while."""
        key, now = f"{what}: {type(error).__name__}: {error}", time.monotonic()
        if now - self._logged.get(key, -QUIET) >= QUIET:
            self._logged = {k: t for k, t in self._logged.items() if now - t < QUIET} | {key: now}
            log.error("%s", what, exc_info=error)
