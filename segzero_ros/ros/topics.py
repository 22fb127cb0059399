"""Which topics say what about an answer: one row each, in the order in which they are sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from segzero_ros.ros import products, products_3d
from segzero_ros.ros.products import Reply

OPTIONAL = {"foxglove_msgs", "vision_msgs", "visualization_msgs"}  # without them their topics are left out


def _always(reply: Reply) -> bool:
    return True


@dataclass
class Output:
    """One topic. make: its message about an answer, or None. known: whether there can be one, before it is made.

    heavy: made only for somebody. large: sent when what is small has arrived. volatile: not kept for who comes late.
    of_refusals: also says why a request was not taken; the other topics keep the answer before then. in_space: its
    message about an answer without 3D is an empty one.
    """

    name: str
    kind: str  # package/Message
    make: Callable[[Reply], Any]
    heavy: bool = False
    large: bool = False
    volatile: bool = False
    of_refusals: bool = False
    in_space: bool = False
    known: Callable[[Reply], bool] = _always
    publisher: Any = None
    latched: bool = False  # the publisher's history holds a message
    current: bool = True  # the topic needs nothing more about the current answer
    served: int = 0  # subscriptions that were there at the last look, of a volatile topic

    @property
    def package(self) -> str:
        return self.kind.partition("/")[0]

    def message_class(self) -> Any:
        """Raises ImportError where the package is not installed."""
        return getattr(import_module(f"{self.package}.msg"), self.kind.partition("/")[2])


def all_outputs(stride: Callable[[], int]) -> list[Output]:
    """stride: of ~/scene_points, asked for each answer."""

    def scene_points(r: Reply) -> Any:
        return products_3d.scene_points(r, stride())

    return [
        Output("~/result", "segzero_msgs/Segmentation", products.result, of_refusals=True),
        Output("~/reasoning", "std_msgs/String", products.reasoning),
        Output("~/result_json", "std_msgs/String", products.result_text, of_refusals=True),
        Output("~/camera_info", "sensor_msgs/CameraInfo", products.camera_info),
        Output("~/detections", "vision_msgs/Detection2DArray", products.detections),
        Output("~/label_info", "vision_msgs/LabelInfo", products.label_info),
        _small("~/detections_3d", "vision_msgs/Detection3DArray", products_3d.detections_3d, in_space=True),
        _small("~/grasp_hints", "geometry_msgs/PoseArray", products_3d.grasp_hints, in_space=True),
        _small("~/markers", "visualization_msgs/MarkerArray", products_3d.markers, in_space=True),
        _small("~/annotations", "foxglove_msgs/ImageAnnotations", products_3d.image_annotations),
        _small("~/object/depth/camera_info", "sensor_msgs/CameraInfo", products_3d.depth_info, products_3d.has_depth),
        _small(
            "~/background/depth/camera_info", "sensor_msgs/CameraInfo", products_3d.depth_info, products_3d.has_depth
        ),
        _large("~/source_image", "sensor_msgs/Image", products.source_image, _has_frame),
        _large("~/mask", "sensor_msgs/Image", products.mask, _has_masks),
        _large("~/label_mask", "sensor_msgs/Image", products.label_mask, _has_masks),
        _large("~/object/depth/image_rect", "sensor_msgs/Image", products_3d.object_depth, products_3d.has_depth),
        _large(
            "~/background/depth/image_rect", "sensor_msgs/Image", products_3d.background_depth, products_3d.has_depth
        ),
        _large("~/points", "sensor_msgs/PointCloud2", products_3d.points, in_space=True),
        _large("~/overlay", "sensor_msgs/Image", products.overlay, _has_frame),
        _large("~/overlay/compressed", "sensor_msgs/CompressedImage", products.overlay_compressed, _has_frame),
        _large("~/answer_image", "sensor_msgs/Image", products.answer_image, _has_frame),
        Output("~/scene_points", "sensor_msgs/PointCloud2", scene_points, heavy=True, large=True, volatile=True),
    ]


def _has_frame(reply: Reply) -> bool:
    return reply.image is not None


def _has_masks(reply: Reply) -> bool:
    return reply.answered


def _small(
    name: str, kind: str, make: Callable[[Reply], Any], known: Callable[[Reply], bool] = _always, in_space: bool = False
) -> Output:
    return Output(name, kind, make, heavy=True, known=known, in_space=in_space)


def _large(
    name: str, kind: str, make: Callable[[Reply], Any], known: Callable[[Reply], bool] = _always, in_space: bool = False
) -> Output:
    return Output(name, kind, make, heavy=True, large=True, known=known, in_space=in_space)
