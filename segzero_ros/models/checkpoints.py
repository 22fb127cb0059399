"""From a name to a folder of weights: embedded, a local path, or the hub. safetensors only.

Everything that can be known without a model library is checked first, so that a missing, truncated, corrupt or foreign
file is a sentence and not a stack trace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from segzero_ros.core.contract import Cancel, SegzeroError, Status
from segzero_ros.core.text import first_line
from segzero_ros.models import hub, weights

EMBEDDED = Path(__file__).parents[1] / "weights"
MAX_CONFIG = 1_000_000  # bytes
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}(/|$)")

# Forms of weights that are not loaded, by the ending of a file's name, and what to do.
_FORMS = {
    ".gguf": "GGUF is llama.cpp's format: serve it with llama-server, or take the checkpoint in safetensors",
    ".pt": "a .pt file is a pickle, which can run code; SAM 2 lies on the hub in safetensors, such as"
    " facebook/sam2.1-hiera-large",
    ".pth": "a .pth file is a pickle, which can run code; take the checkpoint in safetensors",
    ".bin": "a .bin file is a pickle, which can run code; take the checkpoint in safetensors, or convert it where you"
    " trust it with save_pretrained",
    ".ckpt": "a .ckpt file is a pickle, which can run code; take the checkpoint in safetensors",
    ".onnx": "ONNX files are not loaded; take the checkpoint in safetensors",
    ".engine": "TensorRT engines are not loaded; take the checkpoint in safetensors",
}


def resolve(
    name: str,
    role: str,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    offline: bool = False,
    on_progress: Callable[[float], None] | None = None,
    cancel: Cancel | None = None,
) -> Path:
    """The folder of a checkpoint. role: "reasoner", "segmenter" or "adapter". Raises SegzeroError(NOT_READY).

    subfolder: where in the folder or the hub's repository the checkpoint lies. on_progress: told the share of the files
    (0 to 1) while they come from the hub. What is whole on the disk is taken without a question to the network.
    """
    folder = _local(name, role)
    if folder is not None:
        folder = _inside(folder, subfolder)
        check(folder, role)
        return folder
    if not hub.is_name(name):
        server = f"; a server is given as http://{name[:200]}" if _HOST_AND_PORT.match(name) else ""
        raise _refused(f"there is no folder {name[:200]} with a {role}'s weights{server}")
    why = ""
    if (snapshot := hub.cached(name, revision)) is not None:
        try:
            folder = _inside(snapshot, subfolder)
            check(folder, role)
            return folder
        except SegzeroError as error:
            why = f"; what the cache holds of it is not whole: {error.message}"
    if offline:
        where = hub.cache_folder()
        raise _refused(f"could not get {name}: it is not in {where} and offline is set{why}")

    def tell(received: int, whole: int) -> None:
        if on_progress and whole:
            on_progress(min(1.0, received / whole))

    folder = _inside(hub.fetch(name, revision, subfolder=subfolder, on_progress=tell, cancel=cancel), subfolder)
    check(folder, role)
    return folder


def _local(name: str, role: str) -> Path | None:
    """The embedded or a user's folder; None for what may be a name on the hub."""
    if "\0" in name or len(name) > 1000:
        raise _refused(f"{name[:80]!r} is no name of a {role}")
    if name == "embedded":
        return EMBEDDED / role
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        is_file = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, not allowed, ~nobody
        raise _refused(f"{name[:200]} cannot be looked at: {first_line(error)}") from error
    if is_file:
        raise _refused(f"{path} is a file, not a checkpoint's folder{_advice([path])}")
    return None


def _inside(folder: Path, subfolder: str | None) -> Path:
    if not subfolder:
        return folder
    parts = PurePosixPath(subfolder)
    if parts.is_absolute() or ".." in parts.parts:
        raise _refused(f"subfolder {subfolder[:80]!r} leads out of the checkpoint's folder")
    if not (folder / parts).is_dir():
        raise _refused(f"{folder} has no subfolder {subfolder[:80]}")
    return folder / parts


def check(folder: Path, role: str) -> None:
    """Raises SegzeroError(NOT_READY) unless the folder holds a readable configuration, whole safetensors files and, for
    a reasoner, a tokenizer."""
    try:
        _check(folder, role)
    except OSError as error:  # a folder that may not be read
        raise _refused(f"{folder} cannot be read: {error.strerror or first_line(error)}") from error


def _check(folder: Path, role: str) -> None:
    if role == "adapter":
        read_json(folder / "adapter_config.json", "a LoRA adapter")
        if not (folder / "adapter_model.safetensors").is_file():
            raise _refused(f"{folder} lacks adapter_model.safetensors{_advice(folder.iterdir())}")
        weights.refuse_unknown_formats(folder, weights.read_header(folder / "adapter_model.safetensors"))
        return
    if not (folder / "config.json").is_file():
        raise _refused(f"{folder} holds no {role}: config.json is missing{_whereabouts(folder)}")
    if (folder / "adapter_config.json").is_file():
        raise _refused(f"{folder} is an adapter beside a configuration; give its base as {role} and it as adapter")
    config = read_json(folder / "config.json", f"a {role}")
    nested = (part for part in config.values() if isinstance(part, dict))
    scheme = next((s for part in (config, *nested) if (s := part.get("quantization_config"))), None)
    if scheme:
        method = scheme.get("quant_method") if isinstance(scheme, dict) else scheme
        raise _refused(
            f"{folder} is quantised ({str(method)[:40]}); quantised weights are not loaded: take the checkpoint in"
            " bfloat16 or float16"
        )
    if not any(folder.glob("*.safetensors")):
        others = _advice(folder.iterdir())
        raise _refused(f"{folder} holds no {role}: there is no .safetensors file (others are not loaded){others}")
    weights.refuse_unknown_formats(folder, weights.tensors_of(folder))
    if role == "reasoner" and not str(config.get("model_type")).startswith("sam"):
        names = {path.name for path in folder.iterdir()}
        if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
            raise _refused(f"{folder} holds no tokenizer: tokenizer.json is missing")
        read_json(folder / "tokenizer_config.json", "a tokenizer's settings")
    if (folder / "generation_config.json").is_file():
        _check_ends(folder / "generation_config.json")


def _check_ends(path: Path) -> None:
    """The token numbers are all that is read of it; a wrong one would let no answer end."""
    settings = read_json(path, "generation settings")
    for key in ("eos_token_id", "pad_token_id", "bos_token_id"):
        value = settings.get(key)
        numbers = value if isinstance(value, list) else [value]
        if value is not None and not all(type(n) is int and 0 <= n < 2**31 for n in numbers):
            raise _refused(f"{path}: {key} is {str(value)[:40]!r}; it is a token's number or a list of them")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON file that holds an object. what: for the sentence. Raises SegzeroError(NOT_READY)."""
    if not path.is_file():
        raise _refused(f"{path.parent} holds no {what.removeprefix('a ')}: {path.name} is missing")
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(f"{path} is not valid JSON: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise _refused(f"{path} is not valid: it holds no JSON object")
    return found


def _whereabouts(folder: Path) -> str:
    """What a folder without config.json probably is, and what to give instead."""
    try:
        there = sorted(folder.iterdir())
    except OSError as error:
        return f"; it cannot be read: {first_line(error)}"
    if folder.name.startswith("models--") or (folder / "snapshots").is_dir():
        snapshots = sorted((folder / "snapshots").glob("*/config.json"))
        name = "/".join(folder.name.removeprefix("models--").split("--"))
        inside = f", or the folder {snapshots[-1].parent}" if snapshots else ""
        return f"; it is a folder of the hub's cache: give the name {name}{inside}"
    if (folder / "adapter_config.json").is_file():
        return "; it is a LoRA adapter: give its base here and this folder as adapter"
    if inner := [p.name for p in there if (p / "config.json").is_file()]:
        return f"; is {folder / inner[-1]} meant?"
    return _advice(there)


def _advice(paths: Any) -> str:
    """A sentence for the first file whose form is not loaded."""
    for path in sorted(paths):
        if path.suffix.lower() in _FORMS:
            return f"; {_FORMS[path.suffix.lower()]}"
    return ""


def _refused(sentence: str) -> SegzeroError:
    return SegzeroError(Status.NOT_READY, sentence)
