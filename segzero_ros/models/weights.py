"""What the headers of safetensors files say, read without a model library: names, shapes, number formats, damage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.text import first_line

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_HEADER = 100_000_000  # bytes, safetensors' own limit
MAX_INDEX = 50_000_000  # bytes; that of a 72B model has 0.1 MB
FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Tensor:
    """dtype: as safetensors names it, such as "BF16"."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return prod(self.shape)


def files_of(folder: Path) -> list[Path]:
    """The files that the model library would read. Raises SegzeroError(NOT_READY) unless all of them are there."""
    index = folder / INDEX
    there = sorted(p.name for p in folder.glob("*.safetensors"))
    if index.is_file():
        names = _names_in(index)
        if SINGLE in there and names != {SINGLE}:
            raise _refused(f"{folder} holds {SINGLE} and {INDEX} with shards; which are meant? Remove the others")
        if missing := sorted(names - set(there)):
            raise _refused(f"{folder} lacks {len(missing)} of its {len(names)} files, such as {missing[0][:80]}")
        return [folder / name for name in sorted(names)]
    if SINGLE in there:
        return [folder / SINGLE]
    shards = [n for n in there if "-of-" in n]
    if shards:
        raise _refused(
            f"{folder} holds {len(shards)} shards such as {shards[0][:80]}, but not {INDEX}, which says what is in"
            " which; fetch it, too"
        )
    raise _refused(f"{folder} holds {there[0][:80]}, but the model library reads {SINGLE} only; rename or save it anew")


def _names_in(index: Path) -> set[str]:
    try:
        if index.stat().st_size > MAX_INDEX:
            raise ValueError("it is too large")
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if not names or not all(isinstance(n, str) and n and n == Path(n).name for n in names):
            raise ValueError("weight_map holds no file names")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _refused(f"{index} is corrupt: {first_line(error)}; fetch it again") from error
    return names


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises SegzeroError(NOT_READY) where the file is damaged or cut off."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            if first == b"version ":
                raise ValueError("it is a Git LFS pointer and not the file (run: git lfs pull)")
            length = int.from_bytes(first, "little")
            if not 0 < length <= min(size - 8, MAX_HEADER):
                raise ValueError("the header is damaged")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        found = {}
        end = 0
        for name, entry in header.items():
            shape = entry["shape"]
            if not all(type(n) is int and n >= 0 for n in shape):
                raise ValueError("a shape is damaged")
            found[name] = Tensor(str(entry["dtype"]), tuple(shape))
            if type(entry["data_offsets"][1]) is not int:
                raise ValueError("an offset is damaged")
            end = max(end, entry["data_offsets"][1])
        if 8 + length + end != size:
            raise ValueError(f"it has {size} bytes and should have {8 + length + end}")
    except (OSError, ArithmeticError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _refused(f"{path} is truncated or corrupt: {first_line(error)}; fetch it again") from error
    return found


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by their names in the files. Raises SegzeroError(NOT_READY)."""
    return {name: tensor for path in files_of(folder) for name, tensor in read_header(path).items()}


def refuse_unknown_formats(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Weights that are no floats mean nothing without the scheme that made them. Raises SegzeroError(NOT_READY)."""
    odd = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.dtype not in FLOATS and not name.endswith(("position_ids", "num_batches_tracked"))
    }
    if odd:
        name = next(iter(odd))
        raise _refused(
            f"{folder} holds {len(odd)} tensors that are no floating-point numbers, such as {name[:120]}"
            f" ({odd[name].dtype}): quantised weights are not loaded; take the checkpoint in bfloat16 or float16"
        )


def _refused(sentence: str) -> SegzeroError:
    return SegzeroError(Status.NOT_READY, sentence)
