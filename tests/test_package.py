"""The repository as users install it: by colcon, by pip, and as something that other packages depend on."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parent.parent
PREFIX = Path(sys.prefix)
DOWNSTREAM = {
    "package.xml": """<package format="3"><name>picker</name><version>0.0.0</version><description>test</description>
<maintainer email="someone@example.com">someone</maintainer><license>Apache-2.0</license>
<buildtool_depend>ament_cmake</buildtool_depend><depend>segzero_ros</depend>
<export><build_type>ament_cmake</build_type></export></package>""",
    "CMakeLists.txt": """cmake_minimum_required(VERSION 3.16)
project(picker)
find_package(ament_cmake REQUIRED)
find_package(segzero_ros REQUIRED)
find_package(segzero_msgs REQUIRED)
add_executable(picker picker.cpp)
ament_target_dependencies(picker segzero_msgs)
install(TARGETS picker DESTINATION lib/${PROJECT_NAME})
ament_package()""",
    "picker.cpp": """#include <cstdio>
#include <segzero_msgs/msg/segmentation.hpp>
int main() {
  segzero_msgs::msg::Segmentation result;
  result.instances.resize(2);
  std::printf("%zu %d\\n", result.instances.size(), result.STATUS_NO_OBJECT);
}""",
}


def in_shell(script: str, cwd: Path) -> str:
    """Run a bash script as a user would after sourcing ROS 2; returns its output."""
    environment = {k: v for k, v in os.environ.items() if k not in ("AMENT_PREFIX_PATH", "PYTHONPATH", "COLCON_HOME")}
    environment |= {
        "PATH": f"{PREFIX / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "COLCON_LOG_LEVEL": "30",
    }
    done = subprocess.run(
        ["bash", "-ec", f"source {PREFIX}/setup.bash\n{script}"],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def files_of(folder: Path) -> dict[str, str]:
    """SHA-256 by path, of all that a build installs.

    Bytecode is no part of it, nor is the list that setuptools keeps of what it saw while it wrote its metadata:
    the second time it sees its own list.
    """
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.name != "SOURCES.txt"
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files under version control (also those not yet committed), as a fresh clone has them."""
    target = tmp_path_factory.mktemp("sources") / "segzero_ros"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> Iterator[Path]:
    """A workspace with the repository and a package that depends on it, after one plain `colcon build`."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "src" / "picker").mkdir(parents=True)
    (folder / "src" / "segzero_ros").symlink_to(sources)
    for name, text in DOWNSTREAM.items():
        (folder / "src" / "picker" / name).write_text(text)
    in_shell("colcon build --cmake-args -DBUILD_TESTING=OFF", folder)
    yield folder


def sourced(workspace: Path, script: str) -> str:
    return in_shell(f"source install/setup.bash\n{script}", workspace)


def test_one_plain_build_gives_the_node_and_the_messages(workspace: Path) -> None:
    index = workspace / "install/segzero_ros/share/ament_index/resource_index/packages"
    assert {path.name for path in index.iterdir()} == {"segzero_ros", "segzero_msgs"}
    origin = sourced(
        workspace, "python3 -c 'import segzero_msgs.msg as m, segzero_ros; print(m.__file__, segzero_ros.__file__)'"
    )
    assert all(path.startswith(str(workspace / "install")) for path in origin.split())


def test_a_package_downstream_depends_on_segzero_ros_and_finds_both(workspace: Path) -> None:
    assert sourced(workspace, "install/picker/lib/picker/picker").split() == ["2", "1"]


def test_launch_files_parameters_profiles_and_weights_are_installed(workspace: Path) -> None:
    share = workspace / "install/segzero_ros/share/segzero_ros"
    assert (share / "launch/segment.launch.py").is_file()
    names = {path.name for path in (share / "config").iterdir()}
    assert {"demo.yaml", "seg_zero_7b.yaml", "vision_reasoner_7b.yaml", "star.yaml"} <= names
    installed = sourced(workspace, "python3 -c 'import segzero_ros; print(segzero_ros.__path__[0])'").strip()
    for data in ("profiles", "weights"):
        for path in (ROOT / "segzero_ros" / data).rglob("*"):
            if path.is_file():
                assert (Path(installed) / path.relative_to(ROOT / "segzero_ros")).stat().st_size == path.stat().st_size


def test_the_node_starts_from_where_ros2_run_looks(workspace: Path) -> None:
    node = "install/segzero_ros/lib/segzero_ros/segzero"
    assert os.access(workspace / node, os.X_OK)
    probe = """
import os, signal, subprocess, sys, time
import rclpy
rclpy.init()
watcher = rclpy.create_node("watcher")
node = subprocess.Popen([sys.argv[1], "--ros-args", "-p", "autostart:=false"])
while node.poll() is None and "segzero" not in watcher.get_node_names():
    rclpy.spin_once(watcher, timeout_sec=0.1)
assert node.poll() is None, "the node ended"
node.send_signal(signal.SIGINT)
print("exit", node.wait(timeout=30))
"""
    (workspace / "probe.py").write_text(probe)
    assert "exit 0" in sourced(workspace, f"python3 probe.py {node}")


def test_a_second_build_changes_nothing(workspace: Path) -> None:
    before = files_of(workspace / "install")
    in_shell("colcon build --cmake-args -DBUILD_TESTING=OFF", workspace)
    assert files_of(workspace / "install") == before


def test_symlink_install_points_at_the_sources_and_a_second_build_succeeds(workspace: Path, sources: Path) -> None:
    build = "colcon build --symlink-install --packages-select segzero_ros --cmake-args -DBUILD_TESTING=OFF"
    places = "--build-base build_links --install-base install_links"
    script = (
        "source install_links/setup.bash && python3 -c "
        "'import segzero_ros.core.contract as t, segzero_msgs.msg as m; print(t.__file__, m.__file__)'"
    )
    origins = []
    for _ in range(2):
        in_shell(f"{build} {places}", workspace)
        origins.append(in_shell(script, workspace).split())
    assert origins[0] == origins[1]
    assert Path(origins[0][0]).resolve() == sources / "segzero_ros" / "core" / "contract.py"
    assert str(workspace / "install_links") in origins[0][1]
    assert os.access(workspace / "install_links/segzero_ros/lib/segzero_ros/segzero", os.X_OK)


def test_pip_builds_a_wheel_with_the_command_the_profiles_and_the_weights(sources: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    subprocess.run([*command, str(sources)], check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        entry_points = next(n for n in names if n.endswith("entry_points.txt"))
        assert "segzero = segzero_ros.cli:main" in wheel.read(entry_points).decode()
    data = {
        f"segzero_ros/{p.relative_to(sources / 'segzero_ros')}"
        for kind in ("profiles", "weights")
        for p in (sources / "segzero_ros" / kind).rglob("*")
        if p.is_file()
    }
    assert data and data <= names


def test_the_root_carries_what_the_messages_need_and_never_names_them() -> None:
    def needs(path: Path) -> set[str | None]:
        return {tag.text for tag in ElementTree.parse(path).getroot() if tag.tag.endswith("depend")}

    assert needs(ROOT / "msg" / "package.xml") - {"ament_cmake"} <= needs(ROOT / "package.xml")
    assert "segzero_msgs" not in needs(ROOT / "package.xml")
    for path in (ROOT / "package.xml", ROOT / "msg" / "package.xml"):
        group = ElementTree.parse(path).getroot().findtext("member_of_group")
        assert group == "rosidl_interface_packages"


def test_a_robot_without_a_screen_or_recordings_needs_neither_rviz_nor_rosbag2() -> None:
    needs = {tag.text for tag in ElementTree.parse(ROOT / "package.xml").getroot() if tag.tag.endswith("depend")}
    assert not {name for name in needs if name and name.startswith(("rviz", "ros2bag", "rosbag2"))}


def test_colcon_test_runs_tests_that_need_neither_torch_nor_a_graph(workspace: Path) -> None:
    """All of them are listed, one is run."""
    select = "--packages-select segzero_ros --build-base build_tests --install-base install_tests"
    in_shell(f"colcon build {select}", workspace)
    listed = in_shell("cd build_tests/segzero_ros && ctest -N", workspace)
    suite = {"core", "frames", "requests", "worker", "overlay", "launch"}
    assert {line.split()[-1] for line in listed.splitlines() if "Test #" in line} == suite
    test = "colcon test --event-handlers console_direct+ --return-code-on-test-failure"
    in_shell(f"{test} {select} --ctest-args -R launch", workspace)
    assert list((workspace / "build_tests/segzero_ros/test_results").rglob("launch.xunit.xml"))


def test_every_status_of_the_library_is_a_constant_of_the_message() -> None:
    from segzero_msgs.msg import Segmentation

    from segzero_ros.core.contract import Status

    values = [getattr(Segmentation, f"STATUS_{status.name}") for status in Status]
    assert sorted(values) == list(range(len(values)))


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_parameter_files_match_in_every_namespace(path: Path) -> None:
    """A file keyed by the node's bare name is silently ignored under a namespace."""
    assert list(yaml.safe_load(path.read_text())) == ["/**"]


def test_every_requirement_is_pinned_to_one_version() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        for line in path.read_text().splitlines():
            if line and not line.startswith(("#", "-c ", "-r ")):
                assert "==" in line, f"{path.name}: {line}"
