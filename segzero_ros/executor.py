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
