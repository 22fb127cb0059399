"""The command `segzero segment`: one picture or many, one instruction or some prompts, masks and answers.

Where results go is checked before a model is loaded, and files are written aside and renamed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzero_ros.core import pointing
from segzero_ros.core.confidence import SAMPLES, WAYS, Verification
from segzero_ros.core.contract import Image, Prompt, Segmentation, SegzeroError, Status, ThoughtBudget
from segzero_ros.core.prompt import validate_instruction
from segzero_ros.core.text import clean, first_line, one_line
from segzero_ros.files import replaced, why_not_writable
from segzero_ros.process import end_at_once
from segzero_ros.profiles import load_profile

if TYPE_CHECKING:
    from segzero_ros.pipeline import Pipeline

LOSSLESS = (".png", ".tif", ".tiff")  # a mask keeps its values
PICTURES = (*LOSSLESS, ".jpg", ".jpeg", ".webp", ".bmp")
KINDS = {"out": LOSSLESS, "labels": LOSSLESS, "overlay": PICTURES}
ANSWERED = (Status.OK, Status.NO_OBJECT)


class WrongUse(ValueError):
    """The message says what is wrong with the arguments."""


@dataclass(frozen=True)
class Job:
    """One picture and where its results go; None: nowhere."""

    image: Path
    out: Path | None = None
    labels: Path | None = None
    overlay: Path | None = None


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("segment", help="segment pictures by an instruction, or by boxes and points")
    parser.add_argument("image", type=Path, nargs="+", help="one or more pictures")
    words = parser.add_argument("instruction", help="with --box or --point no more than a name, and may be left out")
    for option, numbers, what in (
        ("--box", "X1,Y1,X2,Y2", "segment what is in this box, in pixels; may be repeated"),
        ("--point", "X,Y", "a point on the object of the --box before it; without a box an object of its own"),
        ("--negative-point", "X,Y", "a point that is not on the object of the --box or --point before it"),
    ):
        parser.add_argument(option, action=_Pointing, dest="pointed", instruction=words, metavar=numbers, help=what)
    parser.add_argument("--profile", default="demo", help="a profile's name or the path of its YAML")
    parser.add_argument("--out", type=Path, help="union of the masks as PNG, 0 or 255; a folder for several pictures")
    parser.add_argument("--labels", type=Path, help="label image as PNG, i = instance i; a folder for several pictures")
    parser.add_argument("--overlay", type=Path, help="picture with masks, boxes and reasoning; a folder for several")
    parser.add_argument("--json", action="store_true", help="one JSON object per picture on standard output")
    parser.add_argument("--reasoner", help="another checkpoint: folder, hub name, or URL of a server")
    parser.add_argument("--adapter", help="a LoRA adapter that is merged into the reasoner: folder or hub name")
    parser.add_argument("--segmenter", help="another checkpoint: folder or hub name")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "float16", "bfloat16"))
    parser.add_argument("--offline", action="store_true", help="never ask the hub")
    parser.add_argument("--constrain", action="store_true", help="hold answers to the profile's form, token by token")
    parser.add_argument(
        "--thought-budget",
        type=read_budget,
        metavar="TOKENS",
        help="close the thought then; or seconds, such as 1.5s; 0: no thought, -1: no limit",
    )
    parser.add_argument("--verify", default="off", choices=WAYS, help="ask again how sure an answer is")
    parser.add_argument("--verify-samples", type=int, default=SAMPLES, help="random answers of --verify vote")
    parser.add_argument("--min-confidence", type=float, default=0.0, help="leave out objects whose confidence is below")
    parser.add_argument("--timeout", type=_seconds, help="seconds for each picture")


class _Pointing(argparse.Action):
    """Collects (option, text) in the order of the command line; with one of them the instruction may be left out."""

    def __init__(self, *positional: Any, instruction: argparse.Action, **named: Any) -> None:
        super().__init__(*positional, **named)
        self._instruction = instruction

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        self._instruction.required = False
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or ()), (self.option_strings[0], values)])


def run(arguments: argparse.Namespace) -> int:
    """Raises WrongUse, ProfileError and SegzeroError. 0 if every picture was answered, else 1."""
    profile = load_profile(arguments.profile)
    try:
        verification = Verification(arguments.verify, arguments.verify_samples, arguments.min_confidence)
    except ValueError as error:
        raise WrongUse(str(error)) from error
    arguments.prompts = read_prompts(arguments.pointed or ())
    if arguments.prompts:
        _name_pictures(arguments)
    _check_pictures(arguments.image)
    jobs = plan(arguments.image, {kind: getattr(arguments, kind) for kind in KINDS})
    try:
        if arguments.instruction or not arguments.prompts:
            validate_instruction(arguments.instruction)
        single = len(jobs) == 1
        if single:  # before the models, which take their time
            height, width = _read(jobs[0].image).shape[:2]
            if arguments.prompts:
                pointing.read_prompts(arguments.prompts, "", height, width)
    except SegzeroError as error:
        raise WrongUse(error.message) from error
    pipeline = load(profile, arguments)
    pipeline.reasoning.thought_budget = arguments.thought_budget
    pipeline.verifying.settings = verification
    answered = 0
    with _bar(len(jobs)) as bar:
        for job in jobs:
            answered += _answer(pipeline, job, arguments, single)
            bar.update()
    if not single:
        print(f"{len(jobs)} pictures, {answered} answered", file=sys.stderr)
    return 0 if answered == len(jobs) else 1


def read_prompts(pointed: Sequence[tuple[str, str]]) -> tuple[Prompt, ...]:
    """A --box begins an object, and what follows belongs to it; a --point that follows no box is one of its own.

    Raises WrongUse for what is no box and no point, and for a --negative-point that has no object.
    """
    prompts: list[Prompt] = []
    for option, text in pointed:
        numbers = _coordinates(option, text)
        if option == "--box":
            prompts.append(Prompt(box=(numbers[0], numbers[1], numbers[2], numbers[3])))
            continue
        on = option == "--point"
        if not prompts and not on:
            raise WrongUse(f"{option} {text}: there is no --box and no --point before it")
        if not prompts or (on and prompts[-1].box is None):
            prompts.append(Prompt())
        last = prompts[-1]
        point = (numbers[0], numbers[1])
        prompts[-1] = replace(last, points=(*last.points, point), positive=(*last.positive, on))
    return tuple(prompts)


def _coordinates(option: str, text: str) -> list[float]:
    form, count = ("X1,Y1,X2,Y2", 4) if option == "--box" else ("X,Y", 2)
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise WrongUse(f"{option} {one_line(text, 100)}: it is not {form} in pixels")
    return numbers


def _name_pictures(arguments: argparse.Namespace) -> None:
    """Of several names the last one is the instruction, unless it is a file's or ends like a picture's."""
    words = arguments.instruction
    if words is not None and (os.path.isfile(words) or words.lower().endswith(PICTURES)):
        arguments.image.append(Path(words))
        words = None
    arguments.instruction = words or ""


def _check_pictures(images: list[Path]) -> None:
    """Raises WrongUse for a name that is no file, such as the first words of an instruction without quotes."""
    for path in images:
        try:
            path.stat()
            why = "it is a folder" if path.is_dir() else ""
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
        if why:
            hint = "; an instruction of several words goes in quotes" if len(images) > 1 else ""
            raise WrongUse(f"{_short(path)} cannot be read as an image: {why}{hint}")


def plan(images: list[Path], wishes: dict[str, Path | None]) -> list[Job]:
    """Raises WrongUse for a place that cannot be written, or that two results or a picture would share."""
    wishes = {kind: path for kind, path in wishes.items() if path is not None}
    if len(images) > 1:
        _make_folders(wishes)
        jobs = [Job(i, **{k: p / f"{i.stem}.png" for k, p in wishes.items() if p}) for i in images]
    else:
        jobs = [Job(images[0], **wishes)]
    taken: dict[str, str] = {os.path.realpath(image): f"the picture {image}" for image in map(_nameable, images)}
    for job in jobs:
        for kind in wishes:
            path: Path = getattr(job, kind)
            if path.suffix.lower() not in KINDS[kind]:
                raise WrongUse(f"--{kind} {_short(path)}: its ending must be one of {', '.join(KINDS[kind])}")
            if why := why_not_writable(path):
                raise WrongUse(f"--{kind} {_short(path)} cannot be written: {why}")
            place = os.path.realpath(path)
            if place in taken:
                raise WrongUse(f"--{kind} of {_short(job.image)} would overwrite {taken[place]}")
            taken[place] = f"--{kind} of {_short(job.image)}"
    return jobs


def load(profile: Any, arguments: argparse.Namespace) -> Pipeline:
    """Loads the models with a progress bar on standard error."""
    with end_at_once():  # nothing is written yet, and the model libraries are imported here
        pipeline = _load(profile, arguments)
    reasoner = "" if arguments.prompts else f"{pipeline.reasoner.info} and "
    print(f"loaded {reasoner}{pipeline.segmenter.info}", file=sys.stderr)
    return pipeline


def _load(profile: Any, arguments: argparse.Namespace) -> Pipeline:
    from tqdm import tqdm

    from segzero_ros.pipeline import Pipeline

    with tqdm(total=100, desc="loading", bar_format="{desc} |{bar}| {n:.0f} %", leave=False, file=sys.stderr) as bar:

        def tell(share: float, what: str) -> None:
            bar.set_description(what)
            bar.update(100 * share - bar.n)

        return Pipeline.load(
            profile,
            reasoner=arguments.reasoner,
            adapter=arguments.adapter,
            segmenter=arguments.segmenter,
            device=arguments.device,
            dtype=arguments.dtype,
            offline=arguments.offline,
            constrain=arguments.constrain or None,
            words=not arguments.prompts,
            trial=False,  # the request itself follows at once
            on_progress=tell,
        )


def _answer(pipeline: Pipeline, job: Job, arguments: argparse.Namespace, single: bool) -> bool:
    """Whether there was an answer and it could be written. What is wrong with one of many is said and counted."""
    from tqdm import tqdm

    try:
        image = _read(job.image)
        if arguments.prompts:
            given = arguments.prompts, arguments.instruction
            result = pipeline.segment_prompts(image, *given, timeout=arguments.timeout)
        else:
            result = pipeline.segment(image, arguments.instruction, timeout=arguments.timeout)
    except WrongUse as error:
        if single:
            raise
        image = None
        result = Segmentation(Status.UNSUPPORTED_ENCODING, str(error), arguments.instruction, 0, 0)
    failures = _write(job, image, result) if image is not None else []
    if failures and not single:
        result = replace(result, status=Status.BACKEND_ERROR, message="; ".join(failures))
    with tqdm.external_write_mode(file=sys.stdout, nolock=True):
        _print(result, None if single else job.image, arguments.json)
        for sentence in failures:
            print(f"segzero: {sentence}", file=sys.stderr)
    return result.status in ANSWERED and not failures


def _read(path: Path) -> Image:
    from segzero_ros.core.pixels import read_image

    try:
        return read_image(path)
    except SegzeroError as error:
        raise WrongUse(f"{_short(path)} cannot be read as an image: {error.message}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = getattr(error, "strerror", None) or first_line(error)
        raise WrongUse(f"{_short(path)} cannot be read as an image: {why}") from error


def _write(job: Job, image: Image, result: Segmentation) -> list[str]:
    """Writes what can be written; a sentence for each result that could not be."""
    failures = []
    for kind in KINDS:
        path: Path | None = getattr(job, kind)
        if path is None:
            continue
        try:
            _save(path, _draw(kind, image, result))
        except (OSError, ValueError, SystemError) as error:  # a picture may be too large for its format
            why = getattr(error, "strerror", None) or first_line(error)
            failures.append(f"{_short(path)} could not be written: {why}")
    return failures


def _draw(kind: str, image: Image, result: Segmentation) -> Any:
    """uint8 (H, W) for out, uint8 or uint16 (H, W) for labels, uint8 (H', W, 3) for the overlay."""
    import numpy as np

    from segzero_ros.core.geometry import label_image, union_mask
    from segzero_ros.overlay import captioned, draw_overlay

    masks = [i.packed for i in result.instances]
    if kind == "out":
        return union_mask(masks, *image.shape[:2]).astype(np.uint8) * np.uint8(255)
    if kind == "labels":
        return label_image(masks, [i.score for i in result.instances], *image.shape[:2])
    return captioned(draw_overlay(image, result), result)


def _save(path: Path, pixels: Any) -> None:
    from PIL import Image as PIL

    with replaced(path) as file:
        PIL.fromarray(pixels).save(file, format=PIL.registered_extensions()[path.suffix.lower()])


def _print(result: Segmentation, image: Path | None, as_json: bool) -> None:
    """image: named where there are several."""
    if as_json:
        from segzero_ros.core.result_dict import result_dict

        named = {} if image is None else {"image": clean(image)}
        print(json.dumps(named | result_dict(result)), flush=True)
        return
    if image is not None:
        print(f"{clean(image)}:")
    print(f"{result.status.value}: {clean(result.message)}")
    if result.reasoning:
        print(f"  thought: {clean(result.reasoning)}")
    for i in result.instances:
        label, box = clean(i.label), [round(v) for v in i.box]
        sure = "" if i.confidence is None else f"  confidence {i.confidence:.2f}"
        print(f"  {i.index}. {label}  box {box}  {i.area} px  score {i.score:.2f}{sure}")
    sys.stdout.flush()


def _make_folders(wishes: dict[str, Path | None]) -> None:
    for kind, folder in wishes.items():
        try:
            if folder is not None:
                folder.mkdir(exist_ok=True)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or first_line(error)
            raise WrongUse(f"--{kind} {_short(folder)} must be a folder for several pictures: {why}") from error


def _nameable(path: Path) -> Path:
    if "\0" in str(path):
        raise WrongUse(f"{_short(path)} cannot be read as an image: its name holds a zero byte")
    return path


def _short(path: Path | None) -> str:
    """A name for a sentence."""
    text = clean(path)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-90:]}"


def _seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0")
    return value


def read_budget(text: str) -> ThoughtBudget:
    """Tokens, or seconds with an s behind them; 0 for no thought, -1 for no limit."""
    if text == "-1":
        return ThoughtBudget()
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?s", text):
        return ThoughtBudget(seconds=float(text[:-1]))
    if re.fullmatch(r"[0-9]{1,6}", text):
        return ThoughtBudget(int(text))
    raise argparse.ArgumentTypeError(
        f"{one_line(text, 99)} is no number of tokens (0: no thought; -1: no limit), nor seconds like 1.5s"
    )


def _bar(count: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=count, desc="pictures", unit="picture", disable=count == 1, leave=False, file=sys.stderr)
