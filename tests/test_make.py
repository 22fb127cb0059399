"""The demo and the tests are closed: whatever a robot developer's shell says, they start, and meet nobody else."""

from __future__ import annotations

import itertools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression, ExpressionMatcher

import closed
from tests.conftest import asks_for_gpu

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = ROOT / "Makefile"
# Many of these stop a process when they come through, or keep it from hearing another one.
SHELL = {
    "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp",
    "RMW_FASTRTPS_USE_QOS_FROM_XML": "1",
    "ROS_DOMAIN_ID": "robot1",
    "ROS_DISCOVERY_SERVER": "10.0.0.1:11811",
    "ROS_SUPER_CLIENT": "1",
    "ROS_STATIC_PEERS": "10.0.0.9",
    "ROS_LOCALHOST_ONLY": "yes please",
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "GALAXY",
    "ROS_SECURITY_ENABLE": "true",
    "ROS_SECURITY_STRATEGY": "Enforce",
    "ROS_LOG_DIR": "/proc/nothing",
    "ROS_HOME": "/proc/nothing",
    "ROS_DISTRO": "humble",
    "CYCLONEDDS_URI": "file:///nonexistent.xml",
    "FASTRTPS_DEFAULT_PROFILES_FILE": "/nonexistent.xml",
    "FASTDDS_DEFAULT_PROFILES_FILE": "/nonexistent.xml",
    "FASTDDS_BUILTIN_TRANSPORTS": "pigeons",
    "RCUTILS_CONSOLE_OUTPUT_FORMAT": "{",
    "RCUTILS_LOGGING_USE_STDOUT": "7",
    "RCUTILS_COLORIZED_OUTPUT": "9",
    "AMENT_PREFIX_PATH": "/opt/ros/jazzy",
    "COLCON_PREFIX_PATH": "/home/me/robot/install",
    "CMAKE_PREFIX_PATH": "/opt/ros/jazzy",
}
# Python and the loader read these when they start, so that only make can drop them.
EARLY = {
    "PYTHONHOME": "/nonexistent",
    "PYTHONSTARTUP": "/nonexistent.py",
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
    "PYTHONIOENCODING": "ascii",
    "BASH_ENV": "/nonexistent.sh",
    "LD_LIBRARY_PATH": "/opt/ros/jazzy/lib:/home/me/robot/install/arm/lib:/usr/lib/somewhere",
}
# Two processes: what the child says, the parent hears.
MEET = """
import os, signal, sys, time
child = os.fork()
import rclpy
from std_msgs.msg import String
rclpy.init()
node, heard = rclpy.create_node("mouth" if child == 0 else "ear"), []
say = node.create_publisher(String, "word", 1)
ear = child and node.create_subscription(String, "word", heard.append, 1)
end = time.monotonic() + 20
while not heard and time.monotonic() < end:
    if child == 0:
        say.publish(String(data="färbung"))
    rclpy.spin_once(node, timeout_sec=0.05)
if child == 0:
    os._exit(0)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
assert heard and heard[0].data == "färbung", "not a word from the other process"
assert sys.flags.optimize == 0
"""
TELL = 'print("ENVIRONMENT", sorted(f"{k}={v}" for k, v in os.environ.items()))\n'


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the Python part of a sourced ROS 2 that is made for another Python."""
    folder = tmp_path_factory.mktemp("sourced")
    for name in ("rclpy", "std_msgs"):
        (folder / f"{name}.py").write_text("raise ImportError('the ROS of the shell')")
    return folder


def through_make(script: str, folder: Path, shell: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script as a target of the Makefile would."""
    (folder / "script.py").write_text(script, encoding="utf-8")
    rule = f"include Makefile\nscript:\n\t@$(PY) {folder / 'script.py'}\n"
    (folder / "Makefile").write_text(rule)
    command = ["make", "-s", "-f", str(folder / "Makefile"), "script", f"VENV={os.path.relpath(sys.prefix, ROOT)}"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | shell, capture_output=True, text=True)


def test_what_make_starts_sees_nothing_of_the_shell(foreign: Path, tmp_path: Path) -> None:
    ended = through_make(MEET + TELL, tmp_path, SHELL | EARLY | {"PYTHONPATH": str(foreign)})
    assert ended.returncode == 0, ended.stdout + ended.stderr
    kept = {"ROS_AUTOMATIC_DISCOVERY_RANGE", "AMENT_PREFIX_PATH", "LD_LIBRARY_PATH"}
    for name in (SHELL.keys() | EARLY.keys() | {"PYTHONPATH"}) - kept:
        assert f"'{name}=" not in ended.stdout, name
    assert "GALAXY" not in ended.stdout and "/opt/ros" not in ended.stdout and "/home/me" not in ended.stdout
    assert "/usr/lib/somewhere" in ended.stdout, "a library path that has nothing to do with ROS stays"


@pytest.mark.parametrize("name", [*SHELL, "PYTHONPATH"])
def test_processes_without_make_are_closed_too(name: str, foreign: Path) -> None:
    """As tests/conftest.py and examples/demo.py do; the import path is conftest's part."""
    environment = os.environ | {name: SHELL.get(name, str(foreign))}
    script = "import sys\nsys.path[:0] = ['.', 'examples']\nimport tests.conftest\n" + MEET
    command = [sys.executable, "-X", "utf8", "-c", script]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_two_runs_at_once_have_different_domains() -> None:
    mine = [closed.claim_domain() for _ in range(3)]
    script = "import closed; print(*[closed.claim_domain() for _ in range(20)])"
    command = [sys.executable, "-c", script]
    environment = os.environ | {"PYTHONPATH": "examples"}
    other = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    domains = [*mine, *map(int, other), int(os.environ["ROS_DOMAIN_ID"])]
    assert len(set(domains)) == 24 and all(1 <= domain <= 100 for domain in domains)


def test_a_domain_in_which_somebody_listens_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    robot = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    free, taken = closed.claim_domain(), closed.claim_domain()
    for claim in closed._claims[-2:]:
        claim.close()
    robot.bind(("", 7400 + 250 * taken))  # where the participants of a domain find each other
    monkeypatch.setattr(closed, "DOMAINS", (free, taken))
    assert closed.claim_domain() == free
    with pytest.raises(RuntimeError, match="in use"):
        closed.claim_domain()
    robot.close()


def carried(marks: set[str]) -> ExpressionMatcher:
    def is_carried(name: str, /, **_: str | int | bool | None) -> bool:
        return name in marks

    return is_carried


def test_every_test_that_needs_no_gpu_is_in_one_of_the_runs_that_ci_makes() -> None:
    rules = re.findall(r"^(test[a-z-]*):.*\n(?:\t.*\n)*?\t.*pytest -m \"([^\"]+)\" *(.*)", MAKEFILE.read_text(), re.M)
    runs = {target: Expression.compile(marks) for target, marks, files in rules if "ROS_TESTS" not in files}
    assert set(runs) == {"test", "test-system", "test-long", "test-vllm"}
    script = (ROOT / ".ci" / "run").read_text()
    assert all(re.search(rf"make {target} ", script) for target in runs)
    for marks in itertools.product((True, False), repeat=3):
        has = {name for name, given in zip(("long", "system", "vllm"), marks, strict=True) if given}
        chosen = [target for target, run in runs.items() if run.evaluate(carried(has))]
        assert len(chosen) == 1, (has, chosen)


def test_tests_see_no_gpu_unless_they_are_asked_for(request: pytest.FixtureRequest) -> None:
    assert not any(asks_for_gpu(m) for m in ("", "long", "not gpu", "not long and not gpu"))
    assert asks_for_gpu("gpu") and asks_for_gpu("not long and gpu")
    if not asks_for_gpu(request.config.option.markexpr):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
