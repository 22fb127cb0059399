"""sensor_msgs/CameraInfo to the camera model of the images that it comes with."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo

from segzero_ros.core.camera import camera_of
from segzero_ros.core.space import Camera


def camera_from_info(info: CameraInfo, width: int, height: int, rectified: bool = False) -> Camera:
    """The model of images of this size, which fits. rectified: by image_proc, which sends the raw image's camera_info
    beside them, so that P is their matrix. Raises LiftError(BAD_CAMERA_INFO)."""
    k, d, model = info.k, info.d, info.distortion_model
    if rectified and info.p[0]:
        k, d = [info.p[0], 0.0, info.p[2], 0.0, info.p[5], info.p[6], 0.0, 0.0, 1.0], []
    if (width, height) == (info.width, info.height):  # what it tells of binning is in K already
        return camera_of(width, height, k, d, model)
    roi = (info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height)
    return camera_of(info.width, info.height, k, d, model, binning=(info.binning_x, info.binning_y), roi=roi)
