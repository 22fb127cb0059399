"""One request answered, on the worker's thread: a frame, its pixels, the pipeline's answer. Failures have a status."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from sensor_msgs.msg import CompressedImage

from segzero_ros.core.contract import Boxes, Event, Segmentation, SegzeroError, Status
from segzero_ros.core.frames import Frame
from segzero_ros.core.pipeline import Pipeline
from segzero_ros.core.requests import Requests
from segzero_ros.core.tickets import Ticket
from segzero_ros.ros.convert import compressed_from_msg, image_from_msg
from segzero_ros.ros.inputs import Inputs, nanoseconds, unfit_info
from segzero_ros.ros.status import StatusBoard
from segzero_ros.worker import OnState, Snapshot, State


class Responder:
    """Called by the worker for each ticket; what it raises becomes BACKEND_ERROR there."""

    def __init__(self, node: Any, inputs: Inputs, requests: Requests, board: StatusBoard) -> None:
        self._node = node
        self._inputs = inputs
        self._requests = requests
        self._board = board
        self._answered = 0  # number of the frame that was reasoned about last

    def __call__(self, pipeline: Pipeline, ticket: Ticket, on_state: OnState) -> Segmentation:
        began = time.monotonic()
        try:
            if not ticket.again:
                on_state(Snapshot(State.REASONING, "waiting for an image", instruction=ticket.instruction))
            frame, dropped = self._frame(ticket)
            self._requests.begin(ticket, frame)
            on_state(Snapshot(State.REASONING, "reasoning", instruction=ticket.instruction))
            image = frame.image
            pixels = compressed_from_msg(image) if isinstance(image, CompressedImage) else image_from_msg(image)
            self._keep_fitting_info(ticket, frame, pixels.shape[1], pixels.shape[0])
            if ticket.wish.image is None:
                self._inputs.unreadable = ""
            assert ticket.deadline is not None
            left = ticket.deadline - time.monotonic()
            if left <= 0:
                raise SegzeroError(Status.TIMEOUT, f"there was no answer within {ticket.timeout:g} s")

            def on_event(event: Event) -> None:
                self._board.on_event(event)
                if isinstance(event, Boxes):
                    on_state(Snapshot(State.REASONING, "segmenting", instruction=ticket.instruction))

            result = pipeline.segment(pixels, ticket.instruction, cancel=ticket.cancel, timeout=left, on_event=on_event)
            if result.status is Status.OUT_OF_MEMORY:
                pipeline.forget()
            queue = began - ticket.asked
            total = time.monotonic() - ticket.asked
            timing = replace(result.timing, queue=queue, total=total, dropped_frames=dropped)
            return replace(result, timing=timing)
        except SegzeroError as error:
            if error.status is Status.UNSUPPORTED_ENCODING and ticket.wish.image is None:
                self._inputs.unreadable = error.message
            return Segmentation(error.status, error.message, ticket.instruction, 0, 0, model=pipeline.model)

    def _keep_fitting_info(self, ticket: Ticket, frame: Frame, width: int, height: int) -> None:
        """Now that the size of a compressed image is known, its camera_info must fit it, too."""
        info = frame.sides.get("camera_info")
        why = unfit_info(frame.image, info, (width, height)) if info is not None else ""
        if why:
            frame = replace(frame, sides={}, missing={"camera_info": why})
            self._requests.begin(ticket, frame)
        if ticket.wish.image is None:
            self._inputs.warn_missing(frame)

    def _frame(self, ticket: Ticket) -> tuple[Frame, int]:
        """The frame to reason about, and how many were taken in vain. Raises SegzeroError."""
        if ticket.wish.image is not None:
            stamp = nanoseconds(ticket.wish.image.header.stamp)
            return Frame(ticket.wish.image, stamp, stamp, 0), 0
        left = float("inf") if ticket.deadline is None else ticket.deadline - time.monotonic()
        if left <= 0:
            raise SegzeroError(Status.TIMEOUT, f"it was not begun within {ticket.timeout:g} s")
        wait = self._node.get_parameter("image_timeout").value
        frames = self._inputs.frames
        self._inputs.look()
        try:
            frame = frames.take(
                lambda: int(self._node.get_clock().now().nanoseconds),
                self._node.get_parameter("max_age").value,
                float("inf") if ticket.patient else min(left, self._inputs.patience(wait) if ticket.again else wait),
                ticket.cancel,
                after=self._answered if ticket.again else 0,
            )
        except SegzeroError as error:
            if error.status is Status.CANCELLED:
                raise
            newest = frames.newest()
            if newest:
                self._requests.begin(ticket, newest)
            raise SegzeroError(error.status, f"{error.message}; {self._inputs.describe()}") from error
        dropped = max(0, frame.number - self._answered - 1) if self._answered else 0
        self._answered = frame.number
        return frame, dropped
