"""A frame's depth, camera model and transform, gathered before the reasoning; an answer's instances lifted after it.

What hinders becomes the typed failure of each instance (`Lifted`), and the answer in pixels stands. docs/3d.md.
"""

from __future__ import annotations

import logging
import posixpath
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from sensor_msgs.msg import CameraInfo

from segzero_ros.core.contract import Cancel, Image, Segmentation, SegzeroError, Status
from segzero_ros.core.frames import Frame
from segzero_ros.core.space import Camera, Lifted, LiftError, Scene, Status3D, Transform
from segzero_ros.core.text import one_line
from segzero_ros.ros.camera_models import camera_from_info
from segzero_ros.ros.convert import depth_from_msg
from segzero_ros.ros.inputs import Inputs, nanoseconds, unfit_info
from segzero_ros.ros.transforms import Transforms

log = logging.getLogger(__name__)
BACK = 1_000_000_000  # nanoseconds that a stamp goes back where a recording begins anew
LONGEST = 600  # characters of a sentence
POLL = 0.01  # seconds between two looks for a camera_info
SEEK_PERIOD = 0.1  # seconds between two looks while the model thinks
ALIGN = (
    "depth must be aligned to the colour image (RealSense: align_depth.enable and its topic "
    ".../aligned_depth_to_color/image_raw; Orbbec: depth_registration; ZED: .../depth/depth_registered)"
)
T = TypeVar("T")


@dataclass(frozen=True)
class Gathered:
    """What belongs to a frame. What is missing is looked for again by `seek`, and is a failure in `lift`.

    target: the frame of the answer, "": the camera's. depth: sensor_msgs/Image or CompressedImage. error: why there is
    no depth or info. transform: from the camera's optical frame to the target. hopeless: depth does not come any more.
    """

    frame: Frame
    target: str = ""
    depth: Any = field(default=None, repr=False)
    info: CameraInfo | None = None
    error: LiftError | None = None
    transform: Transform | None = None
    hopeless: bool = False

    @property
    def waits(self) -> bool:
        return (self.depth is None or self.info is None) and not self.hopeless


class Scenes:
    """Open while the node is configured. `gather`, `seek` and `lift` are called on the worker's thread."""

    def __init__(self, node: Any, inputs: Inputs) -> None:
        self._node = node
        self._inputs = inputs
        self._target = ""
        self._newest = (0, 0)  # number and stamp of a frame
        self._sought = 0.0  # when something was looked for, on the monotonic clock
        self.transforms: Transforms | None = None

    def open(self) -> None:
        """Reads the parameters and subscribes, after `inputs.open`. Raises ValueError for a name that is no topic."""
        topic, self._target = self._value("depth_topic"), self._value("target_frame")
        if topic:
            self._inputs.open_depth(topic, self._value("depth_transport"), self._value("depth_info_topic"))
        if (topic and self._target) or self._value("clicked_point_topic"):
            self.transforms = Transforms(self._node)
            if self.transforms.missing:
                self._node.get_logger().warning(self.transforms.missing)

    def close(self) -> None:
        """Before or after `inputs.close`, which ends the subscriptions to depth."""
        transforms, self.transforms = self.transforms, None
        if transforms:
            transforms.close()

    @property
    def on(self) -> bool:
        """Whether there is a depth_topic."""
        return bool(self._inputs.topic("depth"))

    def gather(self, frame: Frame, cancel: Cancel, deadline: float) -> Gathered:
        """Waits at most depth_wait, and half of what is left until `deadline` (time.monotonic). Never raises."""
        self._notice(frame)
        wait = min(self._value("depth_wait"), max(0.0, deadline - time.monotonic()) / 2)
        return self._found(Gathered(frame, self._target), cancel, wait)

    def seek(self, gathered: Gathered, cancel: Cancel) -> Gathered:
        """Looks once more for what has not come yet, without waiting: a large depth image may arrive after a second,
        while the model thinks. May be called as often as one likes. Never raises."""
        if not gathered.waits or time.monotonic() - self._sought < SEEK_PERIOD:
            return gathered
        return self._found(gathered, cancel, 0.0)

    def lift(
        self, gathered: Gathered, pixels: Image, result: Segmentation, cancel: Cancel, deadline: float
    ) -> Segmentation:
        """pixels: of the frame, RGB. Waits for a late transform at most tf_wait, and not beyond `deadline`.

        The answer with its scene, and each instance with what became of it in space; other failures stay as they are.
        Never raises.
        """
        if result.status not in (Status.OK, Status.NO_OBJECT):
            return result
        scene = None
        if gathered.waits:
            gathered = self._found(gathered, cancel, 0.0)
        try:
            scene = _attempt(lambda: self._scene(gathered, pixels, cancel, deadline))
            lifted = _attempt(lambda: _lift(result, pixels, scene, cancel))
        except LiftError as error:
            failed = Lifted(error.status, one_line(error.message, LONGEST))
            lifted = (failed,) * len(result.instances)
        pairs = zip(result.instances, lifted, strict=True)
        return replace(result, instances=tuple(replace(i, lifted=one) for i, one in pairs), scene=scene)

    def lookup(self, target: str, source: str, stamp: int) -> Transform:
        """From one frame to another at a time (nanoseconds); waits at most tf_wait. Raises LiftError."""
        if self.transforms is None:
            raise LiftError(Status3D.NO_TRANSFORM, "nothing listens to TF")
        found = self.transforms.find(target, source, stamp, self._value("tf_wait"), Cancel())
        return found or Transform(np.eye(3), np.zeros(3))

    def model(self, info: CameraInfo, width: int, height: int) -> Camera:
        """Of the camera's images of this size. Raises LiftError."""
        return camera_from_info(info, width, height, self._rectified())

    def _scene(self, gathered: Gathered, pixels: Image, cancel: Cancel, deadline: float) -> Scene:
        frame = gathered.frame
        if gathered.error:
            raise gathered.error
        height, width = pixels.shape[:2]
        theirs, ours = gathered.depth.header.frame_id, frame.image.header.frame_id
        if theirs != ours:
            what = f"the depth image's frame_id is {theirs!r} and the colour image's is {ours!r}"
            raise LiftError(Status3D.UNALIGNED, f"{what}; {ALIGN}")
        try:
            depth = depth_from_msg(gathered.depth)
        except SegzeroError as error:
            raise LiftError(Status3D.NO_DEPTH, f"the depth image cannot be read: {error.message}") from error
        if depth.shape != (height, width):
            size = f"{depth.shape[1]} x {depth.shape[0]}"
            what = f"the depth image has {size} pixels and the colour image {width} x {height}"
            raise LiftError(Status3D.UNALIGNED, f"{what}; {ALIGN}")
        camera = self._camera(gathered, width, height)
        transform = gathered.transform
        if transform is None:
            wait = min(self._value("tf_wait"), max(0.0, deadline - time.monotonic()))
            transform = self._transform(frame, gathered.target, wait, cancel)
        return Scene(depth, camera, gathered.target or ours, transform)

    def _notice(self, frame: Frame) -> None:
        """A bag that is played again without a clock sets back the stamps alone."""
        number, stamp = self._newest
        if frame.number > number:
            self._newest = (frame.number, frame.stamp)
            if self.transforms and frame.stamp < stamp - BACK:
                self.transforms.forget()

    def _found(self, gathered: Gathered, cancel: Cancel, wait: float) -> Gathered:
        """With what is there now, or within `wait` seconds."""
        frame, depth, error, hopeless = gathered.frame, gathered.depth, None, False
        info, transform = gathered.info, gathered.transform
        end = time.monotonic() + wait
        try:
            if depth is None:
                depth = _attempt(lambda: self._depth(frame, cancel, wait))
            info = info or self._info_within(frame, end, cancel)
        except LiftError as missing:
            error = missing
            stamp = nanoseconds(frame.image.header.stamp)
            hopeless = depth is None and (not self.on or not stamp or self._inputs.depth.passed(stamp))
        self._sought = time.monotonic()
        try:
            transform = transform or _attempt(lambda: self._transform(frame, gathered.target, 0.0, cancel))
        except LiftError:  # it may come until it is needed
            transform = None
        return replace(gathered, depth=depth, info=info, error=error, transform=transform, hopeless=hopeless)

    def _depth(self, frame: Frame, cancel: Cancel, wait: float) -> Any:
        if not self.on:
            raise LiftError(Status3D.NO_DEPTH, "3D is off; depth_topic names a topic of depth aligned to the image")
        slop = self._value("depth_slop") if frame.number else 0.0  # a given frame has depth of its own, or none
        depth, why = self._inputs.depth.find(nanoseconds(frame.image.header.stamp), slop, wait, cancel)
        if depth is None:
            what = f"no depth belongs to the image: {why}; {self._inputs.describe('depth')}"
            raise LiftError(Status3D.NO_DEPTH, what)
        return depth

    def _info_within(self, frame: Frame, end: float, cancel: Cancel) -> CameraInfo:
        """A camera's first camera_info may come a moment after its image. end: on the monotonic clock."""
        while True:
            try:
                return _attempt(lambda: self._info(frame))
            except LiftError:
                if time.monotonic() >= end or cancel.wait(POLL):
                    raise

    def _info(self, frame: Frame) -> CameraInfo:
        name = "depth_info" if self._inputs.topic("depth_info") else "camera_info"
        self._inputs.pull()
        info, why = self._inputs.frames.beside(name, frame)
        if info is None:
            raise LiftError(Status3D.BAD_CAMERA_INFO, f"no camera_info on {self._inputs.topic(name)} fits: {why}")
        assert isinstance(info, CameraInfo)
        return info

    def _camera(self, gathered: Gathered, width: int, height: int) -> Camera:
        info = gathered.info
        assert info is not None
        if why := unfit_info(gathered.frame.image, info, (width, height)):
            raise LiftError(Status3D.BAD_CAMERA_INFO, f"the camera_info does not fit the image: {why}")
        return self.model(info, width, height)

    def _rectified(self) -> bool:
        """By the names that image_proc gives: image_rect, image_rect_color."""
        topic = self._inputs.topic("image").removesuffix("/compressed")
        return posixpath.basename(topic).startswith("image_rect")

    def _transform(self, frame: Frame, target: str, wait: float, cancel: Cancel) -> Transform | None:
        header, transforms = frame.image.header, self.transforms
        if target in ("", header.frame_id):
            return None
        if transforms is None:  # the node is not configured any more
            raise LiftError(Status3D.NO_TRANSFORM, "nothing listens to TF")
        return transforms.find(target, header.frame_id, nanoseconds(header.stamp), wait, cancel)

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value


def _lift(result: Segmentation, pixels: Image, scene: Scene, cancel: Cancel) -> tuple[Lifted, ...]:
    from segzero_ros.core.lifting import lift

    return lift(result.instances, pixels, scene, cancel=cancel)


def _attempt(call: Callable[[], T]) -> T:
    """Whatever goes wrong is a LiftError: nothing in space takes the answer in pixels away."""
    try:
        return call()
    except LiftError:
        raise
    except Exception as error:
        log.exception("an answer could not be lifted")
        raise LiftError(Status3D.ERROR, f"it failed: {type(error).__name__}: {one_line(error)}") from error
