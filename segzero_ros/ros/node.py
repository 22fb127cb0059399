"""The lifecycle node `segzero`: translates between ROS and the worker. See docs/architecture.md for the threads.

Callbacks store and return. The worker's thread loads, reasons and publishes answers. Lifecycle transitions that the
node makes by itself run on the executor's thread, in the group of change_state, by a guard condition.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import posixpath
import signal
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from segzero_msgs.msg import Segmentation as SegmentationMsg
from segzero_msgs.msg import State as StateMsg
from segzero_msgs.srv import SegmentImage, SetInstruction
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger

from segzero_ros.core.contract import Cancel, OnProgress, Segmentation, SegzeroError, Status
from segzero_ros.core.frames import Frame, FrameStore, Instructions
from segzero_ros.core.prompt import validate_instruction
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile
from segzero_ros.ros import parameters
from segzero_ros.ros.convert import compressed_from_msg, image_from_msg
from segzero_ros.ros.executor import Executor
from segzero_ros.ros.messages import to_result_msg
from segzero_ros.ros.outputs import Kept, Outputs
from segzero_ros.worker import Report, Request, State, Worker

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
STOPS = {signal.SIGINT, signal.SIGTERM}
EXIT_DEADLINE = 1.0  # seconds for the worker to end after one of them
LEAVE_DEADLINE = 0.7  # seconds for ROS to end after that
MAX_TIMEOUT = 86400.0  # seconds; the parameter's bound holds for a request's own, too
LATCHED = DurabilityPolicy.TRANSIENT_LOCAL


def qos(depth: int = 1, reliable: bool = True, latched: bool = False) -> QoSProfile:
    """A fresh profile for each entity: rclpy's overrides change the one they are given."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=LATCHED if latched else DurabilityPolicy.VOLATILE,
    )


def nanoseconds(stamp: Any) -> int:
    """builtin_interfaces/Time as one number. A stamp may be negative, which rclpy's Time refuses."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def input_topics(image: str, compressed: str, camera_info: str) -> tuple[str, str]:
    """Names of the compressed topic and of camera_info by image_transport's convention, where they are not set."""
    return compressed or f"{image}/compressed", camera_info or posixpath.join(posixpath.dirname(image), "camera_info")


class SegzeroNode(LifecycleNode):
    def __init__(self) -> None:
        super().__init__("segzero")
        parameters.declare(self)
        self.frames = FrameStore()
        self.instructions = Instructions()
        self.worker: Worker | None = None
        self.active = False
        self.enabled = True
        self.report = Report(State.UNLOADED, "not configured")
        self.model = ""
        self.loaded: dict[str, str] = {}
        self._standing = ""  # the instruction of mode `continuous`
        self._standing_id = ""
        self._answered_frame = 0
        self._lock = threading.Lock()
        self._inputs: list[Any] = []
        self._outputs: Outputs | None = None

        # Blocking services have a group of their own each; the executor has more threads than there are of them.
        group = MutuallyExclusiveCallbackGroup
        self._image_group, self._quick_group, self._segment_group = group(), group(), group()
        self._state_publisher = self._latched(StateMsg, "~/state")
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(
            1.0, self._publish_diagnostics, self._quick_group, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self.create_service(SegmentImage, "~/segment", self._on_segment, callback_group=self._segment_group)
        self.create_service(SetInstruction, "~/set_instruction", self._on_set, callback_group=self._quick_group)
        self.create_service(Trigger, "~/clear", self._on_clear, callback_group=self._quick_group)
        self.create_service(SetBool, "~/enable", self._on_enable, callback_group=self._quick_group)

        self._todo: deque[Callable[[], None]] = deque()
        self._guard = self.create_guard_condition(self._do, self.default_callback_group)
        self._publish_state()
        if self.get_parameter("autostart").value:
            self._later(self._autostart)

    def _latched(self, kind: Any, topic: str) -> Any:
        options = QoSOverridingOptions.with_default_policies()
        return self.create_publisher(kind, topic, qos(latched=True), qos_overriding_options=options)

    # -- the executor's thread on the node's own behalf

    def _later(self, action: Callable[[], None]) -> None:
        self._todo.append(action)
        self._guard.trigger()

    def _do(self) -> None:
        while self._todo:
            try:
                self._todo.popleft()()
            except Exception as error:  # an illegal transition: someone else made one first
                self.get_logger().warning(f"{type(error).__name__}: {error}")

    def _autostart(self) -> None:
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def _unload_failed(self) -> None:
        if self._state_machine.current_state[1] == "active":
            self.trigger_deactivate()
        if self._state_machine.current_state[1] == "inactive":
            self.trigger_cleanup()

    # -- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded("configure", self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = self._guarded("activate", self._activate)
        return super().on_activate(state) if result == SUCCESS else result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = self._guarded("deactivate", self._deactivate)
        return super().on_deactivate(state) if result == SUCCESS else result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded("clean up", self._cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded("shut down", self._cleanup)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded("recover", self._cleanup)

    def _guarded(self, name: str, action: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            action()
        except Exception as error:  # rclpy would swallow it
            self.get_logger().error(f"could not {name}: {error}")
            if name == "configure":
                self.report = Report(State.FAILED, f"{error}")
                self._publish_state()
            return FAILURE
        return SUCCESS

    def _configure(self) -> None:
        p = parameters.values(self)
        profile = load_profile(p["profile"])
        names = ("reasoner", "reasoner_revision", "segmenter", "segmenter_revision", "device", "dtype", "attention")
        wishes = {name: p[name] or None for name in names}

        def load(on_progress: OnProgress, cancel: Cancel) -> Pipeline:
            pipeline = Pipeline.load(profile, **wishes, offline=p["offline"], on_progress=on_progress, cancel=cancel)
            self.model = pipeline.model
            self.loaded = {"reasoner": str(pipeline.reasoner.info), "segmenter": str(pipeline.segmenter.info)}
            self.get_logger().info("loaded " + "; ".join(f"{role} {info}" for role, info in self.loaded.items()))
            return pipeline

        self._outputs = self._outputs or Outputs(self)
        try:
            self._subscribe(p)
        except Exception:  # a name that is no topic
            self._unsubscribe()
            raise
        self.worker = Worker(
            load, self._serve, self._cancelled, self._on_report, self._idle, self.frames.wake, after=self.worker
        )
        self.worker.start()

    def _subscribe(self, p: dict[str, Any]) -> None:
        image = self.resolve_topic_name(p["image_topic"])
        compressed, info = input_topics(image, p["compressed_topic"], p["camera_info_topic"])
        as_raw = p["image_transport"] == "raw"
        for kind, topic, callback, profile in (
            (
                Image if as_raw else CompressedImage,
                image if as_raw else compressed,
                self._on_image,
                qos(5, reliable=False),
            ),
            (CameraInfo, info, self._on_info, qos(5, reliable=False)),
            (String, "~/instruction", self._on_instruction, qos(5)),
        ):
            group = self._quick_group if kind is String else self._image_group
            options = QoSOverridingOptions.with_default_policies()
            self._inputs.append(
                self.create_subscription(
                    kind, topic, callback, profile, callback_group=group, qos_overriding_options=options
                )
            )

    def _unsubscribe(self) -> None:
        while self._inputs:
            self.destroy_subscription(self._inputs.pop())

    def _activate(self) -> None:
        self.active = True
        if text := self.get_parameter("instruction").value:
            self._take(text)

    def _deactivate(self) -> None:
        self.active = False
        self._forget()

    def _cleanup(self) -> None:
        self.active = False
        self._forget()
        if self.worker:
            self.worker.stop()  # not joined: a load cannot be interrupted, the next one waits for it
        self._unsubscribe()
        self.frames.clear()
        self.model, self.loaded = "", {}
        if self.report.state != State.FAILED:
            self.report = Report(State.UNLOADED, "not configured")
        self._publish_state()

    def _forget(self) -> None:
        with self._lock:
            self._standing = ""
            self.instructions.forget()
        if self.worker:
            self.worker.cancel()

    # -- in

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _on_image(self, msg: Any) -> None:
        self.frames.put(msg, nanoseconds(msg.header.stamp), self._now())
        if self._standing and self.worker:
            self.worker.poke()

    def _on_info(self, msg: CameraInfo) -> None:
        self.frames.put_info(msg, nanoseconds(msg.header.stamp))

    def _on_instruction(self, msg: String) -> None:
        self._take(msg.data)

    def _take(self, text: str, once: bool = False) -> tuple[Status, str, str]:
        """A new instruction: status, sentence, request id. A refusal goes to ~/result too."""
        request_id = uuid.uuid4().hex
        try:
            text = self._checked(text)
        except SegzeroError as error:
            self._publish(None, self._failure(error.status, error.message, text[:200]), request_id)
            return error.status, error.message, ""
        worker = self.worker
        assert worker is not None
        # Asked before our lock is taken: the worker holds its own when it calls _idle, which takes ours.
        busy = worker.instructions()
        with self._lock:
            standing = (self._standing,) if self._standing else ()
            gap = self.get_parameter("repeat_gap").value
            if not self.instructions.accept(text, time.monotonic_ns(), gap, busy + standing):
                return Status.OK, "the same instruction is being answered, or was repeated within repeat_gap", ""
            again = self.get_parameter("mode").value == "continuous" and not once
            self._standing, self._standing_id = (text, request_id) if again else ("", "")
        worker.submit(self._request(text, request_id))
        return Status.OK, "taken", request_id

    def _checked(self, text: str) -> str:
        if not self.active or self.worker is None:
            raise SegzeroError(Status.NOT_READY, "the node is not active")
        if not self.enabled:
            raise SegzeroError(Status.NOT_READY, "disabled by ~/enable")
        return validate_instruction(text, max_chars=self.get_parameter("max_instruction_chars").value)

    def _request(
        self, text: str, request_id: str, done: Any = None, image: Any = None, timeout: float = 0.0
    ) -> Request:
        deadline = time.monotonic() + (timeout or self.get_parameter("timeout").value)

        def publish(answer: tuple[Any, Segmentation]) -> None:
            self._publish(*answer, request_id)

        return Request(request_id, text, deadline, done or publish, image)

    def _idle(self) -> Request | None:
        """The next request of mode `continuous`: the same words on a newer frame."""
        with self._lock:
            frame = self.frames.newest()
            if not self._standing or frame is None or frame.number <= self._answered_frame:
                return None
            if self.get_parameter("mode").value != "continuous":
                self._standing = ""
                return None
            return self._request(self._standing, self._standing_id)

    # -- the worker's thread

    def _serve(self, pipeline: Pipeline, request: Request) -> tuple[Any, Segmentation]:
        """The frame (None when there was none) and the answer; every failure has a status."""
        frame: Any = None
        waited, dropped = time.monotonic() - request.submitted, 0
        try:
            if request.image is None:
                left = request.deadline - time.monotonic()
                wait = min(left, self.get_parameter("image_timeout").value)
                frame = self.frames.take(self._now, self.get_parameter("max_age").value, wait, request.cancel)
                dropped = max(0, frame.number - self._answered_frame - 1) if self._answered_frame else 0
                self._answered_frame = frame.number
                msg, info = frame.image, self._calibration(frame)
            else:
                msg, info = request.image, None
            frame = (msg, info)
            image = compressed_from_msg(msg) if isinstance(msg, CompressedImage) else image_from_msg(msg)
            pipeline.max_instruction_chars = self.get_parameter("max_instruction_chars").value
            left = request.deadline - time.monotonic()
            if left <= 0:
                raise SegzeroError(Status.TIMEOUT, "the time was over before the reasoning began")
            result = pipeline.segment(image, request.instruction, cancel=request.cancel, timeout=left)
            timing = replace(result.timing, queue=waited, total=waited + result.timing.total, dropped_frames=dropped)
            return frame, replace(result, timing=timing)
        except SegzeroError as error:
            newest = self.frames.newest()
            if error.status == Status.STALE_IMAGE and newest:
                self._answered_frame = newest.number  # mode `continuous` says this once, not for ever
            return frame, self._failure(error.status, error.message, request.instruction)
        except MemoryError:
            return frame, self._failure(Status.OUT_OF_MEMORY, "out of memory", request.instruction)
        except Exception as error:
            self.get_logger().error(f"request failed: {type(error).__name__}: {error}")
            return frame, self._failure(Status.BACKEND_ERROR, f"{type(error).__name__}: {error}", request.instruction)

    @staticmethod
    def _calibration(frame: Frame) -> CameraInfo | None:
        """The frame's camera_info under the frame's own header, so that it joins by exact time."""
        if frame.camera_info is None or frame.camera_info.header == frame.image.header:
            return frame.camera_info
        info = copy.deepcopy(frame.camera_info)
        info.header = frame.image.header
        return info

    def _cancelled(self, request: Request) -> tuple[Any, Segmentation]:
        if self.report.state == State.FAILED:
            return None, self._failure(Status.NOT_READY, f"loading failed: {self.report.message}", request.instruction)
        return None, self._failure(Status.CANCELLED, "replaced or cleared before it began", request.instruction)

    def _failure(self, status: Status, message: str, instruction: str) -> Segmentation:
        return Segmentation(status, message, instruction, 0, 0, model=self.model)

    def _publish(self, frame: Any, result: Segmentation, request_id: str) -> None:
        if self._outputs is None:
            return
        image, info = frame or (None, None)
        self._outputs.publish(Kept(header=self._header(image), image=image, camera_info=info,
                                   segmentation=result, request_id=request_id))  # fmt: skip

    def _header(self, image: Any) -> Header:
        return image.header if image is not None else Header(stamp=self.get_clock().now().to_msg())

    def _on_report(self, worker: Worker, report: Report) -> None:
        if worker is not self.worker:
            return
        self.report = report
        self._publish_state()
        if report.state == State.FAILED:
            self.get_logger().error(f"loading failed: {report.message}")
            self._later(self._unload_failed)

    # -- services

    def _on_segment(self, request: SegmentImage.Request, response: SegmentImage.Response) -> SegmentImage.Response:
        answered = threading.Event()
        answer: list[tuple[Any, Segmentation]] = []
        request_id = uuid.uuid4().hex

        def done(pair: tuple[Any, Segmentation]) -> None:
            answer.append(pair)
            answered.set()

        try:
            text = self._checked(request.instruction)
            worker = self.worker
            if worker is None or not worker.ready:
                raise SegzeroError(Status.NOT_READY, f"the models are not loaded: {self.report.message}")
            image = request.image if request.image.width else None
            asked = self._request(text, request_id, done, image, min(max(0.0, request.timeout), MAX_TIMEOUT))
            worker.submit(asked)
            if not answered.wait(max(0.0, asked.deadline - time.monotonic()) + 0.5):
                asked.cancel.set()
                self.frames.wake()
                raise SegzeroError(Status.TIMEOUT, "no answer within the timeout")
        except SegzeroError as error:
            answer[:] = [(None, self._failure(error.status, error.message, request.instruction[:200]))]
        except Exception as error:  # it would end the executor, and with it the process
            self.get_logger().error(f"~/segment failed: {type(error).__name__}: {error}")
            answer[:] = [(None, self._failure(Status.BACKEND_ERROR, str(error), request.instruction[:200]))]
        frame, result = answer[0]
        image, info = frame or (None, None)
        response.result = to_result_msg(result, self._header(image), info or CameraInfo(), request_id)
        return response

    def _on_set(self, request: SetInstruction.Request, response: SetInstruction.Response) -> SetInstruction.Response:
        status, response.message, response.request_id = self._take(request.instruction, request.once)
        response.success = status == Status.OK
        response.status = getattr(SegmentationMsg, f"STATUS_{status.value}")
        return response

    def _on_clear(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._forget()
        response.success, response.message = True, "cleared"
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.enabled = request.data
        if not self.enabled:
            self._forget()
        response.success, response.message = True, "enabled" if self.enabled else "disabled"
        return response

    # -- state

    def _publish_state(self) -> None:
        msg = StateMsg(state=getattr(StateMsg, self.report.state.value), progress=float(self.report.progress))
        msg.header.stamp = self.get_clock().now().to_msg()
        msg.message, msg.instruction, msg.model = self.report.message, self.report.instruction, self.model
        self._state_publisher.publish(msg)

    def _publish_diagnostics(self) -> None:
        report = self.report
        level = DiagnosticStatus.ERROR if report.state == State.FAILED else DiagnosticStatus.OK
        message = report.message
        if self.active and self.frames.count == 0 and level == DiagnosticStatus.OK:
            level, message = DiagnosticStatus.WARN, f"no image on {[s.topic_name for s in self._inputs[:1]]}"
        facts = {"state": report.state.value, "model": self.model, "frames": self.frames.count,
                 "camera_infos": self.frames.info_count, "instruction": report.instruction,
                 "enabled": self.enabled, **self.loaded}  # fmt: skip
        status = DiagnosticStatus(
            level=level, name=self.get_fully_qualified_name(), message=message, hardware_id="segzero"
        )
        status.values = [KeyValue(key=k, value=str(v)) for k, v in facts.items()]
        msg = DiagnosticArray(status=[status])
        msg.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(msg)

    def close(self, deadline: float) -> bool:
        """Cancel and wait for the worker. False when it did not end within `deadline` seconds."""
        self.active = False
        if not self.worker:
            return True
        self.worker.stop()
        return self.worker.join(deadline)


def main(args: list[str] | None = None) -> int:
    if {"-h", "--help"} & set(remove_ros_args(args)[1:]):
        print(parameters.usage())
        return 0
    # Blocked here, before any thread is there, and waited for below: nothing is ever interrupted in the middle.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    # A shell starts background jobs with SIGINT ignored, and an ignored signal is never waited for.
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)
    logging.basicConfig(level=logging.WARNING)
    code = 0
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = SegzeroNode()
    except Exception as error:  # a bad value in a YAML: a sentence, no traceback
        print(f"segzero: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = Executor(threads=6)
    executor.add_node(node)

    def spin() -> None:
        nonlocal code
        try:
            executor.spin()
        except ExternalShutdownException:
            pass
        except Exception:
            if rclpy.ok():
                logging.exception("the executor ended")
                code = 1
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=spin, name="segzero-executor", daemon=True)
    thread.start()
    signal.sigwait(STOPS)
    if node.close(EXIT_DEADLINE):
        # DDS leaves shared memory behind unless its participant ends; done beside us, since it must not hang.
        leave = threading.Thread(target=lambda: _leave(executor, thread, node), daemon=True)
        leave.start()
        leave.join(LEAVE_DEADLINE)
    sys.stdout.flush()
    sys.stderr.flush()
    # A load inside torch cannot be interrupted, and interpreter shutdown under a running thread may abort; publishers'
    # messages have been handed to DDS by now, so the process ends here.
    os._exit(code)


def _leave(executor: Executor, spinning: threading.Thread, node: SegzeroNode) -> None:
    executor.shutdown(timeout_sec=LEAVE_DEADLINE)
    spinning.join(LEAVE_DEADLINE)
    if not spinning.is_alive():
        with contextlib.suppress(Exception):  # of rclpy's own; it keeps the participant when the node is destroyed
            node._state_machine.destroy_when_not_in_use()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
