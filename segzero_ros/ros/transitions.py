"""Transitions that the node makes by itself, one after another, in the callback group of change_state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import TransitionCallbackReturn

from segzero_ros.core.text import clean


class Transitions:
    """Asked for from any thread; made by the executor, by a guard condition."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._wanted: deque[Callable[[], None]] = deque()
        self._guard = node.create_guard_condition(self._make, node.default_callback_group)

    def start(self) -> None:
        """Configure and activate."""
        self._soon(self._start)

    def unload(self) -> None:
        """Deactivate and clean up, as far as that is not done."""
        self._soon(self._unload)

    def _soon(self, transition: Callable[[], None]) -> None:
        self._wanted.append(transition)
        self._guard.trigger()

    def _make(self) -> None:
        while self._wanted:
            try:
                self._wanted.popleft()()
            except Exception as error:  # somebody else made one first
                self._node.get_logger().warning(clean(f"{type(error).__name__}: {error}"))

    def _start(self) -> None:
        if self._node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self._node.trigger_activate()

    def _unload(self) -> None:
        if self._state() == "active":
            self._node.trigger_deactivate()
        if self._state() == "inactive":
            self._node.trigger_cleanup()

    def _state(self) -> str:
        return str(self._node._state_machine.current_state[1])
