"""The lifecycle node `segzero`: builds the parts, connects, starts and stops them. docs/architecture.md draws them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from functools import partial
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import Header

from segzero_ros.core.contract import Cancel, OnProgress
from segzero_ros.core.profiles import load_profile
from segzero_ros.core.requests import Requests
from segzero_ros.core.text import clean, first_line
from segzero_ros.core.tickets import Asker, Ticket
from segzero_ros.pipeline import Pipeline
from segzero_ros.ros import parameters
from segzero_ros.ros.clicks import Clicks
from segzero_ros.ros.commands import Commands
from segzero_ros.ros.goals import Goals
from segzero_ros.ros.guard import guard_services
from segzero_ros.ros.inputs import Inputs
from segzero_ros.ros.outputs import Outputs
from segzero_ros.ros.products import Reply
from segzero_ros.ros.responder import Responder
from segzero_ros.ros.scenes import Scenes
from segzero_ros.ros.space_points import pixel_of
from segzero_ros.ros.status import StatusBoard
from segzero_ros.ros.transitions import Transitions
from segzero_ros.worker import Snapshot, State, Worker

log = logging.getLogger(__name__)
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
MAX_CHARS = 100_000
NOT_ACTIVE = "the node is not active"
LOST_DEVICE = 3  # exit code: the GPU's context is gone, a new process may have another
LOAD = ("reasoner", "reasoner_revision", "adapter", "segmenter", "segmenter_revision", "device", "dtype", "attention")


class SegzeroNode(LifecycleNode):
    def __init__(self) -> None:
        super().__init__("segzero")
        self.exit_code = 0  # of the process, when it ends
        parameters.declare(self)
        self.inputs = Inputs(self)
        self.scenes = Scenes(self, self.inputs)
        self.outputs = Outputs(self)
        self.requests = Requests(lambda: parameters.rules(self), self._deliver, self.inputs.frames.wake)
        self.board = StatusBoard(self, self.inputs, self.requests.refusing)
        self.commands = Commands(self, self.requests, self._reply, self.board.republish)
        self.clicks = Clicks(
            self, self.requests.ask, partial(pixel_of, lookup=self.scenes.lookup, model=self.scenes.model)
        )
        self.goals = Goals(self, self.requests, self._reply)
        self.responder = Responder(self, self.inputs, self.scenes, self.requests, self.board)
        self.worker: Worker | None = None

        self._ending = Cancel()
        threading.Thread(
            target=self.requests.watch_deadlines, args=(self._ending,), name="segzero-deadlines", daemon=True
        ).start()
        self.create_timer(
            1.0, self._tick, MutuallyExclusiveCallbackGroup(), clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._transitions = Transitions(self)
        guard_services(self)
        parameters.warn_unknown(self)
        self.board.republish()
        if self.get_parameter("autostart").value:
            self._transitions.start()

    # -- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._configure()
        except Exception as error:  # rclpy would swallow it
            self._log_failure("configure", error)
            self._dismantle()
            self.board.tell(Snapshot(State.FAILED, first_line(error)))
            return FAILURE
        return SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            result = super().on_activate(state)
            self.requests.open()
            self.board.republish()
            if text := self.get_parameter("instruction").value:
                self.commands.instruct(text, Asker.PARAMETER)
        except Exception as error:
            self._log_failure("activate", error)
            result = FAILURE
        if result != SUCCESS:
            self.requests.close(NOT_ACTIVE)
            self.board.republish()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.requests.close(NOT_ACTIVE)
        self.board.republish()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._cleaned()

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._cleaned()

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._cleaned()

    def close(self, deadline: float) -> bool:
        """Ends requests and the worker. False when that did not end within `deadline` seconds."""
        self.requests.close("the node is ending")
        if not self.exit_code:
            self.board.tell(Snapshot(State.UNLOADED, "the node has ended"))
        self._ending.set()
        self.requests.wake()
        if self.worker:
            self.worker.stop()
        self.outputs.close(deadline / 2)
        self.board.close(deadline / 4)
        return self.worker is None or self.worker.join(deadline / 2)

    def destroy_node(self) -> None:
        """Leaves the graph, when nothing spins the node any more: a node that ends without that is seen for another 20
        seconds. A participant of DDS ends with the last of what it has, and rclpy's own leaves two of them."""
        with contextlib.suppress(Exception):  # of rclpy's own; Kilted destroys also a node that could not be made
            self.goals.close()
        with contextlib.suppress(Exception):
            self._state_machine.destroy_when_not_in_use()
        super().destroy_node()

    def _configure(self) -> None:
        p = parameters.values(self)
        profile = load_profile(p["profile"])
        wishes: dict[str, Any] = {name: p[name] or None for name in LOAD}

        def load(on_progress: OnProgress, cancel: Cancel) -> Pipeline:
            switches = {"offline": p["offline"], "trial": p["trial"], "constrain": p["constrain"] or None}
            return Pipeline.load(profile, **wishes, **switches, on_progress=on_progress, cancel=cancel)

        self.inputs.open(p["image_topic"], p["image_transport"], p["compressed_topic"], p["camera_info_topic"])
        self.scenes.open()
        self.commands.open()
        self.clicks.open(p["click_topic"], p["clicked_point_topic"])
        self.worker = Worker(
            self.requests,
            load,
            self.responder,
            self._on_state,
            self._on_loaded,
            _release_memory,
            self._on_lost,
            after=self.worker,
        )
        self.worker.start()

    def _cleaned(self) -> TransitionCallbackReturn:
        try:
            self._dismantle()
        except Exception as error:
            self._log_failure("clean up", error)
            return FAILURE
        if self.board.snapshot.state != State.FAILED:
            self.board.tell(Snapshot(State.UNLOADED, "not configured"))
        return SUCCESS

    def _dismantle(self) -> None:
        """Back to what was before `configure`."""
        self.requests.close(NOT_ACTIVE)
        if self.worker:
            self.worker.stop()  # not joined: a load cannot be interrupted, the next worker waits for it
        self.requests.models("the models are not loaded")
        self.commands.close()
        self.clicks.close()
        self.scenes.close()
        self.inputs.close()
        self.outputs.forget()
        self.responder.forget()
        self.board.set_models("", {})

    def _log_failure(self, what: str, error: Exception) -> None:
        self.get_logger().error(f"could not {what}: {first_line(error)}")

    # -- what connects the parts

    def _deliver(self, ticket: Ticket) -> None:
        self.outputs.put(lambda: self._reply(ticket))

    def _reply(self, ticket: Ticket) -> Reply:
        """The answer under its frame's header; the node's time and no frame_id where there was no frame."""
        assert ticket.result is not None
        frame = ticket.frame
        if frame is None:
            header = Header(stamp=self.get_clock().now().to_msg())
            return Reply(header, None, None, ticket.result, ticket.request_id, ticket.refused)
        return Reply(frame.image.header, frame.image, self.inputs.calibration(frame), ticket.result, ticket.request_id)

    def _on_loaded(self, pipeline: Pipeline) -> None:
        pipeline.max_instruction_chars = MAX_CHARS  # the parameter's bound; the requests keep the parameter
        loaded = {"reasoner": str(pipeline.reasoner.info), "segmenter": str(pipeline.segmenter.info)}
        self.board.set_models(pipeline.model, loaded)
        self.get_logger().info(clean("loaded " + "; ".join(f"{role} {info}" for role, info in loaded.items())))
        self.requests.models("")

    def _on_state(self, snapshot: Snapshot) -> None:
        if snapshot.state == State.LOADING:  # first: who reads the state may ask at once
            self.requests.models(f"the models are loading: {snapshot.message} ({snapshot.progress:.0%})")
        self.board.tell(snapshot)
        if snapshot.state == State.FAILED:
            self.get_logger().error(clean(f"loading failed: {snapshot.message}"))
            self.requests.fail(f"loading failed: {snapshot.message}")
            self._transitions.unload()

    def _on_lost(self, why: str) -> None:
        """No later request could be answered in this process: it ends, and who watches it starts another."""
        self.get_logger().fatal(clean(why))
        self.board.tell(Snapshot(State.FAILED, why))
        self.requests.fail(why)
        self.exit_code = LOST_DEVICE
        os.kill(os.getpid(), signal.SIGTERM)

    def _tick(self) -> None:
        """Once a second: the mode, who publishes how, one frame, and the diagnostics; each whatever the others do."""
        steps = [self.requests.follow_rules, self.inputs.look, self.clicks.look]
        steps += [] if self.requests.refusing() else [self.inputs.peek]
        for step in (*steps, self.board.publish_diagnostics):
            try:
                step()
            except Exception:
                log.exception("a look at the camera or the diagnostics failed")


def _release_memory() -> None:
    from segzero_ros.models.devices import release_memory

    release_memory()
