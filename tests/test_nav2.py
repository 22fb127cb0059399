"""The page for nav2: its plugin's ports and fields are those of the action; its tree uses the plugin's ports."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from segzero_msgs.action import Segment
from segzero_msgs.msg import Instance, Segmentation

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "nav2.md").read_text(encoding="utf-8")
BASIC = {"server_name", "server_timeout"}  # of providedBasicPorts, in nav2 1.3


def block(language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return code


CODE = block("cpp")
PORTS = {name: (way, kind) for way, kind, name in re.findall(r'BT::(\w+)Port<([\w:]+)>\(\s*"(\w+)"', CODE)}


def fields(message: type) -> dict[str, str]:
    return dict(message.get_fields_and_field_types())  # type: ignore[attr-defined]


def test_the_page_says_that_it_was_not_compiled() -> None:
    assert "Not compiled here" in PAGE


def test_each_input_is_a_field_of_the_goal() -> None:
    inputs = {name for name, (way, _) in PORTS.items() if way == "Input"}
    assert inputs == {"instruction", "timeout", "want_3d", "not_before"}
    assert inputs <= fields(Segment.Goal).keys()
    assert set(re.findall(r"goal_\.(\w+)", CODE)) == inputs, "each is set"


def test_the_types_of_the_inputs_fit_the_goals_fields() -> None:
    goal = fields(Segment.Goal)
    fit = {"std::string": "string", "double": "float", "bool": "boolean"}
    for name in ("instruction", "timeout", "want_3d"):
        assert fit[PORTS[name][1]] == goal[name]
    assert goal["not_before"] == "builtin_interfaces/Time"


def test_what_is_read_of_an_answer_is_in_it() -> None:
    assert fields(Segment.Result) == {"result": "segzero_msgs/Segmentation"}
    assert "result_.result->result;" in CODE
    read = set(re.findall(r"answer\.(\w+)", CODE))
    assert read == {"status", "message", "instances"} and read <= fields(Segmentation).keys()
    read = set(re.findall(r"first\.(\w+)", CODE))
    assert read == {"status_3d", "message_3d", "header_3d", "box3d"} and read <= fields(Instance).keys()
    assert fields(Instance)["header_3d"] == "std_msgs/Header"
    assert fields(Instance)["box3d"] == "segzero_msgs/Box3D"
    assert fields(type(Instance().box3d))["center"] == "geometry_msgs/Pose"


def test_what_is_read_of_feedback_is_in_it() -> None:
    assert set(re.findall(r"feedback->(\w+)", PAGE)) == {"text_delta"} <= fields(Segment.Feedback).keys()


def test_each_constant_exists() -> None:
    for owner, name in re.findall(r"(Answer|Instance)::([A-Z]\w+)", CODE):
        assert isinstance(getattr(Segmentation if owner == "Answer" else Instance, name), int)


def test_each_output_is_written() -> None:
    outputs = {name for name, (way, _) in PORTS.items() if way == "Output"}
    assert outputs == set(re.findall(r'setOutput\(\s*"(\w+)"', CODE))


def test_the_functions_of_nav2_that_the_plugin_overrides_exist_with_these_signatures() -> None:
    overrides = set(re.findall(r"(\S+ \w+)\(\) override", CODE))
    assert overrides == {
        "void on_tick",
        "BT::NodeStatus on_success",
        "BT::NodeStatus on_aborted",
        "BT::NodeStatus on_cancelled",
    }
    assert set(re.findall(r"\b(\w+_)\b", CODE)) == {"goal_", "result_", "node_", "should_send_goal_"}


def test_the_tree_sets_no_port_that_is_none_and_all_that_the_plugin_writes() -> None:
    tree = ElementTree.fromstring(block("xml"))
    (leaf,) = tree.iter("Segment")
    assert set(leaf.keys()) <= PORTS.keys() | BASIC
    assert set(leaf.keys()) >= {name for name, (way, _) in PORTS.items() if way == "Output"}
    assert tree.get("BTCPP_format") == "4"
    assert tree.get("main_tree_to_execute") in {t.get("ID") for t in tree.iter("BehaviorTree")}


def test_what_the_tree_reads_from_the_blackboard_something_wrote_before() -> None:
    known = {"instruction"}
    for element in ElementTree.fromstring(block("xml")).iter():
        for port, value in element.items():
            if (found := re.fullmatch(r"\{(\w+)\}", value)) is None:
                continue
            writes = PORTS.get(port, ("", ""))[0] == "Output" if element.tag == "Segment" else port == "approach"
            assert writes or found[1] in known, f"{element.tag} reads {found[1]}"
            known.add(found[1])


def test_the_action_is_that_of_the_node_and_the_library_that_of_cmake() -> None:
    name = re.search(r'make_unique<segzero_bt::SegmentAction>\(name, "([\w/]+)", config\)', CODE)
    (leaf,) = ElementTree.fromstring(block("xml")).iter("Segment")
    assert name is not None and name[1] == leaf.get("server_name") == "segzero/ask"
    (library,) = yaml.safe_load(block("yaml"))["bt_navigator"]["ros__parameters"]["plugin_lib_names"]
    assert f"add_library({library} SHARED" in block("cmake")


@pytest.mark.parametrize("header", sorted(set(re.findall(r'#include "(\w+)/', CODE))))
def test_cmake_finds_each_package_that_is_included(header: str) -> None:
    assert f"find_package({header} REQUIRED)" in block("cmake")
