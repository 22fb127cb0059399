"""Start the node `segzero`: `ros2 launch segzero_ros segment.launch.py profile:=demo instruction:="the red mug"`.

An argument that is not set leaves the parameter to the YAML file. What the arguments mean, and every check of them,
is in segzero_ros/launching.py: a check that fails ends the launch with a sentence before anything is started.
"""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, LogInfo, OpaqueFunction
from launch.logging import launch_config
from launch_ros.actions import Node

from segzero_ros.launching import ARGUMENTS, NODE, plan

RESPAWN_DELAY = 2.0  # seconds; a node that dies at once does not fill the log


def actions(context: LaunchContext) -> list[Node | ExecuteProcess | LogInfo]:
    given = {name: context.launch_configurations.get(name, "") for name in ARGUMENTS}
    share = Path(get_package_share_directory("segzero_ros"))
    p = plan(given, share, os.environ, context.launch_configurations.get("ros_namespace", ""))

    def written(suffix: str, text: str) -> str:
        """A file beside the launch's logs; its name is the node's, so that several nodes have one each."""
        path = Path(launch_config.log_dir, (p.namespace.rstrip("/") + f"/{NODE}").strip("/").replace("/", ".") + suffix)
        path.write_text(text, encoding="utf-8")
        return str(path)

    clock = [] if p.use_sim_time is None else [{"use_sim_time": p.use_sim_time}]
    files = ([str(p.config)] if p.config else []) + ([written(".yaml", p.overrides)] if p.overrides else [])
    started: list[Node | ExecuteProcess | LogInfo] = [LogInfo(msg=note) for note in p.notes]
    started.append(
        Node(
            package="segzero_ros",
            executable="segzero",
            exec_name=NODE,  # what the log calls it, instead of the interpreter
            name=NODE,
            namespace=p.namespace,
            parameters=files,
            arguments=["--ros-args", "--log-level", p.log_level] if p.log_level else [],
            prefix=p.prefix or None,
            respawn=p.respawn,
            respawn_delay=RESPAWN_DELAY,
            additional_env=p.environment,
            output="screen",
            emulate_tty=True,
        )
    )
    if p.rviz:
        frame = ["-f", p.fixed_frame] if p.fixed_frame else []
        started.append(
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=p.namespace,
                arguments=["-d", written(".rviz", p.rviz), *frame],
                parameters=clock,
                remappings=list(p.rviz_remappings),
                additional_env=p.environment,
                output="screen",
            )
        )
    if p.bag:
        started.append(ExecuteProcess(cmd=list(p.bag), additional_env=p.environment, output="screen"))
    return started


def generate_launch_description() -> LaunchDescription:
    declared = [DeclareLaunchArgument(name, default_value="", description=text) for name, text in ARGUMENTS.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=actions)])
