"""The order of a rehearsal: look at the machine, check what is needed, write, load, measure, judge."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from segzero_ros.core.contract import Cancel, SegzeroError, Status
from segzero_ros.core.failures import is_out_of_memory
from segzero_ros.core.text import first_line
from segzero_ros.models.checkpoints import EMBEDDED
from segzero_ros.models.devices import choose_device, choose_dtype, release_memory
from segzero_ros.models.loading import wanted_dtype
from segzero_ros.models.trial import try_out
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import Profile
from segzero_ros.rehearse import report
from segzero_ros.rehearse.checkpoint import SHARD_BYTES, disk_bytes, is_whole, special_ids, write_checkpoint
from segzero_ros.rehearse.dimensions import Dimensions, Role, find_dimensions
from segzero_ros.rehearse.ends import filled, measure_cancels, measure_recovery, measure_stream, measure_timeout
from segzero_ros.rehearse.machine import (
    Peak,
    describe_machine,
    free_disk,
    free_host_memory,
    free_memory,
    has_memory_of_its_own,
    is_in_memory,
    process_memory,
)
from segzero_ros.rehearse.stages import fill_prompt, measure_answers, measure_encoding, picture

WORK = 1_000_000_000  # bytes that an answer and its masks take besides weights, keys and values: an estimate
INSTRUCTION = "the red mug"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """profile: already read. dimensions: instead of the profile's own. disk: where checkpoints are kept; None: nowhere.

    tokens: of an answer. prompt_tokens: besides the image's. pictures: (width, height) for SAM.
    """

    profile: Profile
    dimensions: str | None
    segmenter_dimensions: str | None
    disk: Path | None
    device: str
    dtypes: list[str]
    attentions: list[str]
    tokens: int
    repeat: int
    prompt_tokens: int
    pictures: list[tuple[int, int]]
    objects: list[int]
    anyway: bool


@dataclass(frozen=True)
class Part:
    """One of the two checkpoints. random: it is written; else it is there and is loaded as it is."""

    role: Role
    dimensions: Dimensions
    random: bool


def rehearse(options: Options, say: Say) -> dict[str, Any]:
    """Everything that was found, for --json; each line is said as soon as it is known. Raises SegzeroError, OSError."""
    device = choose_device(options.device)
    parts = [_plan(options, "reasoner"), _plan(options, "segmenter")]
    profile = _rehearsed_profile(options, parts)
    found: dict[str, Any] = {
        "profile": options.profile.name,
        "machine": describe_machine(device),
        "checkpoints": {p.role: _described(p) for p in parts},
    }
    say(report.machine_line(found["machine"]))
    for part in parts:
        say(report.checkpoint_line(part.role, found["checkpoints"][part.role]))
    with ExitStack() as cleaning:
        folder = options.disk or Path(tempfile.gettempdir())
        found["need"] = need = _need(options, parts, device, folder)
        say(report.need_line(need))
        if need["lacks"] and not options.anyway:
            return found | report.verdict([], need["lacks"])
        if options.disk is None:
            folder = Path(cleaning.enter_context(tempfile.TemporaryDirectory(prefix="segzero-rehearse-")))
        folders = {part.role: _provided(part, folder, found["checkpoints"][part.role], say) for part in parts}
        runs: list[dict[str, Any]] = []
        for dtype in options.dtypes:
            for attention in options.attentions:
                runs.append(_run(options, profile, parts, folders, dtype, attention, say))
                release_memory()
        return found | {"runs": runs} | report.verdict(runs, "")


def _plan(options: Options, role: Role) -> Part:
    given = options.dimensions if role == "reasoner" else options.segmenter_dimensions
    checkpoint = options.profile.reasoner if role == "reasoner" else options.profile.segmenter
    if given is None and checkpoint == "embedded":
        return Part(role, replace(find_dimensions(str(EMBEDDED / role), role), name="embedded"), random=False)
    ids = special_ids() if role == "reasoner" else None
    return Part(role, find_dimensions(given or checkpoint, role, ids=ids), random=True)


def _rehearsed_profile(options: Options, parts: list[Part]) -> Profile:
    """The profile with answers of the length wanted, and for random weights with a prompt of the length wanted."""
    profile, reasoner = options.profile, parts[0]
    vision = reasoner.dimensions.config.vision_config
    cell = vision.patch_size * vision.spatial_merge_size
    wrong = ""
    if (kind := reasoner.dimensions.config.model_type) != profile.model_class:
        wrong = (
            f"its reasoner is a {profile.model_class}, and {reasoner.dimensions.name} has the dimensions of a {kind}"
        )
    elif profile.square % cell:
        wrong = f"its square of {profile.square} pixels is no multiple of the {cell} of {reasoner.dimensions.name}"
    if wrong:
        raise SegzeroError(Status.NOT_READY, f"profile {profile.name}: {wrong}")
    if not reasoner.random:
        return replace(profile, max_new_tokens=options.tokens)
    merged = replace(profile, adapter=None, subfolder=None)  # a merged adapter leaves the base's dimensions
    return replace(merged, prompt="{question}", max_new_tokens=options.tokens)


def _described(part: Part) -> dict[str, Any]:
    return {
        "dimensions": part.dimensions.name,
        "random": part.random,
        "parameters": part.dimensions.parameters,
        "bytes": disk_bytes(part.dimensions),
    }


def _need(options: Options, parts: list[Part], device: torch.device, folder: Path) -> dict[str, Any]:
    """Bytes needed and free, and in `lacks` a sentence where that is not enough."""
    # Of several settings the one that takes most.
    weights, cache, widest = max(
        (_loaded_bytes(options, parts, dtype, device) for dtype in options.dtypes), key=lambda need: need[0]
    )
    kept = [p for p in parts if options.disk is not None and is_whole(folder / p.role, p.dimensions)]
    written = [p for p in parts if p.random and p not in kept]
    disk = sum(disk_bytes(p.dimensions) for p in written)
    shard = min(SHARD_BYTES, disk)
    memory, memory_free = weights + cache + WORK, free_memory(device)
    in_memory = disk if is_in_memory(folder) else 0
    host, host_free = (memory if device.type == "cpu" else shard + WORK) + in_memory, free_host_memory()
    disk_free = free_disk(folder)
    need = {
        "dtype": str(widest).removeprefix("torch."),
        "weights": weights,
        "keys_and_values": cache,
        "work_estimated": WORK,
        "memory": memory,
        "memory_free": memory_free,
        "disk": disk,
        "disk_free": disk_free,
        "folder": str(folder),
    }
    lacks = [
        f"needs {report.gb(wanted)} GB of {what}, {report.gb(free)} are free"
        for wanted, free, what in (
            (memory, memory_free, "GPU memory" if device.type == "cuda" else "memory"),
            (host, host_free, "memory, files in a folder that lies in memory among them" if in_memory else "memory"),
            (disk, disk_free, f"disk in {folder}"),
        )
        if wanted > free
    ]
    if memory > memory_free and widest is torch.float32:
        lacks.append(f"--dtype bfloat16 needs {report.gb((weights + cache) // 2 + WORK)} GB of it")
    return need | {"lacks": "; ".join(dict.fromkeys(lacks))}


def _loaded_bytes(
    options: Options, parts: list[Part], dtype: str, device: torch.device
) -> tuple[int, int, torch.dtype]:
    """Of all weights, of keys and values, and the reasoner's number format."""
    reasoner = parts[0].dimensions
    formats = {part.role: choose_dtype(wanted_dtype(dtype, options.profile), device) for part in parts}
    weights = sum(part.dimensions.parameters * formats[part.role].itemsize for part in parts)
    tokens = options.prompt_tokens + _image_tokens(options.profile, parts[0]) + options.profile.max_new_tokens
    return weights, reasoner.cache_bytes(tokens, formats["reasoner"]), formats["reasoner"]


def _image_tokens(profile: Profile, reasoner: Part) -> int:
    vision = reasoner.dimensions.config.vision_config
    return int((profile.square // (vision.patch_size * vision.spatial_merge_size)) ** 2)


def _provided(part: Part, folder: Path, described: dict[str, Any], say: Say) -> Path:
    """The folder of a checkpoint, written unless it is there."""
    if not part.random:
        return EMBEDDED / part.role
    target, began = folder / part.role, time.perf_counter()
    if reused := is_whole(target, part.dimensions):
        say(f"{part.role}: taken from {target}, where it lies whole")
    else:
        with _bar(f"writing the {part.role}", disk_bytes(part.dimensions), unit="B", unit_scale=True) as bar:
            write_checkpoint(part.dimensions, target, on_bytes=bar.update)
    described |= {"reused": reused, "seconds_writing": time.perf_counter() - began}
    if not reused:
        say(f"{part.role}: {report.gb(described['bytes'])} GB written in {described['seconds_writing']:.1f} s")
    return target


def _run(
    options: Options,
    profile: Profile,
    parts: list[Part],
    folders: dict[Role, Path],
    dtype: str,
    attention: str,
    say: Say,
) -> dict[str, Any]:
    """One number format and one attention. What does not work is a sentence in `fault`."""
    run: dict[str, Any] = {"asked": {"dtype": dtype, "attention": attention}, "fits": False, "fault": ""}
    try:
        pipeline = _loaded(profile, folders, options.device, dtype, attention, run)
        say(report.load_line(run["load"]))
        _measure(options, pipeline, parts[0].random, run, say)
        run["fits"] = True
    except SegzeroError as error:
        run["fault"] = f"{error.status.value}: {error.message}"
    except Exception as error:  # a library that fails is a finding
        what = "there is not enough memory" if is_out_of_memory(error) else first_line(error)
        run["fault"] = f"{type(error).__name__}: {what}"
    if run["fault"]:
        say(f"with {dtype} and attention {attention}: {run['fault']}")
    return run


def _loaded(
    profile: Profile, folders: dict[Role, Path], device: str, dtype: str, attention: str, run: dict[str, Any]
) -> Pipeline:
    where, began = choose_device(device), time.perf_counter()
    with Peak(where) as peak, _bar("loading", 100, bar_format="{desc} |{bar}| {n:.0f} %") as bar:

        def tell(share: float, what: str) -> None:
            bar.set_description(what)
            bar.update(100 * share - bar.n)

        pipeline = Pipeline.load(
            profile,
            reasoner=str(folders["reasoner"]),
            segmenter=str(folders["segmenter"]),
            device=device,
            dtype=dtype,
            attention=attention,
            offline=True,
            trial=False,  # the first answer is measured
            on_progress=tell,
        )
    info = pipeline.reasoner.info
    config = getattr(getattr(pipeline.reasoner, "model", None), "config", None)
    run["load"] = {
        "seconds": time.perf_counter() - began,
        "dtype": info.dtype,
        "attention": getattr(config, "_attn_implementation", None) or attention,
        "device": info.device,
        "weights": info.memory_bytes + pipeline.segmenter.info.memory_bytes,
        "peak": peak.bytes,
        **process_memory(),
    }
    return pipeline


def _measure(options: Options, pipeline: Pipeline, random: bool, run: dict[str, Any], say: Say) -> None:
    """Fills `run` stage by stage, so that what was found before a failure is kept."""
    image = picture(*options.pictures[0])
    reasoner: Any = pipeline.reasoner
    instruction = fill_prompt(reasoner, options.prompt_tokens) if random else INSTRUCTION
    pipeline.max_instruction_chars = max(pipeline.max_instruction_chars, len(instruction))
    steps = 1 + options.repeat + len(options.pictures) * (1 + len(options.objects)) + 4
    with _bar("measuring", steps, bar_format="{desc} |{bar}| {n_fmt} of {total_fmt}") as bar:

        def on_step(what: str) -> None:
            bar.set_description(what)
            bar.update()

        answers = measure_answers(pipeline, image, instruction, options.repeat, on_step)
        run["answers"] = asdict(answers) | {
            "first_token": answers.first_token,
            "tokens_per_second": 1 / answers.token if answers.token else None,
            "seconds_estimated": {str(n): answers.seconds(n) for n in report.LENGTHS},
        }
        _say_all(bar, say, report.answer_lines(run["answers"]))
        run["encodings"] = []
        for width, height in options.pictures:
            encoding = measure_encoding(pipeline, width, height, options.objects, options.repeat, on_step)
            run["encodings"].append(asdict(encoding))
            _say_all(bar, say, report.encoding_lines(run["encodings"][-1]))
        on_step("trying as the node does")
        began = time.perf_counter()
        try_out(pipeline.reasoner, pipeline.segmenter, pipeline.profile, lambda share, what: None, Cancel())
        run["trial"] = time.perf_counter() - began
        _say_all(bar, say, [f"trial before READY: passed in {run['trial']:.2f} s"])
        on_step("cancelling")
        ends = measure_cancels(pipeline, image, instruction)
        ends.append(measure_timeout(pipeline, image, instruction, answers))
        run["ends"] = [asdict(end) for end in ends]
        _say_all(bar, say, report.end_lines(run["ends"]))
        on_step("streaming")
        run["stream"] = asdict(measure_stream(pipeline, image, instruction))
        _say_all(bar, say, [report.stream_line(run["stream"])])
        on_step("filling the memory")
        _recover(pipeline, image, instruction, run)
        _say_all(bar, say, [report.recovery_line(run["recovery"])])
    run["judged"] = report.judge(run)


def _recover(pipeline: Pipeline, image: Any, instruction: str, run: dict[str, Any]) -> None:
    """Not where models share the host's memory: when that is full the system ends processes, and not this one alone."""
    run["recovery"] = None
    device = torch.device(pipeline.reasoner.info.device)
    if has_memory_of_its_own(device):
        recovery = measure_recovery(pipeline, image, instruction, filled(device))
        run["recovery"] = asdict(recovery)
        if not recovery.good:
            what = f"with the memory full a request ended as {recovery.full}, and the next as {recovery.after}"
            raise SegzeroError(Status.BACKEND_ERROR, what)


def _say_all(bar: Any, say: Say, lines: list[str]) -> None:
    bar.clear()
    for line in lines:
        say(line)
    bar.refresh()


@contextmanager
def _bar(what: str, total: int, **settings: Any) -> Iterator[Any]:
    """On standard error, where that is a terminal."""
    with tqdm(total=total, desc=what, leave=False, file=sys.stderr, disable=None, **settings) as bar:
        yield bar
