"""How FSDP sums gradients: in float32, as the published runs do."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any


def fsdp_plugin(precision: str) -> Any:
    """accelerate's plugin as its file says, with gradients reduced in float32; None where there is no FSDP.

    precision: "bf16", "fp16" or "no", as accelerate names what is computed in. accelerate itself takes it for the
    reduction too, and none of its files' keys says otherwise.
    """
    import torch
    from accelerate.utils import FullyShardedDataParallelPlugin

    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    plugin = FullyShardedDataParallelPlugin()
    if precision != "no":
        plugin.set_mixed_precision(precision)
        plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, reduce_dtype=torch.float32)
    return plugin


class ReducesInFloat32:
    """Before a trainer class."""

    def _build_accelerator_args(self: Any, **kwargs: Any) -> dict[str, Any]:
        if kwargs.get("fsdp_plugin") is None:
            kwargs["fsdp_plugin"] = fsdp_plugin(self.args.mixed_precision)
        found: dict[str, Any] = super()._build_accelerator_args(**kwargs)  # type: ignore[misc]
        return found
