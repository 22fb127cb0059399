"""`segzero doctor` sees what is wrong: broken wheels, old versions, GPUs that torch was not built for, ROS's own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segzero_ros import doctor
from segzero_ros.imports import Trial, try_imports
from segzero_ros.profiles import load_profile
from segzero_ros.ros.main import _started, broken_rclpy

ROOT = Path(__file__).resolve().parent.parent


def fake_torch(
    arch: list[str],
    capability: tuple[int, int],
    bfloat16: bool = True,
    free: float = 8e9,
    fails: str = "",
    computes: bool = True,
) -> Any:
    def memory() -> tuple[int, int]:
        if fails:
            raise RuntimeError(fails)
        return int(free), int(2 * free)

    cuda = SimpleNamespace(
        is_available=lambda: True,
        get_arch_list=lambda: arch,
        get_device_capability=lambda: capability,
        get_device_name=lambda: "Orin",
        mem_get_info=memory,
        is_bf16_supported=lambda including_emulation=True: bfloat16,
    )

    def ones(count: int, device: str) -> Any:
        if not computes:
            raise RuntimeError(
                "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors"
            )
        return np.ones(count)

    return SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="12.6"), ones=ones)


@pytest.mark.parametrize(
    ("built", "capability", "fitting"),
    [
        (["sm_80", "sm_87"], (8, 7), True),
        (["sm_80"], (8, 9), True),
        (["sm_89"], (8, 6), False),
        (["sm_80", "sm_86", "sm_90"], (8, 7), False),
        (["sm_87"], (8, 9), False),
        (["compute_80"], (8, 7), True),
        (["sm_90"], (8, 7), False),
        (["sm_80", "sm_90"], (12, 0), False),
        (["sm_90", "compute_90"], (12, 0), True),
        (["sm_120"], (12, 0), True),
        (["sm_100a"], (10, 0), True),
        (["sm_100a"], (10, 3), False),
        (["sm_100f"], (10, 3), True),
        ([], (8, 7), False),
        (["odd"], (8, 7), False),
    ],
)
def test_a_gpu_that_torch_was_not_built_for_is_noted(
    built: list[str], capability: tuple[int, int], fitting: bool
) -> None:
    lines = list(doctor.check_torch(fake_torch(built, capability)))
    assert [mark for mark, _, _ in lines] == ["ok" if fitting else "note"]
    assert f"sm_{capability[0]}{capability[1]}" in lines[0][1]


def test_a_torch_that_cannot_compute_on_the_gpu_is_bad() -> None:
    """Whatever its list says."""
    lines = list(doctor.check_torch(fake_torch(["sm_80", "sm_87"], (8, 7), computes=False)))
    mark, what, advice = lines[0]
    assert mark == "bad" and "sm_87" in what and "no kernel image" in what and "Jetson" in advice


def test_amds_names_are_not_compared_with_nvidias() -> None:
    torch = fake_torch(["gfx90a"], (9, 0))
    torch.version = SimpleNamespace(cuda=None, hip="6.2")
    assert [mark for mark, _, _ in doctor.check_torch(torch)] == ["ok"]


def test_emulated_bfloat16_is_noted() -> None:
    lines = list(doctor.check_torch(fake_torch(["sm_75"], (7, 5), bfloat16=False)))
    assert lines[1][0] == "note" and "emulation" in lines[1][1] and "float16" in lines[1][2]


def test_a_driver_that_fails_is_a_line() -> None:
    lines = list(doctor.check_torch(fake_torch(["sm_87"], (8, 7), fails="CUDA driver version is insufficient")))
    assert lines[-1][0] == "bad" and "driver version" in lines[-1][1]


@pytest.mark.parametrize(
    ("source", "mark", "words"),
    [
        ("__version__ = '9.1'", "ok", "9.1"),
        ("__version__ = '1.9'", "bad", "too old"),
        ("__version__ = '10.0'", "bad", "too new"),
        ("raise ImportError('libGL.so.1: cannot open')", "bad", "libGL"),
        ("raise OSError('undefined symbol')", "bad", "undefined symbol"),
        ("import sys; sys.exit(3)", "bad", "cannot be imported"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "bad", "SIGILL"),
        ("import a_module_that_is_not_there", "bad", "a_module_that_is_not_there"),
    ],
)
def test_libraries_are_imported_and_their_versions_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, mark: str, words: str
) -> None:
    name = f"brought_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    found, what, advice = doctor.check_library(name, "a-distribution", "2.10", "10")
    assert found == mark and words in what and bool(advice) == (mark == "bad")


def test_a_library_that_is_not_there_is_named_with_its_command() -> None:
    mark, what, advice = doctor.check_library("not_there_at_all", "a-distribution", "1.0", "")
    assert (mark, what) == ("bad", "a-distribution is missing") and "pip install 'a-distribution>=1.0'" in advice


def test_a_module_that_ends_the_process_hides_none_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_for_another_processor.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    (tmp_path / "talkative.py").write_text(
        "import os; os.write(1, b'welcome\\n'); print('welcome')\n__version__ = '3.1'"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    trials = try_imports(["talkative", "made_for_another_processor", "json", "not_there_at_all"])
    assert [trial.works for trial in trials.values()] == [True, False, True, False]
    assert trials["talkative"].version == "3.1" and trials["not_there_at_all"].lacks == "not_there_at_all"


@pytest.mark.parametrize("module", ["numpy", "yaml"])
@pytest.mark.parametrize("kind", ["ImportError", "ModuleNotFoundError"])
def test_it_works_where_the_package_does_not(tmp_path: Path, module: str, kind: str) -> None:
    (tmp_path / f"{module}.py").write_text(f"raise {kind}('{module} is broken', name='{module}')")
    command = [sys.executable, "-m", "segzero_ros.cli", "doctor", "--profile", "demo"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    shown = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert shown.returncode == 1 and "Traceback" not in shown.stderr
    assert "[bad ] the checkpoints cannot be looked at" in shown.stdout and "the hub's cache" in shown.stdout
    distribution = {"numpy": "numpy", "yaml": "PyYAML"}[module]
    assert re.search(rf"\[bad \] {distribution} (is missing|cannot be imported)", shown.stdout)


def test_a_middleware_that_is_not_installed_is_bad(tmp_path: Path) -> None:
    index = tmp_path / "share/ament_index/resource_index/rmw_typesupport"
    index.mkdir(parents=True)
    (index / "rmw_fastrtps_cpp").write_text("")
    for name, mark in (("rmw_fastrtps_cpp", "ok"), ("rmw_cyclonedds_cpp", "bad"), ("../packages/x", "bad")):
        settings = {"AMENT_PREFIX_PATH": f"/nowhere:{tmp_path}", "RMW_IMPLEMENTATION": name}
        assert [m for m, what, _ in doctor.check_discovery(settings) if "RMW" in what] == [mark], name


def test_its_versions_are_those_of_the_package() -> None:
    required = dict(re.findall(r'"([A-Za-z_-]+)>=([^",]+)', (ROOT / "setup.py").read_text()))
    for distribution, lowest, _ in doctor.LIBRARIES.values():
        if distribution in required:
            assert required[distribution] == lowest, distribution
    assert required["torch"] == doctor.TORCH and required["transformers"] == "5.5"
    for distribution, lowest, too_new in doctor.LIBRARIES.values():
        installed = importlib.metadata.version(distribution)
        assert doctor.lowest_holds(installed, lowest)
        assert not too_new or not doctor.lowest_holds(installed, too_new)


@pytest.mark.parametrize(
    ("version", "lowest", "holds"),
    [("5.10.0", "5.5", True), ("5.2.0", "5.5", False), ("5.5.0.dev0", "5.5", True), ("2.5.0a0+nv24", "2.5", True)],
)
def test_versions_are_compared_by_their_numbers(version: str, lowest: str, holds: bool) -> None:
    assert doctor.lowest_holds(version, lowest) == holds


@pytest.mark.parametrize(
    ("environment", "mark", "words"),
    [
        ({"ROS_DOMAIN_ID": "robot1"}, "bad", "ROS_DOMAIN_ID"),
        ({"ROS_DOMAIN_ID": "233"}, "bad", "232"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCAL"}, "bad", "no range"),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, "ok", "LOCALHOST"),
        ({"ROS_DOMAIN_ID": "7"}, "ok", "ROS_DOMAIN_ID=7"),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": "/nowhere/x.xml"}, "bad", "not there"),
        ({"CYCLONEDDS_URI": "<CycloneDDS/>"}, "ok", "CYCLONEDDS_URI"),
        ({"ROS_LOCALHOST_ONLY": "1"}, "ok", "ROS_LOCALHOST_ONLY=1"),
        ({}, "ok", "RMW_IMPLEMENTATION is not set"),
    ],
)
def test_settings_that_decide_who_hears_whom_are_told(environment: dict[str, str], mark: str, words: str) -> None:
    assert any(m == mark and words in what for m, what, _ in doctor.check_discovery(environment))


def test_a_proxy_is_told_without_its_password(tmp_path: Path) -> None:
    settings = {"HTTPS_PROXY": "socks5://me:secret@proxy:1080", "HF_HOME": str(tmp_path / "hub")}
    lines = list(doctor.check_hub(settings))
    assert any("proxy:1080" in what and mark == "note" for mark, what, _ in lines)
    assert "secret" not in json.dumps(lines)
    assert any("GB free" in what for _, what, _ in lines)


def test_a_profile_that_is_too_large_for_the_machine_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("segzero_ros.rehearse.machine.free_memory", lambda device: 6e9)
    (line,) = doctor.check_memory(torch, load_profile("seg-zero"))
    assert line[0] == "note" and "6.0 are free" in line[1] and "8." in line[1]
    (line,) = doctor.check_memory(torch, load_profile("demo"))
    assert line[0] == "ok"


def test_its_checks_can_be_read_by_a_program() -> None:
    command = [sys.executable, "-m", "segzero_ros.cli", "doctor", "--profile", "demo", "--json"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    found = json.loads(shown.stdout)
    assert {line["mark"] for line in found} <= {"ok", "note", "bad"}
    assert any(line["what"] == "demo: reasoner embedded" for line in found)


def rclpy_of(folder: Path, version: str) -> Path:
    """rclpy's __init__.py as an installation has it, which tells its version in its package.xml."""
    (folder / "share" / "rclpy").mkdir(parents=True)
    package = f"<package><name>rclpy</name>\n  <version>{version}</version></package>"
    (folder / "share" / "rclpy" / "package.xml").write_text(package)
    return folder / "lib" / "python3.12" / "site-packages" / "rclpy" / "__init__.py"


@pytest.mark.parametrize(
    ("version", "broken"), [("7.1.8", False), ("7.1.9", True), ("7.1.10", False), ("9.1.0", False)]
)
def test_the_rclpy_that_mixes_up_results_of_actions_is_refused(tmp_path: Path, version: str, broken: bool) -> None:
    file = str(rclpy_of(tmp_path, version))
    why = broken_rclpy(file)
    assert ("7.1.10" in why) == broken
    trials = {name: Trial(True, file=file) for name in ("rclpy", *doctor.ROS)}
    bad = [what for mark, what, _ in doctor.check_ros({}, trials) if mark == "bad"]
    assert bad == ([why] if broken else [])


def test_a_node_on_that_rclpy_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rclpy

    monkeypatch.setattr(rclpy, "__file__", str(rclpy_of(tmp_path, "7.1.9")))
    with pytest.raises(ValueError, match=r"^rclpy 7\.1\.9 .* take 7\.1\.10"):
        _started(["segzero"])


def test_tf2_is_a_note_where_it_is_missing() -> None:
    trials = {name: Trial(True, file="/nowhere/rclpy/__init__.py") for name in ("rclpy", *doctor.ROS)}
    assert ("ok", "tf2_ros", "") in list(doctor.check_ros({}, trials))
    trials["tf2_ros"] = Trial(False, reason="ModuleNotFoundError: No module named 'tf2_ros'", lacks="tf2_ros")
    ((mark, _, advice),) = [line for line in doctor.check_ros({}, trials) if line[1].startswith("tf2_ros")]
    assert mark == "note" and "tf2-ros-py" in advice and "target_frame" in advice
