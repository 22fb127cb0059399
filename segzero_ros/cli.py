"""The command `segzero`: segment an image, look at the installation, list the profiles. Works without ROS.

Exit codes: 0 an answer ("nothing matches" is one), 1 no answer or a failed check, 2 wrong use.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as PIL

from segzero_ros import __version__
from segzero_ros.core.contract import Image, Segmentation, SegzeroError, Status
from segzero_ros.core.pixels import read_image
from segzero_ros.profiles import ProfileError, list_profiles, load_profile
from segzero_ros.rehearse import command as rehearse

if TYPE_CHECKING:
    from segzero_ros.pipeline import Pipeline


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="segzero", description="An instruction in, masks out.")
    parser.add_argument("--version", action="version", version=f"segzero_ros {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    segment = commands.add_parser("segment", help="segment one image by an instruction")
    segment.add_argument("image", type=Path)
    segment.add_argument("instruction")
    segment.add_argument("--profile", default="demo", help="a profile's name or the path of its YAML")
    segment.add_argument("--out", type=Path, help="union of the masks as PNG, 0 or 255")
    segment.add_argument("--labels", type=Path, help="label image as PNG, i = instance i")
    segment.add_argument("--overlay", type=Path, help="picture with masks, boxes and reasoning")
    segment.add_argument("--json", action="store_true", help="the result as one JSON object on standard output")
    segment.add_argument("--reasoner", help="another checkpoint: folder or hub name")
    segment.add_argument("--segmenter", help="another checkpoint: folder or hub name")
    segment.add_argument("--device", default="auto")
    segment.add_argument("--dtype", default="auto", choices=("auto", "float32", "float16", "bfloat16"))
    segment.add_argument("--offline", action="store_true", help="never ask the hub")
    segment.add_argument("--timeout", type=float, help="seconds")
    doctor = commands.add_parser("doctor", help="check Python, torch, GPU, ROS and checkpoints")
    doctor.add_argument("--profile", help="check this profile's checkpoints only")
    commands.add_parser("profiles", help="list the profiles")
    rehearse.add_parser(commands)
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "segment":
            return _segment(arguments)
        if arguments.command == "doctor":
            from segzero_ros.doctor import run

            return run(arguments.profile)
        if arguments.command == "rehearse":
            return rehearse.run(arguments)
        for p in list_profiles():
            print(f"{p.name:16} {p.description}")
            print(f"{'':16} {p.reasoner} + {p.segmenter}  [{p.licence or 'licence not stated'}]")
        return 0
    except ProfileError as error:
        return _complain(str(error), 2)
    except SegzeroError as error:
        return _complain(f"{error.status.value}: {error.message}", 1)
    except ModuleNotFoundError as error:
        return _complain(f"the Python module {error.name} is missing; `segzero doctor` says what to install", 1)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)


def _segment(arguments: argparse.Namespace) -> int:
    profile = load_profile(arguments.profile)
    try:
        image = read_image(arguments.image)
    except (OSError, SegzeroError) as error:
        return _complain(f"{arguments.image} cannot be read as an image: {error}", 2)
    for path in (arguments.out, arguments.labels, arguments.overlay):
        if path is not None and not path.parent.is_dir():
            return _complain(f"there is no folder {path.parent} for {path.name}", 2)
        if path is not None and path.suffix.lower() not in PIL.registered_extensions():
            return _complain(f"{path.name}: the ending names no picture format; .png keeps a mask as it is", 2)
    result = load(profile, arguments).segment(image, arguments.instruction, timeout=arguments.timeout)
    try:
        _write(arguments, image, result)
    except OSError as error:
        return _complain(f"the result could not be written: {error}", 2)
    return 0 if result.status in (Status.OK, Status.NO_OBJECT) else 1


def load(profile, arguments: argparse.Namespace) -> Pipeline:  # type: ignore[no-untyped-def]
    """Loads the models with a progress bar on standard error."""
    from tqdm import tqdm

    from segzero_ros.pipeline import Pipeline

    with tqdm(total=100, desc="loading", bar_format="{desc} |{bar}| {n:.0f} %", leave=False, file=sys.stderr) as bar:

        def tell(share: float, what: str) -> None:
            bar.set_description(what)
            bar.update(100 * share - bar.n)

        pipeline = Pipeline.load(
            profile,
            reasoner=arguments.reasoner,
            segmenter=arguments.segmenter,
            device=arguments.device,
            dtype=arguments.dtype,
            offline=arguments.offline,
            trial=False,  # the request itself follows at once
            on_progress=tell,
        )
    print(f"loaded {pipeline.reasoner.info} and {pipeline.segmenter.info}", file=sys.stderr)
    return pipeline


def _write(arguments: argparse.Namespace, image: Image, result: Segmentation) -> None:
    from segzero_ros.core.geometry import label_image, union_mask
    from segzero_ros.core.result_dict import result_dict
    from segzero_ros.overlay import captioned, draw_overlay

    masks = [i.packed for i in result.instances]
    if arguments.out:
        union = union_mask(masks, *image.shape[:2])
        PIL.fromarray(union.astype(np.uint8) * 255).save(arguments.out)
    if arguments.labels:
        labels = label_image(masks, [i.score for i in result.instances], *image.shape[:2])
        PIL.fromarray(labels).save(arguments.labels)
    if arguments.overlay:
        PIL.fromarray(captioned(draw_overlay(image, result), result)).save(arguments.overlay)
    if arguments.json:
        print(json.dumps(result_dict(result)))
        return
    print(f"{result.status.value}: {result.message}")
    if result.reasoning:
        print(f"  thought: {result.reasoning}")
    for i in result.instances:
        print(f"  {i.index}. {i.label}  box {[round(v) for v in i.box]}  {i.area} px  score {i.score:.2f}")


def _complain(sentence: str, code: int) -> int:
    print(f"segzero: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
