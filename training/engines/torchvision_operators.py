"""Lets torchvision be imported where its compiled part does not load: no registry has a CPU wheel of it.

The CUDA wheel's Python part registers meta functions for two operators of its compiled part, and fails without them;
with their schemas declared, image processors work, and the operators themselves still do not. In an environment for a
CPU (docs/decisions/training-environments.md), for every process that starts in it:

    cp training/engines/torchvision_operators.py SITE
    echo "import torchvision_operators" > SITE/torchvision_operators.pth

SITE: its site-packages. Costs nothing until torchvision is imported; does nothing where the compiled part loads.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[Any] = []  # torch forgets declarations with the object that made them


class _BeforeTorchvision:
    """A finder that finds nothing: it sees the import of torchvision come."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision" and not _kept:
            _kept.append(None)
            declare()


def declare() -> None:
    import torch

    found = PathFinder.find_spec("torchvision")
    for compiled in Path(found.origin).parent.glob("_C*.so") if found and found.origin else ():
        try:
            torch.ops.load_library(compiled)
        except OSError:
            continue
    if hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _kept.append(library)


sys.meta_path.insert(0, _BeforeTorchvision)  # type: ignore[arg-type]
