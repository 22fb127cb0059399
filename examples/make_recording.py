"""Renders examples/demo.mcap: a camera that moves slowly over a simulated table. Needs the training requirements.

    python examples/make_recording.py [--seed N] [--out examples/demo.mcap]

Topics as a depth camera has them: /camera/color/image_raw (rgb8), /camera/color/camera_info,
/camera/aligned_depth/image_raw (16UC1, millimetres), /tf and /tf_static, each with the QoS that it was offered with.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from training.data.tabletop.scene import Camera, Light, World

SIZE, FRAMES, RATE = 480, 40, 10  # pixels, frames, hertz
START = 1_700_000_000  # seconds; the recording's own time
OPTICAL = "camera_color_optical_frame"
TYPES = get_typestore(Stores.ROS2_JAZZY)

# As rosbag2 writes them from version 9 on.
QOS = """- history: keep_last
  depth: {depth}
  reliability: {reliability}
  durability: {durability}
  deadline: {{sec: 9223372036, nsec: 854775807}}
  lifespan: {{sec: 9223372036, nsec: 854775807}}
  liveliness: automatic
  liveliness_lease_duration: {{sec: 9223372036, nsec: 854775807}}
  avoid_ros_namespace_conventions: false
"""
SENSOR = QOS.format(depth=5, reliability="best_effort", durability="volatile")
MOVING = QOS.format(depth=100, reliability="reliable", durability="volatile")
STATIC = QOS.format(depth=1, reliability="reliable", durability="transient_local")
TOPICS = {
    "/camera/color/image_raw": ("sensor_msgs/msg/Image", SENSOR),
    "/camera/color/camera_info": ("sensor_msgs/msg/CameraInfo", SENSOR),
    "/camera/aligned_depth/image_raw": ("sensor_msgs/msg/Image", SENSOR),
    "/tf": ("tf2_msgs/msg/TFMessage", MOVING),
    "/tf_static": ("tf2_msgs/msg/TFMessage", STATIC),
}


def message(kind: str, **fields: Any) -> Any:
    return TYPES.types[kind](**fields)


def header(nanoseconds: int, frame: str) -> Any:
    stamp = message("builtin_interfaces/msg/Time", sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
    return message("std_msgs/msg/Header", stamp=stamp, frame_id=frame)


def image(pixels: np.ndarray, encoding: str, nanoseconds: int) -> Any:
    data = np.frombuffer(pixels.tobytes(), np.uint8)
    return message(
        "sensor_msgs/msg/Image",
        header=header(nanoseconds, OPTICAL),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.strides[0],
        data=data,
    )


def camera_info(matrix: np.ndarray, nanoseconds: int) -> Any:
    region = message("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return message(
        "sensor_msgs/msg/CameraInfo",
        header=header(nanoseconds, OPTICAL),
        height=SIZE,
        width=SIZE,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=matrix.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.hstack([matrix, np.zeros((3, 1))]).reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def transform(pose: np.ndarray, parent: str, child: str, nanoseconds: int) -> Any:
    """pose: parent from child, (4, 4)."""
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
    place = dict(zip("xyz", pose[:3, 3], strict=True))
    one = message(
        "geometry_msgs/msg/TransformStamped",
        header=header(nanoseconds, parent),
        child_frame_id=child,
        transform=message(
            "geometry_msgs/msg/Transform",
            translation=message("geometry_msgs/msg/Vector3", **place),
            rotation=message("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w),
        ),
    )
    return message("tf2_msgs/msg/TFMessage", transforms=[one])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=4173)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo.mcap")
    parser.add_argument("--preview", type=Path, help="also write the first frame here, PNG")
    arguments = parser.parse_args()

    world = World()
    world.populate(np.random.default_rng(arguments.seed), count=(6, 7))
    light = Light(direction=(0.6, 0.3, 1.5), ambient=0.55, diffuse=0.4, specular=0.05, shadow=True)
    # Optical axes (x right, y down, z forward) as seen from a body (x forward, y left, z up).
    body_from_optical = np.eye(4)
    body_from_optical[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]

    with arguments.out.open("wb") as file:
        writer = Writer(file, compression=CompressionType.ZSTD, chunk_size=4 << 20)
        writer.start(profile="ros2", library="segzero_ros")
        channels = {}
        for topic, (kind, qos) in TOPICS.items():
            definition = TYPES.generate_msgdef(kind, ros_version=2)[0]
            schema = writer.register_schema(kind, "ros2msg", definition.encode())
            channels[topic] = writer.register_channel(topic, "cdr", schema, {"offered_qos_profiles": qos})

        def write(topic: str, content: Any, nanoseconds: int) -> None:
            data = bytes(TYPES.serialize_cdr(content, TOPICS[topic][0]))
            writer.add_message(channels[topic], nanoseconds, data, nanoseconds)

        start = START * 10**9
        write("/tf_static", transform(body_from_optical, "camera_link", OPTICAL, start), start)
        for number in tqdm(range(FRAMES), unit="frame"):
            now = start + number * 10**9 // RATE
            # To and fro, so that a loop has no jump.
            swing = np.sin(2 * np.pi * number / FRAMES)
            camera = Camera((0.0, 0.0, 0.03), 0.95 + 0.04 * swing, 20 + 8 * swing, -48 + 3 * swing, 0.0, 50.0)
            frame = world.render(camera, light, SIZE)
            pose = camera.pose() @ np.linalg.inv(body_from_optical)
            write("/tf", transform(pose, "world", "camera_link", now), now)
            write("/camera/color/camera_info", camera_info(camera.matrix(SIZE), now), now)
            write("/camera/color/image_raw", image(frame.rgb, "rgb8", now), now)
            depth = np.round(frame.depth * 1000).astype(np.uint16)
            write("/camera/aligned_depth/image_raw", image(depth, "16UC1", now), now)
            if number == 0 and arguments.preview:
                from PIL import Image

                Image.fromarray(frame.rgb).save(arguments.preview)
        writer.finish()
    world.close()
    for o in world.objects:
        print(f"{o.color} {o.category} at {o.position[0]:.2f}, {o.position[1]:.2f}")
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
