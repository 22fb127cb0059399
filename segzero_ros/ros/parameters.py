"""The node's parameters: one table declares, validates and documents them.

`python -m segzero_ros.ros.parameters` prints the table as Markdown.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from segzero_ros.core.confidence import MAX_SAMPLES, SAMPLES, WAYS, Verification, why_no_threshold
from segzero_ros.core.contract import ThoughtBudget
from segzero_ros.core.text import clean
from segzero_ros.core.tickets import Rules


@dataclass(frozen=True)
class Parameter:
    """bounds: (lowest, highest) of a number, inclusive. choices: the allowed texts. when: it is read; see WHEN."""

    name: str
    default: bool | int | float | str
    sentence: str
    bounds: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    when: str = "configure"


WHEN = {
    "start": "Read-only: it is given when the node starts.",
    "configure": "Read when the node is configured.",
    "activate": "Read when the node is activated.",
    "live": "May change while the node runs.",
}
TABLE: tuple[Parameter, ...] = (
    Parameter(
        "autostart", True, "Configure and activate without being asked; false under a lifecycle manager.", when="start"
    ),
    Parameter("profile", "demo", "Name of a profile, or path of a profile's YAML."),
    Parameter("reasoner", "", "Path, hub name or http://host:port/v1 of the reasoning model; empty: the profile's."),
    Parameter("reasoner_revision", "", "Revision of the reasoning model; empty: the profile's."),
    Parameter(
        "adapter",
        "",
        "Path or hub name of a LoRA adapter that is merged into the reasoning model; none: without the profile's.",
    ),
    Parameter("segmenter", "", "Path or hub name of the segmenter; empty: the profile's."),
    Parameter("segmenter_revision", "", "Revision of the segmenter; empty: the profile's."),
    Parameter("device", "auto", "Where the models run: auto, cpu, cuda, cuda:0, ..."),
    Parameter("dtype", "auto", "Number format of the weights.", choices=("auto", "float32", "float16", "bfloat16")),
    Parameter("attention", "auto", "Attention of the reasoning model: auto, eager, sdpa or flash_attention_2."),
    Parameter("offline", False, "Never ask the hub, take only what is on the disk."),
    Parameter("trial", True, "Try the models once before the node is ready: one token, one mask."),
    Parameter("constrain", False, "Hold answers to the profile's form, token by token; false: as the profile says."),
    Parameter(
        "thought_budget",
        -1,
        "Tokens that a thought may take; then it is closed and the answer comes. 0: no thought; -1: no limit.",
        bounds=(-1, 131072),
        when="live",
    ),
    Parameter(
        "thought_seconds",
        -1.0,
        "Seconds that a thought may take, from its first token; then the answer comes. 0: no thought; -1: no limit.",
        bounds=(-1.0, 3600.0),
        when="live",
    ),
    Parameter(
        "verify",
        "off",
        "Ask the reasoning model again how sure an answer is. vote: random answers.",
        choices=WAYS,
        when="live",
    ),
    Parameter("verify_samples", SAMPLES, "Random answers of verify: vote.", bounds=(1, MAX_SAMPLES), when="live"),
    Parameter(
        "min_confidence",
        0.0,
        "Objects whose confidence is below or not known are left out; nothing left is NO_OBJECT. 0: all stay.",
        bounds=(0.0, 1.0),
        when="live",
    ),
    Parameter("image_topic", "image", "Image topic; the compressed topic and camera_info follow from it."),
    Parameter(
        "image_transport", "raw", "raw: sensor_msgs/Image; compressed: CompressedImage.", choices=("raw", "compressed")
    ),
    Parameter("compressed_topic", "", "Compressed image topic; empty: image_topic + /compressed."),
    Parameter("camera_info_topic", "", "Topic of camera_info; empty: camera_info beside the image topic."),
    Parameter("depth_topic", "", "Topic of depth that is aligned to the colour image; empty: no 3D."),
    Parameter(
        "depth_transport",
        "raw",
        "raw: sensor_msgs/Image; compressedDepth: CompressedImage on depth_topic + /compressedDepth.",
        choices=("raw", "compressedDepth"),
    ),
    Parameter("depth_info_topic", "", "Topic of the depth image's camera_info; empty: the colour image's is used."),
    Parameter(
        "depth_slop",
        0.02,
        "Largest difference between the stamps of an image and its depth, in seconds.",
        bounds=(0.0, 1.0),
        when="live",
    ),
    Parameter(
        "depth_wait", 0.2, "Seconds to wait for the depth of a frame that was chosen.", bounds=(0.0, 10.0), when="live"
    ),
    Parameter("target_frame", "", "Frame of 3D answers, reached by TF2; empty: the camera's optical frame."),
    Parameter("tf_wait", 0.2, "Seconds to wait for a transform that comes late.", bounds=(0.0, 10.0), when="live"),
    Parameter(
        "cloud_stride",
        2,
        "~/scene_points has every n-th pixel of each row and column.",
        bounds=(1, 16),
        when="live",
    ),
    Parameter("click_topic", "", "Topic of clicked pixels beside ~/point; empty: none."),
    Parameter(
        "clicked_point_topic", "", "Topic of clicked points in space (RViz: /clicked_point), by TF2; empty: none."
    ),
    Parameter(
        "goals_while_loading",
        "wait",
        "A goal of ~/ask that comes while the models load: wait, or refuse.",
        choices=("wait", "refuse"),
        when="live",
    ),
    Parameter(
        "mode",
        "once",
        "once: one answer per instruction; continuous: again on the newest frame.",
        choices=("once", "continuous"),
        when="live",
    ),
    Parameter(
        "instruction",
        "",
        "Instruction asked when the node is active and its models are loaded; empty: none.",
        when="activate",
    ),
    Parameter(
        "max_age",
        1.0,
        "Maximum age of a frame in seconds; older frames are skipped. 0: no limit.",
        bounds=(0.0, 86400.0),
        when="live",
    ),
    Parameter("image_timeout", 5.0, "Seconds to wait for a frame.", bounds=(0.0, 3600.0), when="live"),
    Parameter(
        "timeout",
        120.0,
        "Seconds for one answer, waiting for models and frames included.",
        bounds=(0.1, 86400.0),
        when="live",
    ),
    Parameter(
        "repeat_gap",
        2.0,
        "An instruction that was answered is ignored when it comes again within this time, in seconds.",
        bounds=(0.0, 3600.0),
        when="live",
    ),
    Parameter(
        "result_timeout",
        300,
        "Seconds that the result of a goal of ~/ask is kept for its client; on Humble they count from its acceptance.",
        bounds=(1, 86400),
        when="start",
    ),
    Parameter("max_instruction_chars", 2000, "Longest instruction, characters.", bounds=(1, 100000), when="live"),
)
OTHERS = {"use_sim_time", "start_type_description_service"}  # rclpy's own
BY_NAME = {p.name: p for p in TABLE}


def validate(name: str, value: Any) -> str | None:
    """A sentence about what is wrong with the value, or None. Names outside the table are always right."""
    p = BY_NAME.get(name)
    if p is None:
        return None
    if type(value) is not type(p.default):
        return f"{name} is a {type(p.default).__name__}, got {value!r} ({type(value).__name__})."
    if (
        isinstance(value, (int, float))
        and p.bounds
        and not (math.isfinite(value) and p.bounds[0] <= value <= p.bounds[1])
    ):
        return f"{name} must be from {p.bounds[0]:g} to {p.bounds[1]:g}, got {value}."
    if p.choices and value not in p.choices:
        return f"{name} must be one of {', '.join(p.choices)}; got {value!r}."
    return None


def declare(node: Any) -> None:
    """Declare the table on a node, descriptors included, and reject bad values with a sentence."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult

    def check(parameters: Iterable[Any]) -> SetParametersResult:
        for p in parameters:
            if not p.name:
                return SetParametersResult(successful=False, reason="a parameter has a name")
            if sentence := validate(p.name, p.value):
                return SetParametersResult(successful=False, reason=sentence)
        new = {p.name: p.value for p in parameters}
        if sentence := why_no_threshold(*(new.get(n, _value(node, n)) for n in ("verify", "min_confidence"))):
            return SetParametersResult(successful=False, reason=f"{sentence}.")
        return SetParametersResult(successful=True)

    # before the declarations: values of a YAML are checked by the same sentences
    node.add_on_set_parameters_callback(check)
    for p in TABLE:
        descriptor = ParameterDescriptor(
            description=p.sentence,
            additional_constraints=("One of " + ", ".join(p.choices) + ". " if p.choices else "") + WHEN[p.when],
            read_only=p.when == "start",
        )
        if p.bounds and isinstance(p.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=p.bounds[0], to_value=p.bounds[1])]
        elif p.bounds:
            descriptor.integer_range = [IntegerRange(from_value=int(p.bounds[0]), to_value=int(p.bounds[1]))]
        node.declare_parameter(p.name, p.default, descriptor)


def _value(node: Any, name: str) -> Any:
    """As it is now, or its default where it is not declared yet."""
    return node.get_parameter(name).value if node.has_parameter(name) else BY_NAME[name].default


def rules(node: Any) -> Rules:
    """What requests are treated by, now."""

    def value(name: str) -> Any:
        return node.get_parameter(name).value

    return Rules(
        timeout=value("timeout"),
        repeat_gap=value("repeat_gap"),
        max_chars=value("max_instruction_chars"),
        continuous=value("mode") == "continuous",
        patient_goals=value("goals_while_loading") == "wait",
    )


def thought_budget(node: Any) -> ThoughtBudget | None:
    """How long a thought may be, now."""
    values = (node.get_parameter(name).value for name in ("thought_budget", "thought_seconds"))
    tokens, seconds = (value if value >= 0 else None for value in values)
    return None if tokens is None and seconds is None else ThoughtBudget(tokens, seconds)


def verification(node: Any) -> Verification:
    """Whether and how answers are asked again, now."""
    way, samples, least = (node.get_parameter(n).value for n in ("verify", "verify_samples", "min_confidence"))
    return Verification(way, samples, 0.0 if way == "off" else least)  # one of them may just be changing


def warn_unknown(node: Any) -> None:
    """Says which names of a YAML or of the command line nobody reads: rclpy drops them without a word."""
    declared = set(BY_NAME)
    for name in sorted(set(getattr(node, "_parameter_overrides", {})) - declared):
        if name.startswith("qos_overrides.") or name in OTHERS:
            continue
        near = difflib.get_close_matches(name, BY_NAME, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        node.get_logger().warning(clean(f"there is no parameter {name!r}{hint}"))


def warn_unmatched(node: Any, path: str) -> None:
    """Says when a parameter file has no section for this node: rcl skips those of others without a word."""
    with open(path, encoding="utf-8") as file:
        sections = list(_sections(yaml.safe_load(file) or {}))
    name = node.get_fully_qualified_name()
    if sections and not any(re.fullmatch(_pattern(s), name) for s in sections):
        node.get_logger().warning(clean(f"{path} has nothing for {name}; it is for {', '.join(sections[:4])}"))


def _sections(data: dict[Any, Any], above: str = "") -> Iterator[str]:
    """Names of nodes, as written, with the namespaces around them."""
    for key, value in data.items():
        name = f"{above}/{str(key).strip('/')}"
        if isinstance(value, dict):
            if "ros__parameters" in value:
                yield name
            yield from _sections({k: v for k, v in value.items() if k != "ros__parameters"}, name)


def _pattern(section: str) -> str:
    """A section's wildcards as a regular expression: ** is any number of names, * is one."""
    tokens = {"**": "(/[^/]+)*", "*": "/[^/]+"}
    return "".join(tokens.get(t, "/" + re.escape(t)) for t in section.strip("/").split("/"))


def files_in(args: list[str]) -> list[str]:
    """The parameter files that are named among ROS arguments."""
    return [b for a, b in itertools.pairwise(args) if a == "--params-file"]


def check_file(path: str) -> None:
    """Raises ValueError with a sentence for a parameter file that rcl would refuse, or would read without effect."""
    try:
        with open(path, encoding="utf-8") as file:
            data = yaml.safe_load(file)
    except OSError as error:
        raise ValueError(f"the parameter file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())[:200]}") from error
    form = f"{path}: parameters stand below a node's name and ros__parameters: /**: {{ros__parameters: {{...}}}}"
    if data is None:
        return
    if not isinstance(data, dict) or not all(isinstance(section, dict) for section in data.values()):
        raise ValueError(form)
    if not any("ros__parameters" in keys for keys in _keys(data)):
        raise ValueError(form)
    for name, value in _leaves(data):
        if value is None:
            raise ValueError(f"{path}: {name} has no value; write '' for an empty text, or leave the line out")


def _keys(data: dict[Any, Any]) -> Iterator[set[Any]]:
    yield set(data)
    for value in data.values():
        if isinstance(value, dict):
            yield from _keys(value)


def _leaves(data: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield str(key), value


def values(node: Any) -> dict[str, Any]:
    """All values of the table as they are now."""
    return {p.name: node.get_parameter(p.name).value for p in TABLE}


def markdown() -> str:
    rows = ["| Parameter | Type | Default | Bounds | When | |", "|---|---|---|---|---|---|"]
    for p in TABLE:
        bounds = f"{p.bounds[0]:g} to {p.bounds[1]:g}" if p.bounds else ", ".join(p.choices)
        default = str(p.default).lower() if isinstance(p.default, bool) else repr(p.default).replace("'", '"')
        rows.append(f"| `{p.name}` | {type(p.default).__name__} | `{default}` | {bounds} | {p.when} | {p.sentence} |")
    return "\n".join(rows)


def usage() -> str:
    rows = [f"  {p.name} ({json.dumps(p.default)}): {p.sentence}" for p in TABLE]
    return "\n".join(["usage: segzero [--ros-args -p NAME:=VALUE --params-file FILE -r FROM:=TO ...]", "", *rows])


if __name__ == "__main__":
    print(markdown())
