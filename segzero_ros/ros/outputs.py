"""Everything that the node publishes about an answer, each with the source image's header verbatim.

All reliable, transient local, depth 1, so that who subscribes after the answer still gets it. Heavy outputs are
computed when somebody listens: at once, or from the kept answer for one who comes late.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from segzero_msgs.msg import Segmentation as SegmentationMsg
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from segzero_ros.core.contract import Segmentation
from segzero_ros.core.geometry import label_image
from segzero_ros.overlay import draw_overlay
from segzero_ros.ros.convert import compressed_from_msg, compressed_to_msg, image_from_msg, image_to_msg
from segzero_ros.ros.messages import clean, result_json, to_result_msg

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks

LATE_PERIOD = 0.25  # seconds between looks for late subscribers


@dataclass(frozen=True)
class Kept:
    """One answer. image: the frame's message (Image or CompressedImage), or None when there was no frame."""

    header: Any
    image: Any | None
    camera_info: Any | None
    segmentation: Segmentation
    request_id: str


@dataclass
class _Output:
    """One topic. make: the message about an answer, or None when there is nothing to say about it.

    said: its publisher's history holds a message. fresh: nothing is left to be done about the kept answer.
    """

    name: str
    kind: type
    make: Callable[[Kept], Any]
    heavy: bool
    publisher: Any = None
    said: bool = False
    fresh: bool = True


class Outputs:
    """The publishers. `publish` may be called from any thread."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._lock = threading.RLock()
        self._kept: Kept | None = None
        self._overlay: tuple[Kept, Any] | None = None
        self._all = [
            _Output("~/result", SegmentationMsg, self._result, False),
            _Output("~/reasoning", String, lambda k: String(data=clean(k.segmentation.reasoning)), False),
            _Output(
                "~/result_json",
                String,
                lambda k: String(data=result_json(k.segmentation, k.header, k.request_id)),
                False,
            ),
            _Output("~/camera_info", CameraInfo, lambda k: k.camera_info, False),
            _Output("~/source_image", Image, self._source, True),
            _Output("~/mask", Image, self._mask, True),
            _Output("~/label_mask", Image, self._labels, True),
            _Output("~/overlay", Image, lambda k: self._drawn(k, lambda p: image_to_msg(p, "rgb8", k.header)), True),
            _Output(
                "~/overlay/compressed",
                CompressedImage,
                lambda k: self._drawn(k, lambda p: compressed_to_msg(p, k.header)),
                True,
            ),
        ]
        for output in self._all:
            output.publisher = self._publisher(output)
        self._add_vision_msgs()
        self._timer = node.create_timer(LATE_PERIOD, self._serve, callback_group=MutuallyExclusiveCallbackGroup())

    def _publisher(self, output: _Output) -> Any:
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=1,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )
        return self._node.create_publisher(
            output.kind,
            output.name,
            profile,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            # An event waited for would keep a destroyed publisher, and the old answer in it, alive for a while.
            event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        )

    def publish(self, kept: Kept) -> None:
        """The pictures first: in Fast DDS's shared memory (512 KB) a picture overwrites the small message before it.

        That one would come again with the next heartbeat only, seconds later.
        """
        with self._lock:
            self._kept, self._overlay = kept, None
            for output in self._all:
                output.fresh = False
            self._serve()
            for output in self._all:
                if not output.heavy:
                    self._say(output, kept)
                if output.said and not output.fresh and not output.publisher.get_subscription_count():
                    self._empty(output)

    def _serve(self) -> None:
        """Computes each heavy output that somebody listens to and that does not carry the kept answer yet."""
        with self._lock:
            if self._kept is None:
                return
            for output in self._all:
                if output.heavy and not output.fresh and output.publisher.get_subscription_count():
                    self._say(output, self._kept)
                    output.fresh = True

    def _say(self, output: _Output, kept: Kept) -> None:
        try:
            message = output.make(kept)
        except Exception as error:
            self._node.get_logger().error(f"{output.name}: {error}")
            return
        if message is not None:
            output.publisher.publish(message)
            output.said = output.fresh = True

    def _empty(self, output: _Output) -> None:
        """Who subscribes late must not be given an older answer: the middleware forgets only with the publisher."""
        self._node.destroy_publisher(output.publisher)
        output.publisher, output.said = self._publisher(output), False

    # -- what each says; None: nothing to say about this answer

    @staticmethod
    def _result(k: Kept) -> SegmentationMsg:
        return to_result_msg(k.segmentation, k.header, k.camera_info, k.request_id)

    @staticmethod
    def _source(k: Kept) -> Any:
        if k.image is None or isinstance(k.image, Image):
            return k.image
        return image_to_msg(compressed_from_msg(k.image), "rgb8", k.header)

    @staticmethod
    def _mask(k: Kept) -> Any:
        s = k.segmentation
        if not s.height:
            return None
        union = np.zeros((s.height, s.width), np.uint8)
        for i in s.instances:
            union[i.mask] = 255
        return image_to_msg(union, "mono8", k.header)

    @staticmethod
    def _labels(k: Kept) -> Any:
        s = k.segmentation
        if not s.height:
            return None
        labels = label_image([i.mask for i in s.instances], [i.score for i in s.instances], s.height, s.width)
        return image_to_msg(labels, "mono8" if labels.dtype == np.uint8 else "16UC1", k.header)

    def _drawn(self, k: Kept, wrap: Callable[[Any], Any]) -> Any:
        if k.image is None or not k.segmentation.height:
            return None
        if self._overlay is None or self._overlay[0] is not k:
            raw = image_from_msg(k.image) if isinstance(k.image, Image) else compressed_from_msg(k.image)
            self._overlay = (k, draw_overlay(raw, k.segmentation))
        return wrap(self._overlay[1])

    def _add_vision_msgs(self) -> None:
        """~/detections and ~/label_info, where vision_msgs is installed."""
        try:
            from vision_msgs.msg import Detection2DArray, LabelInfo

            more = [
                _Output("~/detections", Detection2DArray, _detections, False),
                _Output("~/label_info", LabelInfo, _label_info, False),
            ]
            for output in more:
                output.publisher = self._publisher(output)
        except ImportError:
            self._node.get_logger().info("vision_msgs is not installed: no ~/detections, no ~/label_info")
            return
        except Exception as error:  # rclpy has its own for a package whose libraries are not found
            self._node.get_logger().warning(
                f"vision_msgs does not work here: no ~/detections, no ~/label_info: {error}"
            )
            return
        self._all += more


def _detections(k: Kept) -> Any:
    """vision_msgs/Detection2DArray: the masks' boxes as centre and size."""
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

    out = Detection2DArray(header=k.header)
    for i in k.segmentation.instances:
        detection = Detection2D(header=k.header)
        x1, y1, x2, y2 = (float(v) for v in i.box)
        detection.bbox.center.position.x, detection.bbox.center.position.y = (x1 + x2) / 2, (y1 + y2) / 2
        detection.bbox.size_x, detection.bbox.size_y = x2 - x1, y2 - y1
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = clean(i.label), float(i.score)
        detection.results, detection.id = [hypothesis], str(i.index)
        out.detections.append(detection)
    return out


def _label_info(k: Kept) -> Any:
    """vision_msgs/LabelInfo: what the values of ~/label_mask stand for; 255 is reserved for unlabelled."""
    from vision_msgs.msg import LabelInfo, VisionClass

    names = [(0, "background"), *((i.index, clean(i.label)) for i in k.segmentation.instances), (255, "unlabelled")]
    return LabelInfo(header=k.header, class_map=[VisionClass(class_id=n, class_name=name) for n, name in names])
