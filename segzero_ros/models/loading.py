"""A checkpoint's folder to a model on its device: refused with a sentence unless every weight has its place.

The model library fills what a checkpoint lacks with random numbers and drops what it does not know. Both would answer
nonsense under the name of the checkpoint, so here both are errors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.utils import logging as library

from segzero_ros.core.contract import Cancel, LoadedModel, OnProgress, SegzeroError, Status
from segzero_ros.core.failures import is_out_of_memory
from segzero_ros.core.profiles import Profile
from segzero_ros.core.text import one_line
from segzero_ros.models import checkpoints, hub, weights
from segzero_ros.models.adapters import merge_adapter
from segzero_ros.models.devices import choose_attention, choose_device, choose_dtype, memory_of, move_to

log = logging.getLogger(__name__)

MAX_LAYERS = 1000
PIECE = 1 << 24  # numbers that are looked at together: a sum makes a copy in float32
MAX_NUMBER = 100_000_000  # of anything that a configuration counts: widths, tokens, positions


@dataclass(frozen=True)
class Checkpoint:
    """Where a model comes from. name, revision, subfolder: as for `checkpoints.resolve`; adapter: a LoRA, merged."""

    name: str
    revision: str | None = None
    subfolder: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None
    adapter_subfolder: str | None = None


@dataclass(frozen=True)
class Placement:
    """Where and how a model runs; None or "auto": chosen by what is there. offline: the hub is never asked."""

    device: str | None = None
    dtype: str | None = None
    attention: str | None = None
    offline: bool = False


def choose_checkpoint(own: Checkpoint, name: str | None, revision: str | None) -> Checkpoint:
    """The profile's own, or another by name: the own one's revision, subfolder and adapter go with no other."""
    if name is None or name == own.name:
        return replace(own, revision=revision or own.revision)
    return Checkpoint(name or own.name, revision or None)


def wanted_dtype(requested: str | None, profile: Profile) -> str:
    return profile.dtype if not requested or requested == "auto" else requested


def load_model(
    model_class: Any,
    checkpoint: Checkpoint,
    role: str,
    model_types: Collection[str],
    placement: Placement,
    on_progress: OnProgress | None,
    cancel: Cancel | None,
) -> tuple[Any, Path, LoadedModel]:
    """The model in evaluation mode, its folder, and what is told of it. Raises SegzeroError.

    role: "reasoner" or "segmenter". model_types: of config.json, those that model_class can load.
    """
    tell = on_progress or (lambda share, what: None)
    name = checkpoint.name
    tell(0.0, f"finding {name}")
    folder = checkpoints.resolve(
        name,
        role,
        revision=checkpoint.revision,
        subfolder=checkpoint.subfolder,
        offline=placement.offline,
        on_progress=lambda s: tell(0.3 * s, f"fetching {name}"),
        cancel=cancel,
    )
    adapter = _adapter_of(checkpoint, placement.offline, tell, cancel)
    refuse_other_type(folder, role, model_types)
    refuse_twice(folder)
    tell(0.3, f"loading {name}")
    where = choose_device(placement.device)
    config = _read_config(folder)
    try:
        kind = choose_dtype(placement.dtype, where)
        refuse_larger_than_files(name, model_class, config, folder)
        with _told(lambda share: tell(0.3 + 0.4 * share, f"loading {name}"), cancel):
            model, found = model_class.from_pretrained(
                folder,
                config=config,
                dtype=kind,
                attn_implementation=choose_attention(placement.attention, where, kind),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are refused below, with their names
                output_loading_info=True,
            )
        refuse_misfits(name, model, found)
        stop_if(cancel)
        if adapter is not None:
            tell(0.7, f"merging {checkpoint.adapter} into {name}")
            model = merge_adapter(model, adapter)
            stop_if(cancel)
        moving = f"moving {name} to {where}"
        model = move_to(model, where, lambda share, what: tell(0.75 + 0.2 * share, what), moving, cancel).eval()
        tell(0.95, f"checking the weights of {name}")
        refuse_non_finite(name, model, cancel)
    except SegzeroError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise SegzeroError(Status.OUT_OF_MEMORY, f"{name} does not fit on {where}") from error
        raise _refused(f"could not load {name}: {one_line(str(error), 300) or type(error).__name__}") from error
    info = LoadedModel(
        name=name,
        revision=hub.revision_of(folder, checkpoint.revision),
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(kind).removeprefix("torch."),
        device=str(where),
        memory_bytes=memory_of(model),
        adapter=checkpoint.adapter or "",
    )
    return model, folder, info


def _read_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library checks some fields, and trips over others
        why = one_line(str(error), 300) or type(error).__name__
        raise _refused(f"{folder}/config.json cannot be used: {why}") from error


def stop_if(cancel: Cancel | None) -> None:
    if cancel is not None and cancel.is_set():
        raise SegzeroError(Status.CANCELLED, "the load was cancelled")


def _adapter_of(checkpoint: Checkpoint, offline: bool, tell: OnProgress, cancel: Cancel | None) -> Path | None:
    if not checkpoint.adapter:
        return None
    return checkpoints.resolve(
        checkpoint.adapter,
        "adapter",
        revision=checkpoint.adapter_revision,
        subfolder=checkpoint.adapter_subfolder,
        offline=offline,
        on_progress=lambda s: tell(0.3, f"fetching {checkpoint.adapter}"),
        cancel=cancel,
    )


def refuse_other_type(folder: Path, role: str, model_types: Collection[str]) -> None:
    config = checkpoints.read_json(folder / "config.json", f"a {role}")
    found = config.get("model_type")
    if not isinstance(found, str) or found not in model_types:
        raise _refused(
            f"{folder} holds a model of type {str(found)[:60]!r} by its config.json; this {role} is to be"
            f" {' or '.join(sorted(model_types))} (the profile's model_class)"
        )
    _refuse_huge_numbers(folder, config, "")


def _refuse_huge_numbers(folder: Path, value: Any, key: str, depth: int = 0) -> None:
    """A model is built before its weights are looked at, so numbers that would take hours or all memory go first."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_huge_numbers(folder, inner, str(name), depth + 1)
    elif isinstance(value, list):
        for inner in value[: MAX_LAYERS + 1]:
            _refuse_huge_numbers(folder, inner, key, depth + 1)
        if len(value) > MAX_LAYERS and "token" not in key:
            raise _refused(f"{folder}/config.json: {key[:60]} has {len(value)} entries, which no model has")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        layers = key in ("depth", "num_layers", "num_hidden_layers", "blocks_per_stage")
        if abs(value) > (MAX_LAYERS if layers else MAX_NUMBER):
            raise _refused(f"{folder}/config.json: {key[:60]} is {str(value)[:30]}, which no model has")


def refuse_larger_than_files(name: str, model_class: Any, config: Any, folder: Path) -> None:
    """A configuration of a larger model than the files hold would be built in full before it is refused."""
    with torch.device("meta"):
        wanted = sum(p.numel() for p in model_class(config).parameters())
    held = sum(t.count for t in weights.tensors_of(folder).values())
    # A tied matrix may stand in the files once, and the model counts it once; small buffers come and go.
    if wanted > 1.5 * held + 1_000_000:
        raise _refused(
            f"{name}: config.json describes a model of {wanted / 1e6:.1f} M parameters, and the files hold"
            f" {held / 1e6:.1f} M; they do not belong together"
        )


def refuse_twice(folder: Path) -> None:
    """A weight under its older and its newer name: one of them would win, and nobody knows which."""
    seen: dict[str, str] = {}
    for key in weights.tensors_of(folder):
        plain = key.replace("model.language_model.", "model.", 1).replace("model.visual.", "visual.", 1)
        if plain in seen:
            raise _refused(f"{folder} holds one weight under two names, {seen[plain][:100]} and {key[:100]}")
        seen[plain] = key


def refuse_misfits(name: str, model: Any, found: dict[str, Any]) -> None:
    """What the library's report says: weights that are missing, of another shape, or without a place in the model.

    Unknown weights of a module that the model has (scales, more layers) would change its answers, so they are refused;
    others belong to parts that this model class does not have, and are named in a warning.
    """
    if missing := sorted(found["missing_keys"]):
        raise _refused(f"{name} lacks {len(missing)} weights of its model, such as {', '.join(missing[:3])}")
    if mismatched := sorted(found["mismatched_keys"], key=str):
        key, stored, wanted = mismatched[0]
        raise _refused(
            f"{name}: {len(mismatched)} weights have another shape than config.json says, such as {key}:"
            f" {tuple(stored)} in the file, {tuple(wanted)} in the model"
        )
    unknown = sorted(found["unexpected_keys"])
    modules = {module for module, _ in model.named_modules()} - {"", model.base_model_prefix}
    inside = [key for key in unknown if any(prefix in modules for prefix in _prefixes(key))]
    if inside:
        raise _refused(
            f"{name}: {len(inside)} weights belong to parts of the model and have no place there, such as"
            f" {', '.join(k[:100] for k in inside[:3])}: quantised, or not of this model_class"
        )
    if unknown:
        log.warning("%s: %d weights are not used, such as %s", name, len(unknown), ", ".join(unknown[:3]))


def _prefixes(key: str) -> Iterator[str]:
    parts = key.split(".")
    return (".".join(parts[:n]) for n in range(1, len(parts)))


def refuse_non_finite(name: str, model: Any, cancel: Cancel | None = None) -> None:
    """One number that is none makes all answers nonsense; a matrix of zeros is what a cut-off copy leaves."""
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.is_floating_point():
            continue
        nothing = tensor.numel() > max(tensor.shape, default=0)  # a matrix; a vector may be zero
        for piece in tensor.detach().flatten().split(PIECE):
            stop_if(cancel)
            # A sum is not finite where an element is not, and reads the weights once.
            total = piece.sum(dtype=torch.float32)
            if not total.isfinite() and not piece.isfinite().all():
                raise _refused(f"{name}: {key} holds numbers that are not finite; the file is damaged")
            nothing = nothing and not total and not piece.any()
        if nothing:
            raise _refused(f"{name}: {key} holds nothing but zeros; the file was not written to its end")


@contextmanager
def _told(tell: Callable[[float], None], cancel: Cancel | None) -> Iterator[None]:
    """The library's own progress bars are told here, and end the load where it is cancelled.

    Its table of misfits stays unprinted: a sentence is made of what is in it.
    """

    def bar(factory: Any, args: Any, more: dict[str, Any]) -> Any:
        if not args or not hasattr(args[0], "__len__"):
            return factory(*args, **more | {"disable": True})
        return _Watched(args[0], tell, cancel)

    class NoTable(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            return "LOAD REPORT" not in record.getMessage()

    no_table = NoTable()
    loggers = [library.get_logger(f"transformers.{name}") for name in ("modeling_utils", "utils.loading_report")]
    before = library.set_tqdm_hook(bar)
    for logger in loggers:
        logger.addFilter(no_table)
    try:
        yield
    finally:
        library.set_tqdm_hook(before)
        for logger in loggers:
            logger.removeFilter(no_table)


class _Watched:
    """An iterable that tells how far it is, in steps of five per cent."""

    def __init__(self, items: Any, tell: Callable[[float], None], cancel: Cancel | None) -> None:
        self.items, self.tell, self.cancel = items, tell, cancel

    def __iter__(self) -> Iterator[Any]:
        told = 0
        for n, item in enumerate(self.items, 1):
            stop_if(self.cancel)
            yield item
            if (percent := 100 * n // len(self.items)) >= told + 5:
                told = percent
                self.tell(n / len(self.items))

    def __len__(self) -> int:
        return len(self.items)


def _refused(sentence: str) -> SegzeroError:
    return SegzeroError(Status.NOT_READY, sentence[:600])
