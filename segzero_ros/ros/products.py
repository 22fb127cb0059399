"""What is published about an answer: pure functions from a reply to a message, or None when there is nothing to say."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from segzero_msgs.msg import Segmentation as SegmentationMsg
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from segzero_ros.core.camera import undistort_depth
from segzero_ros.core.contract import Image as Pixels
from segzero_ros.core.contract import Mask, Segmentation, Status
from segzero_ros.core.geometry import label_image, union_mask
from segzero_ros.core.space import Camera
from segzero_ros.core.text import clean
from segzero_ros.overlay import captioned, draw_overlay
from segzero_ros.ros.convert import compressed_from_msg, compressed_to_msg, image_from_msg, image_to_msg
from segzero_ros.ros.messages import header_in_space, result_json, to_result_msg


class Reply:
    """One answer on its way out. image: the frame's message (Image or CompressedImage), or None without a frame.
    refused: the request was not taken, so this says nothing of any scene.

    frame_3d: of outputs in space when the answer itself has none; viewers ignore what names no frame, and would keep
    the answer before. Not thread-safe: what is made once serves all topics that show it.
    """

    def __init__(
        self,
        header: Any,
        image: Any,
        camera_info: Any,
        segmentation: Segmentation,
        request_id: str,
        refused: bool = False,
    ) -> None:
        self.header = header
        self.image = image
        self.camera_info = camera_info
        self.segmentation = segmentation
        self.request_id = request_id
        self.refused = refused
        self.frame_3d = ""

    def in_pixels(self) -> Reply:
        """The same answer without 3D."""
        flat = replace(
            self.segmentation, instances=tuple(replace(i, lifted=None) for i in self.segmentation.instances), scene=None
        )
        reply = Reply(self.header, self.image, self.camera_info, flat, self.request_id, self.refused)
        reply.frame_3d = self.header_3d.frame_id
        return reply

    def without_objects(self) -> Reply:
        """Nothing in space, under the same header."""
        reply = self.in_pixels()
        reply.segmentation = replace(reply.segmentation, instances=())
        return reply

    @property
    def answered(self) -> bool:
        """Whether there are masks, be they none: a black mask after a failure would say that nothing is there."""
        return self.segmentation.status in (Status.OK, Status.NO_OBJECT) and self.segmentation.height > 0

    @property
    def header_3d(self) -> Header:
        """Of what is in space: the frame that was lifted into, the image's stamp."""
        if self.segmentation.scene:
            return header_in_space(self.segmentation, self.header)
        return Header(stamp=self.header.stamp, frame_id=self.frame_3d or self.header.frame_id)

    @cached_property
    def source(self) -> Pixels:
        """The frame's pixels, RGB. Raises SegzeroError for an encoding that is not taken."""
        return image_from_msg(self.image) if isinstance(self.image, Image) else compressed_from_msg(self.image)

    @cached_property
    def overlay(self) -> Pixels | None:
        """The frame with what was found drawn in, RGB, of the frame's size."""
        if self.image is None or not self.segmentation.height:
            return None
        return draw_overlay(self.source, self.segmentation)

    @cached_property
    def rectified(self) -> tuple[NDArray[np.float32], Camera]:
        """The scene's depth without distortion, and the camera that it then is of."""
        assert self.segmentation.scene is not None
        return undistort_depth(self.segmentation.scene.depth, self.segmentation.scene.camera)

    @cached_property
    def union(self) -> Mask:
        """(H, W): where any instance is."""
        s = self.segmentation
        return union_mask((i.packed for i in s.instances), s.height, s.width)

    @cached_property
    def labels(self) -> NDArray[np.unsignedinteger]:
        """(H, W): i where instance i is; see geometry.label_image."""
        s = self.segmentation
        return label_image([i.packed for i in s.instances], [i.score for i in s.instances], s.height, s.width)


def result(r: Reply) -> SegmentationMsg:
    return to_result_msg(r.segmentation, r.header, r.camera_info, r.request_id)


def result_text(r: Reply) -> String:
    return String(data=result_json(r.segmentation, r.header, r.request_id))


def reasoning(r: Reply) -> String:
    return String(data=clean(r.segmentation.reasoning))


def camera_info(r: Reply) -> Any:
    return r.camera_info


def source_image(r: Reply) -> Any:
    if r.image is None or isinstance(r.image, Image):
        return r.image
    return image_to_msg(r.source, "rgb8", r.header)


def mask(r: Reply) -> Any:
    """All instances in one: 0 or 255."""
    return image_to_msg(r.union.view(np.uint8) * np.uint8(255), "mono8", r.header) if r.answered else None


def label_mask(r: Reply) -> Any:
    """i where instance i is: mono8, or 16UC1 with more than 254 instances."""
    if not r.answered:
        return None
    return image_to_msg(r.labels, "mono8" if r.labels.dtype == np.uint8 else "16UC1", r.header)


def overlay(r: Reply) -> Any:
    drawn = r.overlay
    return None if drawn is None else image_to_msg(drawn, "rgb8", r.header)


def overlay_compressed(r: Reply) -> CompressedImage | None:
    drawn = r.overlay
    return None if drawn is None else compressed_to_msg(drawn, r.header)


def answer_image(r: Reply) -> Any:
    """The overlay above the instruction and the reasoning in words: taller than the frame, for people."""
    drawn = r.overlay
    return None if drawn is None else image_to_msg(captioned(drawn, r.segmentation), "rgb8", r.header)


def detections(r: Reply) -> Any:
    """vision_msgs/Detection2DArray: the masks' boxes as centre and size. ~/label_info names the class ids."""
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

    if not r.answered:
        return None
    out = Detection2DArray(header=r.header)
    for i in r.segmentation.instances:
        detection = Detection2D(header=r.header)
        x1, y1, x2, y2 = (float(v) for v in i.box)
        detection.bbox.center.position.x, detection.bbox.center.position.y = (x1 + x2) / 2, (y1 + y2) / 2
        detection.bbox.size_x, detection.bbox.size_y = x2 - x1, y2 - y1
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = str(i.index), float(i.score)
        detection.results = [hypothesis]  # no id: nothing tracks
        out.detections.append(detection)
    return out


def label_info(r: Reply) -> Any:
    """vision_msgs/LabelInfo: what the values of ~/label_mask and the class ids of ~/detections stand for."""
    from vision_msgs.msg import LabelInfo, VisionClass

    if not r.answered:
        return None
    instances = r.segmentation.instances
    unlabelled = 255 if len(instances) < 255 else 65535
    names = [(0, "background"), *((i.index, clean(i.label)) for i in instances), (unlabelled, "unlabelled")]
    return LabelInfo(header=r.header, class_map=[VisionClass(class_id=n, class_name=name) for n, name in names])
