"""What `ros2 launch` gets from the launch arguments: the plan, or one sentence before anything is started."""

from __future__ import annotations

import ast
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from segzero_ros import launching
from segzero_ros.launching import LaunchError, Plan
from segzero_ros.ros import parameters

ROOT = Path(__file__).resolve().parent.parent
LAUNCH_FILE = ROOT / "launch" / "segment.launch.py"
PLAYER = ("ros2bag", "rosbag2_storage_mcap")
Planner = Callable[..., Plan]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    """A plan from arguments, on a machine that has the packages and a command `ros2`.

    Each package is a prefix with its marker in the ament index. The repository has the layout of the share folder.
    """
    prefixes = tmp_path_factory.mktemp("prefixes")
    program(prefixes / "bin" / "ros2", "exit 0")

    def plan(packages: tuple[str, ...] = (), screen: bool = True, pushed: str = "", **arguments: str) -> Plan:
        for name in packages:
            index = prefixes / name / "share/ament_index/resource_index/packages"
            index.mkdir(parents=True, exist_ok=True)
            (index / name).touch()
        machine = {
            "AMENT_PREFIX_PATH": os.pathsep.join(str(prefixes / name) for name in packages),
            "PATH": str(prefixes / "bin"),
            "ROS_DISTRO": "jazzy",
        }
        return launching.plan(arguments, ROOT, machine | ({"DISPLAY": ":0"} if screen else {}), pushed)

    return plan


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def written(p: Plan) -> dict[str, Any]:
    """The parameters that the arguments set."""
    return next(iter(yaml.safe_load(p.overrides).values()))["ros__parameters"] if p.overrides else {}


def config(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


# -- the arguments


def test_what_is_not_set_is_left_to_the_parameter_file(plan: Planner) -> None:
    assert plan() == Plan(namespace="/", config=ROOT / "config" / "demo.yaml")


def test_arguments_become_parameters(plan: Planner) -> None:
    texts = {
        "profile": "star",
        "device": "cuda:1",
        "image_topic": "/cam",
        "image_transport": "compressed",
        "mode": "continuous",
    }
    assert written(plan(**texts, autostart="False", use_sim_time="1")) == texts | {
        "autostart": False,
        "use_sim_time": True,
    }


def test_every_parameter_that_is_set_is_one_of_the_node() -> None:
    assert {*launching.TEXTS, "autostart"} <= parameters.BY_NAME.keys()
    for name in {*launching.TEXTS} & launching.CHOICES.keys():
        assert launching.CHOICES[name] == parameters.BY_NAME[name].choices
    for name, default in launching.DEFAULTS.items():
        assert default == parameters.BY_NAME[name].default


@given(st.text(min_size=1))
def test_an_instruction_is_text_whatever_it_looks_like(text: str) -> None:
    file = launching.parameter_file("/**", {"instruction": text})
    assert yaml.safe_load(file) == {"/**": {"ros__parameters": {"instruction": text}}}


@pytest.mark.parametrize("text", ["7", "no", "y", "1e5", "nan", "null", "[a]", "{a: b}", "# a", "'", '"'])
def test_an_instruction_is_quoted_for_rcl_which_reads_bare_words_by_rules_of_its_own(text: str, plan: Planner) -> None:
    assert 'instruction: "' in plan(instruction=text).overrides
    assert written(plan(instruction=text)) == {"instruction": text}


@pytest.mark.parametrize("name", ["autostart", "use_sim_time", "respawn", "rviz"])
def test_a_switch_is_true_or_false(name: str, plan: Planner) -> None:
    with pytest.raises(LaunchError, match=f"^{name} is true or false, not 'maybe'.$"):
        plan(**{name: "maybe"})


@pytest.mark.parametrize(("name", "wrong"), [("mode", "often"), ("image_transport", "theora"), ("log_level", "loud")])
def test_a_choice_is_named_with_what_there_is(name: str, wrong: str, plan: Planner) -> None:
    with pytest.raises(LaunchError, match=f"^{name} is one of {', '.join(launching.CHOICES[name])}, not '{wrong}'.$"):
        plan(**{name: wrong})


def test_a_log_level_is_taken_in_any_case(plan: Planner) -> None:
    assert plan(log_level="DEBUG").log_level == "debug"


def test_bytes_that_are_no_text_are_refused(plan: Planner) -> None:
    with pytest.raises(LaunchError, match=r"^instruction is not UTF-8: 'red\\udce9'.$"):
        plan(instruction=b"red\xe9".decode(errors="surrogateescape"))


@pytest.mark.parametrize(
    ("own", "pushed", "full"),
    [
        ("", "", "/"),
        ("/", "", "/"),
        ("robot1", "", "/robot1"),
        ("/robot1/", "", "/robot1"),
        ("left", "fleet/robot1", "/fleet/robot1/left"),
        ("", "/robot1", "/robot1"),
        ("/left", "/robot1", "/left"),
    ],
)
def test_a_namespace_is_made_absolute_as_ros_makes_it(own: str, pushed: str, full: str, plan: Planner) -> None:
    assert plan(namespace=own, pushed=pushed).namespace == full


@pytest.mark.parametrize("wrong", ["a//b", "my robot", "1st", "~x"])
def test_a_namespace_that_is_none_is_refused(wrong: str, plan: Planner) -> None:
    with pytest.raises(LaunchError, match=f"^'{wrong}' is not a namespace"):
        plan(namespace=wrong)


@pytest.mark.parametrize("wrong", ["a//b", "my cam", "/cam/", "/"])
def test_a_topic_that_is_none_is_refused(wrong: str, plan: Planner) -> None:
    with pytest.raises(LaunchError, match=f"^'{wrong}' is not a topic's name"):
        plan(image_topic=wrong)


def test_respawn_is_asked_for(plan: Planner) -> None:
    assert plan(respawn="true").respawn and not plan(respawn="false").respawn and not plan().respawn


# -- the parameter file


@pytest.mark.parametrize(("profile", "name"), [("seg-zero", "seg_zero_7b"), ("star", "star"), ("", "demo")])
def test_a_profile_brings_its_parameter_file(profile: str, name: str, plan: Planner) -> None:
    assert plan(profile=profile).config == ROOT / "config" / f"{name}.yaml"


def test_every_profile_of_the_package_has_one_or_needs_none(plan: Planner) -> None:
    profiles = {path.stem for path in (ROOT / "segzero_ros" / "profiles").glob("*.yaml")}
    assert launching.CONFIGS.keys() - {""} <= profiles
    assert plan(profile="qwen3-vl").config is None
    assert plan(profile="/mine/profile.yaml").config is None


def test_a_parameter_file_is_found_by_path_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Planner
) -> None:
    path = config(tmp_path, "/**: {ros__parameters: {profile: star}}")
    monkeypatch.chdir(tmp_path)
    assert plan(config=path).config == plan(config="mine.yaml").config == tmp_path / "mine.yaml"
    assert plan(config="star").config == plan(config="star.yaml").config == ROOT / "config" / "star.yaml"


def test_a_parameter_file_that_is_missing_is_named_with_those_that_there_are(plan: Planner) -> None:
    with pytest.raises(LaunchError, match=r"^There is no parameter file 'stars'; the package has demo, seg_zero_7b, "):
        plan(config="stars")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("profile: demo", "is not a parameter file: write '/\\*\\*:'"),
        ("- a", "is not a parameter file: "),
        ("ros__parameters: {profile: demo}", "is not a parameter file: "),
        ("/**: {ros__parameters: }", "is not a parameter file: "),
        ("/**: {ros__parameters: {profile: demo}, stray: 1}", "is not a parameter file: "),
        ("segzero:\n\tros__parameters:", "is not YAML: found character '\\\\t' that cannot start any token in line 2."),
        ("/**: {ros__parameters: {a: &x 1, b: *x}}", "has a YAML alias"),
        ("other: {ros__parameters: {a: 1}}", "has parameters for /other and none for /segzero: write"),
        ("/robot1/segzero: {ros__parameters: {a: 1}}", "has parameters for /robot1/segzero and none for /segzero: "),
        ("/**: {ros__parameters: {image_topic: }}", 'gives image_topic no value; an empty text is "".'),
    ],
)
def test_a_parameter_file_that_the_node_would_not_read_is_refused(
    text: str, sentence: str, tmp_path: Path, plan: Planner
) -> None:
    with pytest.raises(LaunchError, match=rf"^{tmp_path}/mine.yaml {sentence}"):
        plan(config=config(tmp_path, text))


def test_bytes_that_are_no_text_are_no_parameter_file(tmp_path: Path, plan: Planner) -> None:
    for content in (b"a: \xe9", b"a: \x07"):
        (tmp_path / "mine.yaml").write_bytes(content)
        with pytest.raises(LaunchError, match=r"mine.yaml is not YAML: it has bytes that are no text.$"):
            plan(config=str(tmp_path / "mine.yaml"))


def test_an_empty_parameter_file_sets_nothing(tmp_path: Path, plan: Planner) -> None:
    assert plan(config=config(tmp_path, "# nothing yet\n")).config == tmp_path / "mine.yaml"


@pytest.mark.parametrize("key", ["/**", "/*", "/segzero", "segzero", "/**/segzero"])
def test_keys_that_stand_for_the_node(key: str, tmp_path: Path, plan: Planner) -> None:
    assert plan(config=config(tmp_path, f"'{key}': {{ros__parameters: {{a: 1}}}}")).config


@pytest.mark.parametrize("key", ["/**", "/robot1/segzero", "robot1/segzero", "/*/segzero", "/**/segzero"])
def test_keys_that_stand_for_the_node_in_a_namespace(key: str, tmp_path: Path, plan: Planner) -> None:
    assert plan(namespace="robot1", config=config(tmp_path, f"'{key}': {{ros__parameters: {{a: 1}}}}")).config


def test_namespaces_may_be_nested_and_other_nodes_have_sections_too(tmp_path: Path) -> None:
    text = "robot1: {segzero: {ros__parameters: {mode: once}}, other: {ros__parameters: {mode: 5}}}"
    path = config(tmp_path, text)
    assert launching.read_config(Path(path), "/robot1/segzero") == ("/robot1/segzero", {"mode": "once"})


def test_an_argument_wins_over_the_last_section_of_the_parameter_file(tmp_path: Path, plan: Planner) -> None:
    """rcl: of several sections for a node the one whose key came up last wins, in whichever file its value is."""
    general, own = "/**: {ros__parameters: {mode: once}}\n", "/segzero: {ros__parameters: {mode: once}}\n"
    for text, key in ((general + own, "/segzero"), (own + general, "/**")):
        p = plan(config=config(tmp_path, text), mode="continuous")
        assert yaml.safe_load(p.overrides) == {key: {"ros__parameters": {"mode": "continuous"}}}


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_the_package_s_parameter_files_hold_what_differs_from_the_defaults(path: Path) -> None:
    _, values = launching.read_config(path, "/any/where/segzero")
    for name, value in values.items():
        assert parameters.validate(name, value) is None
        assert parameters.BY_NAME[name].default != value, name


# -- the interpreter


def test_an_interpreter_is_found_by_path_and_by_name(tmp_path: Path, plan: Planner) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "snake").symlink_to(sys.executable)
    # Its link stays, as that of a virtual environment has to, and launch splits the prefix like a shell.
    assert shlex.split(plan(python=str(folder / "snake")).prefix) == [str(folder / "snake")]
    assert launching.find_interpreter("snake", {"PATH": str(folder)}) == str(folder / "snake")


def test_what_is_no_interpreter_is_refused(tmp_path: Path, plan: Planner) -> None:
    (tmp_path / "text").write_text("#!/bin/sh\n")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    program(tmp_path / "other", "echo hello")
    program(tmp_path / "old", "echo version 3 8")
    program(tmp_path / "failing", "exit 3")
    (tmp_path / "broken").write_bytes(b"\x7fELF")
    (tmp_path / "broken").chmod(0o755)
    sentences = {
        "nothing": "does not exist.",
        "text": "is not executable.",
        "venv": f"is a folder, not an interpreter; it has {tmp_path}/venv/bin/python.",
        "other": "is not a Python 3.",
        "failing": "is not a Python 3.",
        "old": "is Python 3.8; the node needs 3.10 or later.",
        "broken": "cannot be run: Exec format error.",
    }
    for name, sentence in sentences.items():
        with pytest.raises(LaunchError) as caught:
            plan(python=str(tmp_path / name))
        assert str(caught.value) == f"python:={tmp_path}/{name} {sentence}"


# -- DDS


def test_a_dds_profile_is_found_by_path_by_name_and_by_true(tmp_path: Path) -> None:
    path = tmp_path / "config" / "fastdds_large_frames.xml"
    path.parent.mkdir()
    path.write_text('<dds xmlns="http://www.eprosima.com"><profiles/></dds>')
    for text in ("true", "large_frames", "fastdds_large_frames", "fastdds_large_frames.xml", str(path)):
        assert launching.find_dds_profile(text, tmp_path) == path
    assert launching.find_dds_profile("false", tmp_path) is launching.find_dds_profile("", tmp_path) is None


def test_a_dds_profile_reaches_every_distro_s_variable(tmp_path: Path, plan: Planner) -> None:
    path = tmp_path / "mine.xml"
    path.write_text("<profiles/>")
    assert plan(dds_profile=str(path)).environment == {
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(path),
        "FASTDDS_DEFAULT_PROFILES_FILE": str(path),
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("<dds>", "is not XML: no element found"), ("<html/>", "is not a Fast DDS profile: its root")],
)
def test_a_dds_profile_that_fast_dds_would_ignore_is_refused(
    text: str, sentence: str, tmp_path: Path, plan: Planner
) -> None:
    path = tmp_path / "mine.xml"
    path.write_text(text)
    with pytest.raises(LaunchError, match=f"^{path} {sentence}"):
        plan(dds_profile=str(path))


def test_a_dds_profile_that_is_missing_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"^There is no DDS profile 'huge'; the package has none.$"):
        launching.find_dds_profile("huge", tmp_path)


def test_a_dds_profile_without_fast_dds_is_said_to_be_idle(tmp_path: Path) -> None:
    path = tmp_path / "mine.xml"
    path.write_text("<profiles/>")
    arguments = {"dds_profile": str(path)}
    (note,) = launching.plan(arguments, ROOT, {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}).notes
    assert note.startswith("dds_profile has no effect")
    assert not launching.plan(arguments, ROOT, {"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}).notes


# -- the recording


def test_the_demo_recording_is_played_with_its_clock_to_its_camera(plan: Planner) -> None:
    p = plan(PLAYER, bag="demo")
    assert p.bag == ("ros2", "bag", "play", str(ROOT / "examples" / "demo.mcap"), "--clock", "--loop")
    recorded = {"image_topic": launching.RECORDED, "depth_topic": launching.RECORDED_DEPTH}
    assert written(p) == recorded | {"use_sim_time": True}
    assert written(plan(PLAYER, bag="demo", image_topic="/mine", use_sim_time="false")) == {
        "image_topic": "/mine",
        "use_sim_time": False,
    }


def test_a_player_that_is_missing_is_named_with_its_package(plan: Planner) -> None:
    with pytest.raises(LaunchError) as caught:
        plan(bag="demo")
    assert str(caught.value) == (
        "bag:=demo needs ros2bag and rosbag2_storage_mcap, which are not installed here: "
        "sudo apt install ros-jazzy-ros2bag ros-jazzy-rosbag2-storage-mcap"
    )


def test_a_storage_that_is_missing_is_named_with_its_package(tmp_path: Path, plan: Planner) -> None:
    with pytest.raises(LaunchError) as caught:
        plan(("ros2bag",), bag="demo")
    assert str(caught.value) == (
        "bag:=demo needs rosbag2_storage_mcap, which is not installed here: "
        "sudo apt install ros-jazzy-rosbag2-storage-mcap"
    )


def test_a_recording_tells_its_storage_by_its_name_or_its_metadata(tmp_path: Path, plan: Planner) -> None:
    assert launching.storage_of(Path("a.mcap")) == "mcap"
    assert launching.storage_of(Path("a.db3")) == "sqlite3"
    (tmp_path / "metadata.yaml").write_text("rosbag2_bagfile_information:\n  storage_identifier: sqlite3\n")
    assert launching.storage_of(tmp_path) == "sqlite3"
    assert plan(("ros2bag", "rosbag2_storage_sqlite3"), bag=str(tmp_path)).bag[3] == str(tmp_path)


def test_what_is_no_recording_is_refused(tmp_path: Path, plan: Planner) -> None:
    with pytest.raises(LaunchError, match=f"^bag:={tmp_path}/a.mcap: there is no recording {tmp_path}/a.mcap.$"):
        plan(PLAYER, bag=f"{tmp_path}/a.mcap")
    with pytest.raises(LaunchError, match=r"without metadata\.yaml"):
        plan(PLAYER, bag=str(tmp_path))


def test_the_demo_recording_is_of_raw_images(tmp_path: Path, plan: Planner) -> None:
    path = config(tmp_path, "/**: {ros__parameters: {image_transport: compressed}}")
    for arguments in ({"image_transport": "compressed"}, {"config": path}):
        with pytest.raises(LaunchError, match=r"^The demo recording holds raw images only"):
            plan(PLAYER, bag="demo", **arguments)


# -- RViz


def shown(p: Plan) -> dict[str, str]:
    """Topic by display, as RViz reads its configuration."""
    displays = yaml.safe_load(p.rviz)["Visualization Manager"]["Displays"]
    return {d["Name"]: d["Topic"]["Value"] for d in displays if "Topic" in d}


def test_rviz_shows_the_topics_of_the_node_in_its_namespace(plan: Planner) -> None:
    p = plan(("rviz2",), rviz="true", namespace="left", pushed="robot1", image_topic="camera/image")
    assert shown(p) == {
        "Live camera": "/robot1/left/camera/image",
        "Answer": "/robot1/left/segzero/answer_image",
        "Reasoned frame": "/robot1/left/segzero/source_image",
        "Objects by number": "/robot1/left/segzero/label_mask",
        "Objects in space": "/robot1/left/segzero/markers",
        "Points of the objects": "/robot1/left/segzero/points",
        "Grasp hints": "/robot1/left/segzero/grasp_hints",
        "Points of the scene": "/robot1/left/segzero/scene_points",
    }


def test_rviz_s_installed_configuration_is_right_for_a_node_without_a_namespace(plan: Planner) -> None:
    p = plan(("rviz2", *PLAYER), rviz="true", bag="demo")
    assert p.rviz == (ROOT / "config" / "segment.rviz").read_text()


@pytest.mark.parametrize(
    ("topic", "full"), [("", "/r/image"), ("cam", "/r/cam"), ("/cam/image", "/cam/image"), ("~/cam", "/r/segzero/cam")]
)
def test_rviz_s_live_camera_is_the_node_s_image_topic(topic: str, full: str, plan: Planner) -> None:
    assert shown(plan(("rviz2",), rviz="true", namespace="r", image_topic=topic))["Live camera"] == full


def test_rviz_takes_the_camera_s_topics_from_the_parameter_file(tmp_path: Path, plan: Planner) -> None:
    values = "image_topic: /cam/image, camera_info_topic: info, compressed_topic: /cam/jpeg"
    path = config(tmp_path, f"/**: {{ros__parameters: {{{values}, image_transport: compressed}}}}")
    p = plan(("rviz2",), rviz="true", config=path)
    assert shown(p)["Live camera"] == "/cam/image/compressed"
    assert dict(p.rviz_remappings) == {"/cam/image/compressed": "/cam/jpeg", "/cam/camera_info": "/info"}


def test_rviz_shows_a_compressed_camera_with_its_transport(tmp_path: Path, plan: Planner) -> None:
    with_plugin, without = ("rviz2", "compressed_image_transport"), ("rviz2",)
    arguments = {"rviz": "true", "image_transport": "compressed", "image_topic": "/cam/image"}
    p = plan(with_plugin, **arguments)
    assert shown(p)["Live camera"] == "/cam/image/compressed"
    assert p.rviz_remappings == p.notes == ()
    assert plan(without, **arguments).notes


def test_rviz_that_is_missing_is_named_with_its_package(plan: Planner) -> None:
    with pytest.raises(LaunchError) as caught:
        plan(rviz="true")
    assert str(caught.value) == (
        "rviz:=true needs rviz2, which is not installed here: sudo apt install ros-jazzy-rviz2"
    )


def test_rviz_needs_a_screen(plan: Planner) -> None:
    with pytest.raises(LaunchError, match=r"^rviz:=true needs a screen, and DISPLAY is not set.$"):
        plan(("rviz2",), screen=False, rviz="true")


# -- the launch file, which needs `launch` to run and so is read


def test_the_launch_file_declares_and_reads_the_arguments_of_the_module() -> None:
    tree = ast.parse(LAUNCH_FILE.read_text())
    names = {alias.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for alias in n.names}
    assert {"ARGUMENTS", "plan"} <= names
    assert len([n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == "ARGUMENTS"]) == 2


def test_the_launch_file_reads_fields_of_the_plan_and_all_of_them() -> None:
    tree = ast.parse(LAUNCH_FILE.read_text())
    read = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "p"}
    assert read == Plan.__dataclass_fields__.keys()


@pytest.mark.parametrize("page", ["README.md", "config/demo.yaml"])
def test_arguments_in_the_documentation_are_arguments(page: str) -> None:
    commands = (ROOT / page).read_text().replace("\\\n", " ").splitlines()
    for command in (c for c in commands if "segment.launch.py" in c):
        for word in shlex.split(command[command.index("ros2 launch") :].strip("`# "))[4:]:
            assert word.partition(":=")[0] in launching.ARGUMENTS
