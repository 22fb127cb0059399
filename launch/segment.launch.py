"""Start the node `segzero`: `ros2 launch segzero_ros segment.launch.py profile:=demo instruction:="the red mug"`.

An argument that is not set leaves the parameter to the YAML file.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = {
    "profile": "checkpoint family: demo, seg-zero, vision-reasoner, star, qwen3-vl, or a YAML file",
    "config": "parameter file: a path, or a name in the package's config folder; the profile's own, demo without one",
    "image_topic": "camera image to look at; camera_info is expected beside it",
    "instruction": "first instruction, taken as text whatever it looks like",
    "rviz": "true starts RViz with the camera, the overlay and the mask",
    "fixed_frame": "RViz's fixed frame",
    "namespace": "namespace of the node, for one camera of several",
    "log_level": "debug, info, warn, error or fatal",
    "use_sim_time": "true takes the time from /clock",
    "python": "interpreter that runs the node, such as that of a virtual environment",
    "bag": "recording to play with its clock: a path, or demo; implies use_sim_time",
}
TEXTS = ("profile", "image_topic", "instruction")  # parameters of the same name
CONFIGS = {  # parameter file that belongs to a profile
    "": "demo",
    "demo": "demo",
    "seg-zero": "seg_zero_7b",
    "vision-reasoner": "vision_reasoner_7b",
    "star": "star",
}
RECORDED = "/camera/color/image_raw"  # of the demo recording, and what segment.rviz shows as the camera
OUTPUTS = ("overlay", "source_image", "camera_info", "mask", "label_mask")


def is_true(text: str) -> bool:
    """Read a launch argument as a switch. Raises ValueError."""
    switch = {"true": True, "1": True, "false": False, "0": False, "": False}.get(text.strip().lower())
    if switch is None:
        raise ValueError(f"expected true or false, got '{text}'")
    return switch


def actions(context: LaunchContext) -> list[Node | ExecuteProcess]:
    share = get_package_share_directory("segzero_ros")
    given = {name: context.launch_configurations.get(name, "") for name in ARGUMENTS}

    config = given["config"] or CONFIGS.get(given["profile"], "")
    if config and not os.path.dirname(config) and not os.path.isfile(config):
        config = os.path.join(share, "config", config.removesuffix(".yaml") + ".yaml")
    if config and not os.path.isfile(config):
        raise FileNotFoundError(f"no parameter file {config}")

    recorded = given["bag"] in ("demo", "true")
    bag = os.path.join(share, "examples", "demo.mcap") if recorded else given["bag"]
    if recorded:
        given["image_topic"] = given["image_topic"] or RECORDED
    simulated = given["use_sim_time"] or ("true" if bag else "")

    overrides = {name: ParameterValue(given[name], value_type=str) for name in TEXTS if given[name]}
    clock = {"use_sim_time": is_true(simulated)} if simulated else {}
    log = ["--ros-args", "--log-level", given["log_level"]] if given["log_level"] else []

    started: list[Node | ExecuteProcess] = [
        Node(
            package="segzero_ros",
            executable="segzero",
            name="segzero",
            namespace=given["namespace"] or None,
            parameters=[
                *([config] if config else []),
                *([overrides] if overrides else []),
                *([clock] if clock else []),
            ],
            arguments=log,
            prefix=given["python"] or None,
            output="screen",
            emulate_tty=True,
        )
    ]
    if is_true(given["rviz"]):
        base = "/" + "/".join(part for part in (given["namespace"].strip("/"), "segzero") if part)
        started.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", os.path.join(share, "config", "segment.rviz")]
                + (["-f", given["fixed_frame"]] if given["fixed_frame"] else []),
                parameters=[clock] if clock else [],
                remappings=[
                    *((f"/segzero/{name}", f"{base}/{name}") for name in OUTPUTS),
                    *([(RECORDED, given["image_topic"])] if given["image_topic"] else []),
                ],
                output="screen",
            )
        )
    if bag:
        started.append(ExecuteProcess(cmd=["ros2", "bag", "play", bag, "--clock", "--loop"], output="screen"))
    return started


def generate_launch_description() -> LaunchDescription:
    declared = [DeclareLaunchArgument(name, default_value="", description=text) for name, text in ARGUMENTS.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=actions)])
