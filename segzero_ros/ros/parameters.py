"""The node's parameters: one table declares, validates and documents them.

`python -m segzero_ros.ros.parameters` prints the table as Markdown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


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
    Parameter("reasoner", "", "Path or hub name of the reasoning model; empty: the profile's."),
    Parameter("reasoner_revision", "", "Revision of the reasoning model; empty: the profile's."),
    Parameter("segmenter", "", "Path or hub name of the segmenter; empty: the profile's."),
    Parameter("segmenter_revision", "", "Revision of the segmenter; empty: the profile's."),
    Parameter("device", "auto", "Where the models run: auto, cpu, cuda, cuda:0, ..."),
    Parameter("dtype", "auto", "Number format of the weights.", choices=("auto", "float32", "float16", "bfloat16")),
    Parameter("attention", "auto", "Attention of the reasoning model: auto, eager, sdpa or flash_attention_2."),
    Parameter("offline", False, "Never ask the hub, take only what is on the disk."),
    Parameter("image_topic", "image", "Image topic; the compressed topic and camera_info follow from it."),
    Parameter(
        "image_transport", "raw", "raw: sensor_msgs/Image; compressed: CompressedImage.", choices=("raw", "compressed")
    ),
    Parameter("compressed_topic", "", "Compressed image topic; empty: image_topic + /compressed."),
    Parameter("camera_info_topic", "", "Topic of camera_info; empty: camera_info beside the image topic."),
    Parameter(
        "mode",
        "once",
        "once: one answer per instruction; continuous: again on the newest frame.",
        choices=("once", "continuous"),
        when="live",
    ),
    Parameter(
        "instruction", "", "Instruction that is taken when the node becomes active; empty: none.", when="activate"
    ),
    Parameter(
        "max_age",
        1.0,
        "Seconds that a frame may be old; an older one is not used, the next is. 0: any age.",
        bounds=(0.0, 86400.0),
        when="live",
    ),
    Parameter("image_timeout", 5.0, "Seconds to wait for a frame.", bounds=(0.0, 3600.0), when="live"),
    Parameter("timeout", 120.0, "Seconds for one answer, waiting included.", bounds=(0.1, 86400.0), when="live"),
    Parameter(
        "repeat_gap",
        2.0,
        "Seconds within which the identical instruction is taken for a repetition.",
        bounds=(0.0, 3600.0),
        when="live",
    ),
    Parameter("max_instruction_chars", 2000, "Longest instruction, characters.", bounds=(1, 100000), when="live"),
)
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
            if sentence := validate(p.name, p.value):
                return SetParametersResult(successful=False, reason=sentence)
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
