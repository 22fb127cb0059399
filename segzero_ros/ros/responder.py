"""One request answered, on the worker's thread: a frame, its pixels, the pipeline's answer. Failures have a status."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from sensor_msgs.msg import CompressedImage

from segzero_ros.core.contract import Event, Image, Masks, Prompt, Segmentation, SegzeroError, Status, timed_out
from segzero_ros.core.frames import Frame, too_early
from segzero_ros.core.pipeline import Pipeline
from segzero_ros.core.requests import Requests
from segzero_ros.core.tickets import Asker, Stage, Ticket
from segzero_ros.ros.convert import compressed_from_msg, image_from_msg
from segzero_ros.ros.inputs import Inputs, nanoseconds, unfit_info
from segzero_ros.ros.parameters import thought_budget, verification
from segzero_ros.ros.scenes import Gathered, Scenes
from segzero_ros.ros.status import StatusBoard
from segzero_ros.worker import OnState, Snapshot, State


@dataclass(frozen=True)
class _Kept:
    """An answer that can be corrected, and its frame, which can be clicked on."""

    request_id: str
    frame: Frame
    pixels: Image
    result: Segmentation
    gathered: Gathered | None  # what it is lifted from
    again: bool  # a later round of a standing instruction, under the id of the rounds before it


class Responder:
    """Called by the worker for each ticket; what it raises becomes BACKEND_ERROR there."""

    def __init__(self, node: Any, inputs: Inputs, scenes: Scenes, requests: Requests, board: StatusBoard) -> None:
        self._node = node
        self._inputs = inputs
        self._scenes = scenes
        self._requests = requests
        self._board = board
        self._answered = 0  # number of the frame that was reasoned about last
        self._kept: _Kept | None = None  # the newest answer, which was no failure
        self._shown: _Kept | None = None  # the newest one whose frame is on ~/source_image, a failure too

    def __call__(self, pipeline: Pipeline, ticket: Ticket, on_state: OnState) -> Segmentation:
        began = time.monotonic()
        dropped = 0
        try:
            ticket.watch.stage = Stage.WAITING_FRAME
            if not ticket.again:
                on_state(Snapshot(State.REASONING, "waiting for an image", instruction=ticket.instruction))
            earlier = self._corrected(ticket)
            frame, dropped = (earlier.frame, 0) if earlier else self._frame(ticket)
            self._requests.begin(ticket, frame)
            result = self._look(pipeline, ticket, frame, earlier, on_state)
            if result.status is Status.OUT_OF_MEMORY:
                pipeline.forget()
        except SegzeroError as error:
            if error.status is Status.UNSUPPORTED_ENCODING and ticket.wish.image is None:
                self._inputs.unreadable = error.message
            result = Segmentation(error.status, error.message, ticket.instruction, 0, 0, model=pipeline.model)
        queue, total = began - ticket.asked, time.monotonic() - ticket.asked
        timing = replace(result.timing, queue=queue, total=total, dropped_frames=dropped)
        return replace(result, timing=timing)

    def forget(self) -> None:
        """Keeps no answer any more."""
        self._kept = self._shown = None

    def _look(
        self, pipeline: Pipeline, ticket: Ticket, frame: Frame, earlier: _Kept | None, on_state: OnState
    ) -> Segmentation:
        """A frame's answer. Raises SegzeroError for an image that cannot be read and for prompts that do not fit it."""
        assert ticket.deadline is not None
        in_3d = self._scenes.on if ticket.wish.in_3d is None else ticket.wish.in_3d
        gathered = earlier.gathered if earlier else None
        if in_3d and gathered is None:
            gathered = self._scenes.gather(frame, ticket.cancel, ticket.deadline)
        on_state(Snapshot(State.REASONING, "reasoning", instruction=ticket.instruction))
        image = frame.image
        pixels = compressed_from_msg(image) if isinstance(image, CompressedImage) else image_from_msg(image)
        self._keep_fitting_info(ticket, frame, pixels.shape[1], pixels.shape[0])
        if ticket.wish.image is None:
            self._inputs.unreadable = ""
        left = ticket.deadline - time.monotonic()
        if left <= 0:
            raise timed_out(ticket.timeout)

        def on_event(event: Event) -> None:
            nonlocal gathered
            if gathered is not None:
                gathered = self._scenes.seek(gathered, ticket.cancel)
            self._board.on_event(event)
            ticket.watch.on_event(event)
            if ticket.watch.stage is Stage.SEGMENTING:
                is_asked_again = isinstance(event, Masks) and pipeline.verifying.settings.way != "off"
                what = "verifying" if is_asked_again and not ticket.wish.prompts else "segmenting"
                on_state(Snapshot(State.REASONING, what, instruction=ticket.instruction))

        limits: dict[str, Any] = {"cancel": ticket.cancel, "timeout": left, "on_event": on_event}
        if ticket.wish.prompts:
            ticket.watch.stage = Stage.SEGMENTING
            prompts = self._prompts(ticket, frame, pixels)
            before = earlier.result if earlier else None
            result = pipeline.segment_prompts(pixels, prompts, ticket.instruction, earlier=before, **limits)
        else:
            ticket.watch.stage = Stage.REASONING
            pipeline.reasoning.thought_budget = thought_budget(self._node)
            pipeline.verifying.settings = verification(self._node)
            result = pipeline.segment(pixels, ticket.instruction, **limits)
        if result.status is Status.TIMEOUT and result.message == timed_out(left).message:  # all that it knows
            result = replace(result, message=timed_out(ticket.timeout).message)
        if in_3d and gathered is not None:
            ticket.watch.stage = Stage.LIFTING_3D
            result = self._scenes.lift(gathered, pixels, result, ticket.cancel, ticket.deadline)
        self._keep(ticket, _Kept(ticket.request_id, frame, pixels, _without_3d(result), gathered, ticket.again))
        return result

    def _keep(self, ticket: Ticket, made: _Kept) -> None:
        """A failure, a refused correction among them, takes nobody the answer that can still be corrected."""
        if ticket.cancelled is not None or made.result.status is Status.CANCELLED:
            return
        if made.result.status in (Status.OK, Status.NO_OBJECT):
            self._kept = made
        if ticket.by is not Asker.SERVICE:
            self._shown = made

    @staticmethod
    def _prompts(ticket: Ticket, frame: Frame, pixels: Image) -> tuple[Prompt, ...]:
        made = ticket.wish.prompts
        return made(frame, (pixels.shape[0], pixels.shape[1])) if callable(made) else made

    def _corrected(self, ticket: Ticket) -> _Kept | None:
        """The answer that the prompts correct, or None where all are for new objects."""
        prompts = () if callable(ticket.wish.prompts) else ticket.wish.prompts
        ids = {p.corrects[0] for p in prompts if p.corrects}
        if not ids:
            return None
        kept = next((k for k in (self._kept, self._shown) if k and ids == {k.request_id}), None)
        if kept is None:
            newest = f"the newest one is {self._kept.request_id}" if self._kept else "there is none"
            asked = ", ".join(sorted(ids))[:100]
            raise SegzeroError(Status.BAD_REQUEST, f"answer {asked} is not kept any more, so not corrected; {newest}")
        if kept.again:
            what = f"answer {kept.request_id} stands, and newer frames were answered under its id"
            raise SegzeroError(Status.BAD_REQUEST, f"{what}; correct an answer that was asked once")
        if ticket.wish.image is not None:
            raise SegzeroError(Status.BAD_REQUEST, "a correction is made on the frame of its answer: give no image")
        if ticket.wish.not_before and kept.frame.stamp < ticket.wish.not_before:
            raise too_early(kept.frame.stamp, ticket.wish.not_before, "the frame of the answer that is corrected")
        return kept

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
        wish = ticket.wish
        if wish.image is not None:
            stamp = nanoseconds(wish.image.header.stamp)
            if wish.not_before and (not stamp or stamp < wish.not_before):
                raise too_early(stamp, wish.not_before, "the goal's image")
            return Frame(wish.image, stamp, stamp, 0, stamped=stamp != 0), 0
        if wish.stamp:
            return self._clicked(wish.stamp), 0
        left = float("inf") if ticket.deadline is None else ticket.deadline - time.monotonic()
        if left <= 0:
            raise SegzeroError(Status.TIMEOUT, f"it was not begun within {ticket.timeout:g} s")
        wait = self._node.get_parameter("image_timeout").value
        if ticket.again:
            wait = self._inputs.patience(wait)
        if ticket.patient:
            wait = float("inf")
        elif wish.not_before:
            wait = left
        frames = self._inputs.frames
        self._inputs.look()
        try:
            frame = frames.take(
                lambda: int(self._node.get_clock().now().nanoseconds),
                self._node.get_parameter("max_age").value,
                wait if ticket.patient else min(left, wait),
                ticket.cancel,
                after=self._answered if ticket.again else 0,
                not_before=wish.not_before,
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

    def _clicked(self, stamp: int) -> Frame:
        """The frame of this stamp: that of an answer that is kept, else the newest one."""
        self._inputs.pull()
        frames = [k.frame for k in (self._shown, self._kept) if k]
        newest = self._inputs.frames.newest()
        for frame in (*frames, *([newest] if newest else [])):
            if frame.stamped and frame.stamp == stamp:
                return frame
        raise SegzeroError(Status.STALE_IMAGE, "the frame that was clicked on is not kept; click on a newer one")


def _without_3d(result: Segmentation) -> Segmentation:
    """Clouds and depth are large, and are made anew for a correction."""
    return replace(result, instances=tuple(replace(i, lifted=None) for i in result.instances), scene=None)
