"""~/state and /diagnostics: what the node is doing, and whether it could answer now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.qos_overriding_options import QoSOverridingOptions
from segzero_msgs.msg import State as StateMsg

from segzero_ros.core.contract import Event, Masks, Reasoning
from segzero_ros.core.text import clean
from segzero_ros.ros.inputs import Inputs
from segzero_ros.ros.qos import has_arrived, profile
from segzero_ros.worker import Snapshot, State


class StatusBoard:
    """The newest snapshot, published when it changes. Thread-safe.

    inactive() says why the node takes no requests, or "" when it does.
    """

    def __init__(self, node: Any, inputs: Inputs, inactive: Callable[[], str]) -> None:
        self._node = node
        self._inputs = inputs
        self._inactive = inactive
        self._lock = threading.Lock()  # the last one published is the newest
        self.snapshot = Snapshot(State.UNLOADED, "not configured")
        self.model = ""
        self.loaded: dict[str, str] = {}  # role -> what was loaded
        self.characters = 0  # of the text that the model has written for the request in hand
        options = QoSOverridingOptions.with_default_policies()
        self._state = node.create_publisher(StateMsg, "~/state", profile(latched=True), qos_overriding_options=options)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def tell(self, snapshot: Snapshot) -> None:
        with self._lock:
            self.snapshot = snapshot
            self.characters = 0
            self._publish()

    def close(self, deadline: float) -> None:
        """Waits until the last state has arrived, at most `deadline` seconds: it would be lost with its publisher."""
        end = time.monotonic() + deadline
        while not has_arrived(self._state) and time.monotonic() < end:
            time.sleep(0.001)

    def set_models(self, model: str, loaded: dict[str, str]) -> None:
        """model: as in the results; loaded: what each role has loaded."""
        with self._lock:
            self.model, self.loaded = model, loaded

    def republish(self) -> None:
        """The node became active or inactive, enabled or disabled."""
        with self._lock:
            self._publish()

    def on_event(self, event: Event) -> None:
        """Follows a request's progress."""
        if isinstance(event, Reasoning):
            self.characters = len(event.text)
        elif isinstance(event, Masks):
            self.characters = 0

    def shown(self) -> Snapshot:
        """The snapshot as seen from outside: READY is said by an active node only, and LOADING says what refuses."""
        snapshot, why = self.snapshot, self._inactive()
        if why and snapshot.state in (State.READY, State.REASONING):
            return Snapshot(State.INACTIVE, f"the models are loaded; {why}")
        if why and snapshot.state == State.LOADING:
            return replace(snapshot, message=f"{snapshot.message}; {why}")
        return snapshot

    def publish_diagnostics(self) -> None:
        level, message = self._health()
        frames, shown = self._inputs.frames, self.shown()
        facts = {
            "state": shown.state.value,
            "model": self.model,
            "frames": frames.count,
            "camera_infos": frames.side_counts["camera_info"],
            "seconds since a frame": "" if (s := self._inputs.silence()) is None else f"{s:.1f}",
            "instruction": shown.instruction,
            "characters written": self.characters,
            **self.loaded,
        }
        status = DiagnosticStatus(
            level=level, name=self._node.get_fully_qualified_name(), message=clean(message), hardware_id="segzero"
        )
        status.values = [KeyValue(key=k, value=clean(v)) for k, v in facts.items()]
        msg = DiagnosticArray(status=[status])
        msg.header.stamp = self._node.get_clock().now().to_msg()
        self._diagnostics.publish(msg)

    def _health(self) -> tuple[bytes, str]:
        """OK only when a request that came now would be answered."""
        shown = self.shown()
        if shown.state == State.FAILED:
            return DiagnosticStatus.ERROR, shown.message
        why = self._inactive()
        if shown.state not in (State.READY, State.REASONING) or why:
            return DiagnosticStatus.WARN, shown.message if not why or why in shown.message else why
        if complaint := self._inputs.complaint(self._node.get_parameter("max_age").value):
            return DiagnosticStatus.WARN, f"{complaint}; {self._inputs.describe()}"
        return DiagnosticStatus.OK, shown.message

    def _publish(self) -> None:
        shown = self.shown()
        msg = StateMsg(state=getattr(StateMsg, shown.state.value), progress=float(shown.progress))
        msg.header.stamp = self._node.get_clock().now().to_msg()
        msg.message, msg.instruction, msg.model = clean(shown.message), clean(shown.instruction), clean(self.model)
        self._state.publish(msg)
