"""Published evaluation scripts run as they are, from a copy of their repository, over stand-ins for the models.

A script is a module of its own here. It imports the standard library, NumPy, SciPy and Pillow for real; all else, torch
and SAM included, is a name that takes any call. Then the names that matter are set: the data set, a reasoner that says
given texts, a processor that notes prompts, and a segmenter whose masks follow from its box and points. Running a file
runs whatever it holds, so give paths of code that you trust.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import io
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

REAL = {*sys.stdlib_module_names, "numpy", "scipy", "PIL"} - {"pdb"}


class _StandInType(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)


class _StandIn(metaclass=_StandInType):
    """Takes any call, has any attribute, and is a context manager and a base class."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return _StandIn()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None: ...


def stand_in(name: str) -> Any:
    return _StandInType(name, (_StandIn,), {})


def load_script(path: Path) -> ModuleType:
    """A published file as a module. Raises ValueError."""

    def importing(name: str, scope: Any = None, local: Any = None, wanted: Any = (), level: int = 0) -> Any:
        if level or name.partition(".")[0] not in REAL:
            return _StandIn()
        return builtins.__import__(name, scope, local, wanted, level)

    spec = importlib.util.spec_from_file_location(f"published_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": importing}
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} cannot be run: {error!r}") from error
    return module


@dataclass(frozen=True)
class Row:
    """One item. image: (H, W, 3) uint8; mask: (H, W); text: the instruction; said: what the reasoner answers to it, as
    often as it is asked, which is the same for all rows of a run."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    text: str
    said: tuple[str, ...]


@dataclass
class Outcome:
    """items: (intersection, union) by row, without those that the script leaves out. printed: figures by name."""

    items: dict[int, tuple[int, int]]
    printed: dict[str, float]
    prompts: list[str] = field(default_factory=list)
    tokens: set[int] = field(default_factory=set)


Masks = Callable[[Any, Any, tuple[int, int]], NDArray[np.bool_]]


def score_of(mask: NDArray[np.bool_]) -> float:
    """What the segmenter gives a mask: one of few scores, the greatest of those of its three masks."""
    return 0.5 + int(np.count_nonzero(mask)) % 4 / 10


class _Rows(list[Any]):
    def select(self, numbers: Sequence[int]) -> _Rows:
        return _Rows(self[n] for n in numbers)


class _Inputs(dict[str, Any]):
    def __init__(self, first: int, count: int) -> None:
        super().__init__()
        self.input_ids = np.arange(first, first + count)[:, None]
        self["input_ids"] = self.input_ids

    def to(self, _: Any) -> _Inputs:
        return self


class Machine:
    """What the scripts load: processor and reasoner in one, which note prompts and say the rows' texts in turn."""

    def __init__(self, rows: Sequence[Row], masks: Masks, broken: Callable[[Any], bool]) -> None:
        self.rows, self.masks, self.broken = rows, masks, broken
        self.prompts: list[str] = []
        self.tokens: set[int] = set()
        self._next = 0

    def from_pretrained(self, *_: Any, **__: Any) -> Machine:
        return self

    def eval(self) -> Machine:
        return self

    def apply_chat_template(self, messages: Any, **_: Any) -> str:
        (said,) = (part["text"] for part in messages[0]["content"] if part["type"] == "text")
        self.prompts.append(said)
        return str(said)

    def __call__(self, text: Sequence[str], **_: Any) -> _Inputs:
        first, self._next = self._next, self._next + len(text)
        return _Inputs(first, len(text))

    def generate(self, input_ids: Any, max_new_tokens: int, num_return_sequences: int = 1, **_: Any) -> list[list[int]]:
        self.tokens.add(max_new_tokens)
        many = num_return_sequences
        return [[int(n), int(n) * many + k] for n in input_ids[:, 0] for k in range(many)]

    def batch_decode(self, ids: Sequence[Sequence[int]], **_: Any) -> list[str]:
        texts = [text for row in self.rows for text in row.said]
        return [texts[n] for (n,) in ids]

    def segmenter(self) -> Any:
        machine = self

        class Predictor:
            def __init__(self, *_: Any) -> None:
                self.size = (0, 0)

            @classmethod
            def from_pretrained(cls, *_: Any, **__: Any) -> Any:
                return cls()

            def set_image(self, image: Any) -> None:
                if machine.broken(np.asarray(image)):
                    raise RuntimeError("this image cannot be encoded")
                self.size = (image.height, image.width)

            def predict(self, point_coords: Any = None, point_labels: Any = None, box: Any = None) -> Any:
                mask = machine.masks(box, point_coords, self.size)
                three = np.stack([~mask, mask, mask & False]).astype(np.float32)
                return three, np.array([0.2, score_of(mask), 0.4]), None

        return Predictor

    def install(self, module: ModuleType) -> None:
        from PIL import Image

        data = _Rows(
            {
                "image": Image.fromarray(row.image),
                "text": row.text,
                "mask": row.mask.tolist(),
                "image_id": str(n),
                "ann_id": str(n),
                "img_height": row.image.shape[0],
                "img_width": row.image.shape[1],
            }
            for n, row in enumerate(self.rows)
        )
        for name in ("load_dataset", "load_from_disk"):
            setattr(module, name, lambda *_, **__: data)
        for name in ("AutoProcessor", "Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration"):
            setattr(module, name, self)
        module.SAM2ImagePredictor = self.segmenter()  # type: ignore[attr-defined]
        module.process_vision_info = lambda _: (None, None)  # type: ignore[attr-defined]
        module.tqdm = lambda some, **_: some  # type: ignore[attr-defined]


@contextlib.contextmanager
def _called(arguments: Sequence[str]) -> Iterator[None]:
    """With other arguments of the command line, and without what is printed."""
    before = sys.argv
    sys.argv = ["published", *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            yield
    finally:
        sys.argv = before


def run_script(
    script: Path, figures: Path, machine: Machine, *, library: Path | None = None, arguments: Sequence[str] = ()
) -> Outcome:
    """What a script writes of the rows, and what the script of its figures prints. library: of a model class that the
    script takes. Raises ValueError."""
    module = load_script(script)
    machine.install(module)
    if library is not None:
        model = load_script(library)
        machine.install(model)
        module.VisionReasonerModel = model.VisionReasonerModel  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        given = ["--output_path", folder, "--test_data_path", "rows", "--idx", "0", "--num_parts", "1"]
        try:
            with _called([*given, "--batch_size", "16", *arguments]):
                module.main()
            written = json.loads((Path(folder) / "output_0.json").read_text(encoding="utf-8"))
            told = io.StringIO()
            with contextlib.redirect_stdout(told):
                load_script(figures).calculate_metrics(folder)
        except (Exception, SystemExit) as error:
            raise ValueError(f"{script} ended with {error!r}") from error
    items = {int(r["image_id"]): (int(r["intersection"]), int(r["union"])) for r in written}
    found = re.findall(r"^(\w+) \([^\n]*\): ([\d.]+|nan)$", told.getvalue(), re.MULTILINE)
    return Outcome(items, {name: float(value) for name, value in found}, machine.prompts, machine.tokens)
