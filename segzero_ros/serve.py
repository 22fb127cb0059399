"""The command `segzero serve`: vLLM with the limits that a profile and this machine have.

It shows the command and becomes it, so that signals and the exit code are vLLM's. Nothing of vLLM is imported here.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.profile import Profile
from segzero_ros.core.prompt import build_prompt
from segzero_ros.core.text import one_line
from segzero_ros.models import checkpoints, hub, weights
from segzero_ros.models.prompt_tokens import AROUND, CELLS, find_counter
from segzero_ros.models.server_address import is_address, is_loopback, read_key, shown_address
from segzero_ros.profiles import load_profile

INSTRUCTION = 512  # tokens that an instruction may have: some two thousand characters of English
TURNS = 32  # tokens of the chat's format and of the system turn
STEP = 64  # tokens, to which a length is rounded up
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM takes
MIN_PIXELS = 3136  # of the published checkpoints
SEGMENTER = 4e9  # bytes for SAM 2 on the same GPU, with its work; an estimate
LEAST, MOST = 0.2, 0.9  # share of a GPU
KEYS_AND_VALUES = "4"  # GiB of a CPU's memory
CPU_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
# The chat's format of all Qwen2.5-VL and Qwen3-VL checkpoints, without a system turn of its own.
TEMPLATE = checkpoints.EMBEDDED / "reasoner" / "chat_template.jinja"
_ASK_PYTHON = """
import importlib.metadata, importlib.util, json
found = {"vllm": importlib.util.find_spec("vllm") is not None, "cuda": False}
try:
    import torch
    if torch.cuda.is_available():
        found["cuda"] = True
        found["free"], found["total"] = torch.cuda.mem_get_info()
except Exception:
    pass
print("\\n" + json.dumps(found))
"""


@dataclass(frozen=True)
class Machine:
    """What an interpreter has and sees; bytes of its GPU, 0 where there is none."""

    has_vllm: bool
    free: int = 0
    total: int = 0

    @property
    def is_cpu(self) -> bool:
        return not self.total

    @property
    def share(self) -> float:
        """Of the GPU's memory, for the server: what is free, but for the segmenter's part."""
        share = max(LEAST, min(MOST, (self.free - SEGMENTER) / self.total))
        return int(share * 100) / 100


@dataclass(frozen=True)
class Command:
    """environment: what is added to this process's own. url: what a profile's reasoner then is."""

    words: list[str]
    environment: dict[str, str]
    url: str

    def shown(self) -> str:
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items() if "KEY" not in name]
        return " ".join([*settings, shlex.join(self.words)])


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve a profile's reasoner with vLLM, for `reasoner: http://...`",
        usage="segzero serve PROFILE [options] [-- arguments of vLLM's own]",
        description="Starts vLLM's server with limits that fit the profile and this machine, and shows the command.",
    )
    parser.add_argument("profile", help="a profile's name or the path of its YAML")
    parser.add_argument("--reasoner", metavar="NAME", help="in place of the profile's: a folder or a hub name")
    parser.add_argument("--adapter", metavar="NAME", help="in place of the profile's, likewise; none is none")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    parser.add_argument("--port", type=_port, default=8000)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has vLLM (default: this one)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--dry-run", action="store_true", help="show the command and start nothing")


def run(arguments: argparse.Namespace) -> int:
    """Returns where nothing is started, only. Raises ProfileError, or SegzeroError(NOT_READY) with a sentence."""
    profile = replace(load_profile(arguments.profile), tokenizer=None)
    if arguments.reasoner:
        profile = replace(profile, reasoner=arguments.reasoner, reasoner_revision=None, subfolder=None)
    if arguments.adapter:
        adapter = None if arguments.adapter == "none" else arguments.adapter
        profile = replace(profile, adapter=adapter, adapter_revision=None, adapter_subfolder=None)
    _refuse_address(profile)
    machine = ask_machine(arguments.python, arguments.device)
    if not machine.has_vllm and not arguments.dry_run:
        raise _refused(
            f"{arguments.python} has no vLLM: give the interpreter that has it (--python VENV/bin/python), or install"
            " it into an environment of its own (requirements/vllm.txt)"
        )
    command = build_command(profile, machine, arguments.python, arguments.host, arguments.port, arguments.passed)
    print(command.shown(), flush=True)
    adapter_word = ", with adapter none" if profile.adapter else ""
    print(f"segzero: the reasoner is then {command.url}{adapter_word}", file=sys.stderr, flush=True)
    if not is_loopback(arguments.host) and "VLLM_API_KEY" not in {*command.environment, *os.environ}:
        print("segzero: anybody in this network may ask it; SEGZERO_API_KEY sets a key", file=sys.stderr, flush=True)
    if note := memory_note(profile, machine):
        print(f"segzero: {note}", file=sys.stderr, flush=True)
    if arguments.dry_run:
        return 0
    try:
        os.execve(command.words[0], command.words, {**os.environ, **command.environment})
    except OSError as error:
        raise _refused(f"{arguments.python} cannot be started: {error.strerror}") from error


def build_command(profile: Profile, machine: Machine, python: str, host: str, port: int, passed: list[str]) -> Command:
    """passed: further arguments of vLLM's; a later one overrules an earlier one. Raises SegzeroError(NOT_READY)."""
    _refuse_address(profile)
    if known := {word.partition("=")[0] for word in passed} & {"--host", "--port"}:
        raise _refused(f"{min(known)} belongs before the --, so that the URL that is shown is the server's")
    model = _model_of(profile)
    name = f"{profile.name}-base" if profile.adapter else profile.name
    pixels = profile.square**2
    words = [
        *(python, "-m", "vllm.entrypoints.openai.api_server", "--model", model),
        *(["--revision", profile.reasoner_revision] if profile.reasoner_revision else []),
        *("--served-model-name", name, "--host", host, "--port", str(port)),
        *("--max-model-len", str(count_tokens(profile))),
        *("--limit-mm-per-prompt", json.dumps({"image": 1, "video": 0})),
        *("--mm-processor-kwargs", json.dumps({"min_pixels": min(MIN_PIXELS, pixels), "max_pixels": pixels})),
    ]
    environment: dict[str, str] = {}
    if machine.is_cpu:
        words += ["--dtype", "float32", "--enforce-eager"]
        if CPU_VARIABLE not in os.environ:
            environment[CPU_VARIABLE] = "1" if profile.reasoner == "embedded" else KEYS_AND_VALUES
    else:
        words += ["--dtype", profile.dtype, "--gpu-memory-utilization", f"{machine.share:.2f}"]
    if profile.adapter:
        words += _adapter_words(profile)
    if Path(model).is_dir() and not _has_template(Path(model)):
        words += ["--chat-template", str(TEMPLATE)]
    if key := read_key():  # not among the words, which everybody on this machine can read
        environment["VLLM_API_KEY"] = key
    place = f"[{host}]" if ":" in host else host
    here = "127.0.0.1" if place in ("0.0.0.0", "[::]") else place
    url = f"http://{here}:{port}/v1" + (f"#{quote(profile.name)}" if profile.adapter else "")
    return Command([*words, *passed], environment, url)


def count_tokens(profile: Profile) -> int:
    """What a prompt and an answer may have together. Raises SegzeroError(NOT_READY) for a square that is resized."""
    count, known = find_counter(profile)
    cell = known or CELLS[profile.model_class]
    if profile.square % cell:
        raise _refused(
            f"profile {profile.name}: a square of {profile.square} pixels is no multiple of {cell}, so that any server"
            " would resize it and shift the boxes"
        )
    words = build_prompt(profile, "x")
    template = count(words) if count else len(words) // 2  # more than any English needs
    whole = (profile.square // cell) ** 2 + AROUND + template + INSTRUCTION + TURNS + profile.max_new_tokens
    return -(-whole // STEP) * STEP


def ask_machine(python: str, device: str) -> Machine:
    """Asks the interpreter itself. Raises SegzeroError(NOT_READY) where there is none."""
    try:
        done = subprocess.run([python, "-c", _ASK_PYTHON], capture_output=True, text=True, timeout=120, check=False)
        found = json.loads(done.stdout.splitlines()[-1])
    except OSError as error:
        raise _refused(f"{one_line(python, 200)} cannot be started: {error.strerror}") from error
    except (ValueError, IndexError, subprocess.TimeoutExpired):
        raise _refused(f"{one_line(python, 200)} is no Python that can be asked for vLLM") from None
    if device == "cpu":
        return Machine(found["vllm"])
    if device == "cuda" and not found["cuda"]:
        raise _refused(f"the torch of {one_line(python, 200)} sees no GPU")
    return Machine(found["vllm"], found.get("free", 0), found.get("total", 0))


def _refuse_address(profile: Profile) -> None:
    if is_address(profile.reasoner):
        raise _refused(
            f"profile {profile.name}'s reasoner is a server already, {shown_address(profile.reasoner)}: weights to"
            " serve are given by --reasoner"
        )


def _model_of(profile: Profile) -> str:
    """A folder, or a name that vLLM finds on the hub or in its cache."""
    if profile.reasoner == "embedded":
        return str(checkpoints.EMBEDDED / "reasoner")
    path = Path(profile.reasoner).expanduser()
    if not path.is_dir() and not hub.is_name(profile.reasoner):
        raise _refused(f"there is no folder {one_line(profile.reasoner, 200)} with a reasoner's weights")
    if not profile.subfolder:
        return str(path) if path.is_dir() else profile.reasoner
    folder = checkpoints.resolve(
        profile.reasoner,
        "reasoner",
        revision=profile.reasoner_revision,
        subfolder=profile.subfolder,
        offline=True,
    )
    return str(folder)


def _adapter_words(profile: Profile) -> list[str]:
    """vLLM must know the rank beforehand: without it, it takes up to 16 and refuses the adapter."""
    assert profile.adapter is not None
    try:
        folder = checkpoints.resolve(
            profile.adapter,
            "adapter",
            revision=profile.adapter_revision,
            subfolder=profile.adapter_subfolder,
            offline=True,
        )
    except SegzeroError as error:
        fetched = f"; `segzero fetch {profile.name}` brings it" if "offline is set" in error.message else ""
        raise _refused(error.message.replace(" and offline is set", "") + fetched) from error
    words = ["--enable-lora", "--max-lora-rank", str(round_up_rank(_rank_of(folder)))]
    if any("visual." in key for key in weights.read_header(folder / "adapter_model.safetensors")):
        words.append("--enable-tower-connector-lora")  # without it, vLLM leaves that part of the adapter out
    return [*words, "--lora-modules", f"{profile.name}={folder}"]


def memory_note(profile: Profile, machine: Machine) -> str:
    """Where the weights alone do not fit into the server's part of a GPU; "" where they do, or it is not known."""
    if machine.is_cpu or profile.reasoner == "embedded":
        return ""
    try:
        from segzero_ros.rehearse.dimensions import find_dimensions

        count = find_dimensions(profile.reasoner, "reasoner").parameters
    except Exception:  # no dimensions, no library: vLLM will say
        return ""
    need, have = count * (4 if profile.dtype == "float32" else 2), machine.share * machine.total
    if need < have:
        return ""
    return (
        f"{count / 1e9:.1f} G parameters take {need / 1e9:.1f} GB, and {have / 1e9:.1f} GB are the server's: it will"
        " not start; take a quantised checkpoint (--reasoner) or another GPU"
    )


def _rank_of(folder: Path) -> int:
    from segzero_ros.models.adapters import MAX_RANK  # with torch

    settings = checkpoints.read_json(folder / "adapter_config.json", "a LoRA adapter")
    others = settings.get("rank_pattern") or {}
    ranks = [settings.get("r"), *(others.values() if isinstance(others, Mapping) else [None])]
    if not all(type(rank) is int and 0 < rank <= MAX_RANK for rank in ranks):
        raise _refused(f"{folder}/adapter_config.json: its ranks must be whole numbers from 1 to {MAX_RANK}")
    return max(rank for rank in ranks if isinstance(rank, int))


def round_up_rank(rank: int) -> int:
    """The smallest that vLLM takes. Raises SegzeroError(NOT_READY) above its largest."""
    for allowed in RANKS:
        if rank <= allowed:
            return allowed
    raise _refused(f"vLLM takes adapters up to rank {RANKS[-1]}, and this one has {rank}: merge it into its base")


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(checkpoints.read_json(path, "a tokenizer's settings").get("chat_template"))


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError("a port is a number from 1 to 65535")
    return port


def _refused(sentence: str) -> SegzeroError:
    return SegzeroError(Status.NOT_READY, one_line(sentence, 600))
