"""Runs the node's callbacks: subscriptions at once and in turn, services and timers, which may wait, in threads.

rclpy's MultiThreadedExecutor hands a callback that has not begun yet to its threads over and over, without a pause.
Beside a model that holds the interpreter's lock that loop takes most of a core, and answers take ten times as long.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import rclpy.executors
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, TimeoutException
from rclpy.service import Service
from rclpy.task import Task
from rclpy.timer import Timer

PATIENCE = 0.05  # seconds that a callback is given to begin; later when all threads are waiting


class Executor(rclpy.executors.Executor):
    """threads: how many services and timers may wait at the same time."""

    def __init__(self, threads: int, *, context: Context | None = None) -> None:
        super().__init__(context=context)
        self._threads = ThreadPoolExecutor(threads, "segzero-callback")
        self._failed: list[BaseException] = []
        self._spins = threading.RLock()  # held as long as it spins; a callback may end it

    def spin(self) -> None:
        with self._spins:
            super().spin()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Ends the spinning, and then frees what it waits with: rclpy's frees it under the spinning thread's hands.

        False where callbacks have not ended in time; None or a negative time waits for them.
        """
        with self._shutdown_lock:
            if not self._is_shutdown:
                self._is_shutdown = True
                self._guard.trigger()
        if not self._spins.acquire(timeout=-1 if timeout_sec is None or timeout_sec < 0 else timeout_sec):
            return False
        try:
            return bool(super().shutdown(timeout_sec))
        finally:
            self._spins.release()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """One callback. Raises what a callback raised, at the latest one call later."""
        task: Task
        entity: Any
        try:
            task, entity, _ = self.wait_for_ready_callbacks(timeout_sec)
        except (TimeoutException, ShutdownException, ExternalShutdownException):
            return
        if isinstance(entity, (Service, Timer)):
            begun = threading.Event()
            self._threads.submit(self._run, task, begun)
            begun.wait(PATIENCE)
        else:
            self._run(task)
        if self._failed:
            raise self._failed.pop()

    def _run(self, task: Task, begun: threading.Event | None = None) -> None:
        if begun:
            begun.set()
        task()
        error = task.exception() if task.done() else None
        if error is not None:
            self._failed.append(error)
            self.wake()
