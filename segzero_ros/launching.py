"""What the launch file decides before anything starts: pure functions, without ROS and without `launch`.

`plan` reads the launch arguments and raises LaunchError, one sentence, while there is still nothing to stop.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ARGUMENTS = {
    "profile": "checkpoint family: demo, seg-zero, vision-reasoner, star, qwen3-vl, or a YAML file",
    "config": "parameter file: a path, or a name in the package's config folder; the profile's own, demo without one",
    "image_topic": "camera image to look at; camera_info is expected beside it",
    "image_transport": "raw or compressed",
    "depth_topic": "depth aligned to the image, for answers in 3D",
    "target_frame": "frame of the answers in 3D, by TF2; the camera's own where it is not set",
    "mode": "once or continuous",
    "instruction": "first instruction, taken as text whatever it looks like",
    "device": "where the models run: auto, cpu, cuda, cuda:0, ...",
    "autostart": "false leaves configuring and activating the node to a lifecycle manager",
    "namespace": "namespace of the node, for one camera of several",
    "use_sim_time": "true takes the time from /clock",
    "log_level": "debug, info, warn, error or fatal",
    "python": "interpreter that runs the node, such as that of a virtual environment",
    "respawn": "true starts the node again, two seconds after it died",
    "dds_profile": "Fast DDS profile of the node and the player: a path, or a name in the package's config folder",
    "bag": "recording to play with its clock: a path, or demo; implies use_sim_time",
    "rviz": "true starts RViz with the camera, the overlay and the mask",
    "fixed_frame": "RViz's fixed frame",
}
TEXTS = (  # parameters of the same name
    *("profile", "device", "image_topic", "image_transport"),
    *("depth_topic", "target_frame", "mode", "instruction"),
)
CHOICES = {
    "image_transport": ("raw", "compressed"),
    "mode": ("once", "continuous"),
    "log_level": ("debug", "info", "warn", "error", "fatal"),
}
DEFAULTS = {"image_topic": "image", "image_transport": "raw"}  # the node's own, for what RViz is to show
CONFIGS = {  # parameter file that belongs to a profile
    "": "demo",
    "demo": "demo",
    "seg-zero": "seg_zero_7b",
    "vision-reasoner": "vision_reasoner_7b",
    "star": "star",
}
NODE = "segzero"
RECORDED = "/camera/color/image_raw"  # of the demo recording, and what segment.rviz shows as the camera
RECORDED_DEPTH = "/camera/aligned_depth/image_raw"  # likewise
LARGE_FRAMES = "large_frames"
DDS_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # up to Jazzy, and since
OLDEST_PYTHON = (3, 10)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


class LaunchError(RuntimeError):
    """Why nothing is started, in one sentence."""


@dataclass(frozen=True)
class Plan:
    """What is to be started. Empty texts and tuples stand for "none" or "leave it as it is".

    config, overrides: a parameter file, and the text of a second one that wins over it.
    prefix: the interpreter, quoted for a shell. rviz: the text of RViz's configuration. bag: the player's command.
    environment: further variables of all processes. notes: sentences for the log.
    """

    namespace: str
    config: Path | None = None
    overrides: str = ""
    prefix: str = ""
    log_level: str = ""
    respawn: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    use_sim_time: bool | None = None
    rviz: str = ""
    rviz_remappings: tuple[tuple[str, str], ...] = ()
    fixed_frame: str = ""
    bag: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plan(given: Mapping[str, str], share: Path, environment: Mapping[str, str], pushed: str = "") -> Plan:
    """given: launch arguments, empty where not set. share: the package's share folder. pushed: namespace around it."""
    given = {name: given.get(name, "") for name in ARGUMENTS}
    check_texts(given)
    switches = {name: switch(name, given[name]) for name in ("autostart", "use_sim_time", "respawn", "rviz")}
    namespace = absolute_namespace(given["namespace"], pushed)
    config = find_config(given["config"], given["profile"], share)
    key, configured = read_config(config, f"{namespace.rstrip('/')}/{NODE}") if config else ("/**", {})
    prefix = shlex.quote(find_interpreter(given["python"], environment)) if given["python"] else ""
    profile = find_dds_profile(given["dds_profile"], share)

    bag: tuple[str, ...] = ()
    recorded = given["bag"] in ("demo", "true")
    if given["bag"]:
        path = share / "examples" / "demo.mcap" if recorded else Path(given["bag"]).expanduser()
        check_player(f"bag:={given['bag']}", path, environment)
        bag = ("ros2", "bag", "play", str(path), "--clock", "--loop")
        if switches["use_sim_time"] is None:
            switches["use_sim_time"] = True
        if recorded:
            given["image_topic"] = given["image_topic"] or RECORDED
            if given["image_topic"] == RECORDED:
                given["depth_topic"] = given["depth_topic"] or RECORDED_DEPTH
    seen = DEFAULTS | {name: str(value) for name, value in configured.items()}
    seen |= {name: given[name] for name in TEXTS if given[name]}
    if recorded and seen["image_transport"] != "raw":
        raise LaunchError("The demo recording holds raw images only; it goes with image_transport:=raw.")

    live = absolute_topic(seen["image_topic"], namespace)
    rviz = ""
    if switches["rviz"]:
        check_rviz(environment)
        shown = f"{live}/compressed" if seen["image_transport"] == "compressed" else live
        rviz = rviz_config((share / "config" / "segment.rviz").read_text(encoding="utf-8"), namespace, shown)

    overrides: dict[str, str | bool] = {name: given[name] for name in TEXTS if given[name]}
    overrides |= {n: value for n in ("autostart", "use_sim_time") if (value := switches[n]) is not None}
    return Plan(
        namespace=namespace,
        config=config,
        overrides=parameter_file(key, overrides) if overrides else "",
        prefix=prefix,
        log_level=given["log_level"].lower(),
        respawn=bool(switches["respawn"]),
        environment=dict.fromkeys(DDS_VARIABLES, str(profile)) if profile else {},
        use_sim_time=switches["use_sim_time"],
        rviz=rviz,
        rviz_remappings=tuple(side_topics(live, seen, namespace)) if rviz else (),
        fixed_frame=given["fixed_frame"],
        bag=bag,
        notes=tuple(notes(profile, rviz, seen["image_transport"], environment)),
    )


# -- values


def switch(name: str, text: str) -> bool | None:
    """A launch argument as a switch; None where it is not set."""
    values = {"true": True, "1": True, "false": False, "0": False, "": None}
    if text.strip().lower() not in values:
        raise LaunchError(f"{name} is true or false, not '{text}'.")
    return values[text.strip().lower()]


def check_texts(given: Mapping[str, str]) -> None:
    for name, allowed in CHOICES.items():
        value = given[name].lower() if name == "log_level" else given[name]
        if value and value not in allowed:
            raise LaunchError(f"{name} is one of {', '.join(allowed)}, not '{given[name]}'.")
    for name, text in given.items():
        try:
            text.encode()
        except UnicodeEncodeError:  # bytes of the command line that are no text
            raise LaunchError(f"{name} is not UTF-8: {text!a}.") from None


def absolute_namespace(text: str, pushed: str = "") -> str:
    """The node's full namespace: "/", "/robot1", "/fleet/robot1". pushed: the namespace of an including launch file."""
    whole = text if text.startswith("/") else f"{pushed}/{text}"
    inner = whole.strip("/")
    if inner and not NAME.fullmatch(inner):
        raise LaunchError(f"'{text or pushed}' is not a namespace: letters, digits and _ between single slashes.")
    return f"/{inner}"


def absolute_topic(topic: str, namespace: str) -> str:
    base = namespace.rstrip("/")
    inner = re.sub(r"^(~/|/)", "", topic)
    if not NAME.fullmatch(inner):
        raise LaunchError(f"'{topic}' is not a topic's name: letters, digits and _ between single slashes.")
    if topic.startswith("/"):
        return topic
    return f"{base}/{NODE}/{inner}" if topic.startswith("~") else f"{base}/{inner}"


# -- files


def find_config(text: str, profile: str, share: Path) -> Path | None:
    """The parameter file by its path or its name; without either the profile's own, None for an unknown profile."""
    name = text or CONFIGS.get(profile, "")
    if not name:
        return None
    path = Path(name).expanduser()
    if path.is_file():
        return path.absolute()
    folder = share / "config"
    installed = folder / (name.removesuffix(".yaml") + ".yaml")
    if "/" not in name and installed.is_file():
        return installed
    names = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
    raise LaunchError(f"There is no parameter file '{name}'; the package has {names}.")


def read_config(path: Path, node: str) -> tuple[str, dict[str, Any]]:
    """The values for a node (full name), and the last key that matches it: what is set under that key wins.

    What rcl would end the node for is refused here, and so is a file in which nothing is meant for this node. A file
    without any content is allowed.
    """
    import yaml  # launch has it, the standard library does not

    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise LaunchError(f"{path} has a YAML alias (*name), which ROS does not read.")
        content = yaml.safe_load(text)
    except OSError as error:
        raise LaunchError(f"{path} cannot be read: {error.strerror}.") from None
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise LaunchError(f"{path} is not YAML: {error.problem}{line}.") from None
    except (UnicodeDecodeError, yaml.YAMLError):
        raise LaunchError(f"{path} is not YAML: it has bytes that are no text.") from None
    if content is None:
        return "/**", {}
    form = "write '/**:', below it 'ros__parameters:', below that the parameters"
    sections = list(sections_of(content))
    if any(values is None for _, values in sections):
        raise LaunchError(f"{path} is not a parameter file: {form}.")
    ours = [(key, values or {}) for key, values in sections if pattern_of(key).fullmatch(node)]
    if not ours:
        others = ", ".join(key for key, _ in sections)
        raise LaunchError(f"{path} has parameters for {others} and none for {node}: {form}.")
    merged: dict[str, Any] = {}
    for _, values in ours:
        merged |= values
    if empty := [str(name) for name, value in merged.items() if value is None]:
        raise LaunchError(f'{path} gives {empty[0]} no value; an empty text is "".')
    return ours[-1][0], merged


def sections_of(content: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any] | None]]:
    """The (key, parameters) of a parameter file, namespaces joined; None in place of what is not in its form."""
    if not isinstance(content, dict):
        yield key, None
        return
    for name, below in content.items():
        if name == "ros__parameters":
            yield key, below if key and isinstance(below, dict) else None
        else:
            yield from sections_of(below, f"{key}/{str(name).strip('/')}")


def pattern_of(key: str) -> re.Pattern[str]:
    """The node names that a parameter file's key stands for: * is one part of a name, ** any number of them."""
    parts = {"**": r"(/\w+)*", "*": r"/\w+"}
    return re.compile("".join(parts.get(part, f"/{re.escape(part)}") for part in key.strip("/").split("/")))


def parameter_file(key: str, values: Mapping[str, str | bool]) -> str:
    """The text of a parameter file. Texts are quoted: rcl reads a bare 7, no, y, 1e5 or nan as something else."""

    def quoted(value: str | bool) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        plain = (c if c.isascii() and c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in value)
        return f'"{"".join(plain)}"'

    lines = [f'"{key}":', "  ros__parameters:", *(f"    {name}: {quoted(value)}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def find_dds_profile(text: str, share: Path) -> Path | None:
    """A path, a name in the config folder, or true for the package's own."""
    if text.strip().lower() in ("", "false", "0"):
        return None
    name = LARGE_FRAMES if text.strip().lower() in ("true", "1") else text
    folder = share / "config"
    tries = [Path(name).expanduser()]
    if "/" not in name:
        tries += [folder / name, folder / f"{name}.xml", folder / f"fastdds_{name}.xml"]
    path = next((p.absolute() for p in tries if p.is_file()), None)
    if path is None:
        names = ", ".join(sorted(p.stem.removeprefix("fastdds_") for p in folder.glob("*.xml"))) or "none"
        raise LaunchError(f"There is no DDS profile '{name}'; the package has {names}.")
    try:
        root = ElementTree.parse(path).getroot().tag.rpartition("}")[2]
    except (OSError, ElementTree.ParseError) as error:
        raise LaunchError(f"{path} is not XML: {error}.") from None
    if root not in ("dds", "profiles"):  # Fast DDS would go on with its defaults
        raise LaunchError(f"{path} is not a Fast DDS profile: its root is <{root}>, not <dds> or <profiles>.")
    return path


# -- programs


def find_interpreter(text: str, environment: Mapping[str, str]) -> str:
    """The absolute path of a Python, given its path or its name. It is asked for its version."""
    name = os.path.expanduser(text)
    if os.path.isdir(name):
        inside = os.path.join(name, "bin", "python")
        hint = f"; it has {inside}" if os.path.isfile(inside) else ""
        raise LaunchError(f"python:={text} is a folder, not an interpreter{hint}.")
    found = shutil.which(name, path=environment.get("PATH", os.defpath))
    if found is None:
        there = os.path.isfile(name)
        raise LaunchError(f"python:={text} {'is not executable' if there else 'does not exist'}.")
    # Without site: nothing of the environment runs, and a broken one is the node's own to report.
    ask = "import sys; print('version', *sys.version_info[:2])"
    try:
        done = subprocess.run(
            [found, "-I", "-S", "-c", ask], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, text=True,
            errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise LaunchError(f"python:={text} cannot be run: {error.strerror}.") from None
    except subprocess.TimeoutExpired:
        raise LaunchError(f"python:={text} does not answer, so it is not taken for a Python.") from None
    answer = re.fullmatch(r"version (\d+) (\d+)", done.stdout.strip())
    if done.returncode or answer is None:
        raise LaunchError(f"python:={text} is not a Python 3.")
    if (int(answer[1]), int(answer[2])) < OLDEST_PYTHON:
        raise LaunchError(f"python:={text} is Python {answer[1]}.{answer[2]}; the node needs 3.10 or later.")
    return os.path.abspath(found)  # links stay: a virtual environment's interpreter is one


def installed(package: str, environment: Mapping[str, str]) -> bool:
    prefixes = filter(None, environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    return any(Path(p, "share/ament_index/resource_index/packages", package).is_file() for p in prefixes)


def require(argument: str, packages: tuple[str, ...], environment: Mapping[str, str]) -> None:
    if missing := [p for p in packages if not installed(p, environment)]:
        distro = environment.get("ROS_DISTRO") or "$ROS_DISTRO"
        apt = " ".join(f"ros-{distro}-{p.replace('_', '-')}" for p in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise LaunchError(
            f"{argument} needs {' and '.join(missing)}, which {verb} not installed here: sudo apt install {apt}"
        )


def check_rviz(environment: Mapping[str, str]) -> None:
    require("rviz:=true", ("rviz2",), environment)
    if not any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")):
        raise LaunchError("rviz:=true needs a screen, and DISPLAY is not set.")


def check_player(argument: str, path: Path, environment: Mapping[str, str]) -> None:
    """The recording is there, and so is what plays it."""
    if not path.exists():
        raise LaunchError(f"{argument}: there is no recording {path}.")
    storage = storage_of(path)
    require(argument, ("ros2bag", *([f"rosbag2_storage_{storage}"] if storage else [])), environment)
    if shutil.which("ros2", path=environment.get("PATH", os.defpath)) is None:
        raise LaunchError(f"{argument} needs the command ros2, which is not on the PATH.")


def storage_of(path: Path) -> str:
    """mcap, sqlite3, or what a recording's folder says; empty where it cannot be told."""
    if path.is_dir():
        metadata = path / "metadata.yaml"
        if not metadata.is_file():
            raise LaunchError(f"{path} is a folder without metadata.yaml, so not a recording; try `ros2 bag reindex`.")
        said = re.search(r"^\s*storage_identifier:\s*[\"']?(\w+)", metadata.read_text(errors="replace"), re.MULTILINE)
        return said[1] if said else ""
    return {".mcap": "mcap", ".db3": "sqlite3"}.get(path.suffix, "")


# -- RViz


def rviz_config(text: str, namespace: str, camera: str) -> str:
    """segment.rviz with this node's topics. Names are written, not remapped, so that RViz lists what it shows.

    camera: the live image's topic. RViz chooses the transport by its end: .../compressed.
    """
    base = f"{namespace.rstrip('/')}/{NODE}"

    def renamed(line: re.Match[str]) -> str:
        topic = line[2]
        return line[1] + (camera if topic == RECORDED else re.sub(rf"^/{NODE}(?=/)", base, topic))

    return re.sub(r"(?m)^(\s*Value: )(/\S+)$", renamed, text)


def side_topics(live: str, seen: Mapping[str, str], namespace: str) -> Iterator[tuple[str, str]]:
    """RViz derives the compressed topic and camera_info from the image's name: the remappings where they differ."""
    derived = {
        "compressed_topic": f"{live}/compressed",
        "camera_info_topic": f"{live.rpartition('/')[0]}/camera_info",
    }
    for name, topic in derived.items():
        if seen.get(name) and (actual := absolute_topic(seen[name], namespace)) != topic:
            yield topic, actual


def notes(profile: Path | None, rviz: str, transport: str, environment: Mapping[str, str]) -> Iterator[str]:
    rmw = environment.get("RMW_IMPLEMENTATION", "")
    if profile and rmw and "fastrtps" not in rmw:
        yield f"dds_profile has no effect: it is Fast DDS's, and RMW_IMPLEMENTATION is {rmw}."
    if rviz and transport == "compressed" and not installed("compressed_image_transport", environment):
        yield "RViz cannot show the compressed camera without the package compressed_image_transport."
