"""Qwen2.5-VL's vision tower on a batch of equal squares.

The library packs images of any size into one sequence; with equal squares a batched form is several times faster on a
CPU. tests/test_train_reasoner.py holds the two forms together.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat((-b, a), -1) * sin.to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Fused in float32, where that is three times as fast on a CPU; in bfloat16 its backward is many times slower."""
    if not torch.is_autocast_enabled("cpu"):
        return F.scaled_dot_product_attention(q, k, v, mask)
    with torch.autocast("cpu", enabled=False):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, -1e4)
        return torch.softmax(scores, -1) @ v


class FastVision:
    """The vision tower on equal squares: (B, 3, S, S) normalised to (B, cells, hidden), row by row."""

    def __init__(self, model: Any, grid: int, device: Any = None) -> None:
        """grid: patches along a side."""
        self.tower = model.model.visual
        config = self.tower.config
        self.grid, self.patch, self.merge = grid, config.patch_size, config.spatial_merge_size
        shape = torch.tensor([[1, grid, grid]])
        order, edges = get_vision_window_index(
            shape, spatial_merge_size=self.merge, window_size=config.window_size, patch_size=self.patch
        )
        self.back = torch.argsort(order).to(device)
        lengths = edges[1:] - edges[:-1]
        assert bool((lengths == lengths[0]).all()), "windows must be equal"
        self.window, self.windows = int(lengths[0]), len(lengths)
        position = get_vision_position_ids(shape, self.merge).to(device)
        cos, sin = self.tower.rotary_pos_emb(torch.zeros(1, device=device), position)
        self.within = torch.arange(grid * grid).view(-1, self.merge**2)[order].reshape(-1).to(device)
        self.cos, self.sin = cos[self.within][:, None, :], sin[self.within][:, None, :]
        self.raster = (position[:, 0] * grid + position[:, 1])[self.within]

    @staticmethod
    def fits(model: Any, grid: int) -> bool:
        """Whether windows divide a square of so many patches along a side."""
        config = model.model.visual.config
        return grid % (config.window_size // config.patch_size) == 0 and grid % config.spatial_merge_size == 0

    def __call__(self, images: Tensor) -> Tensor:
        config, grid, patch = self.tower.config, self.grid, self.patch
        batch = images.shape[0]
        x = images.view(batch, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
        x = x.reshape(batch, grid * grid, -1)[:, self.raster]
        # The library shows every patch twice, as two moments in time; the sum of the kernels is the same.
        return self._blocks(F.linear(x, self.tower.patch_embed.proj.weight.sum(2).reshape(config.hidden_size, -1)))

    def patches(self, patches: Tensor) -> Tensor:
        """The same from patches (B, grid², values) as the library's image processor orders them."""
        weight = self.tower.patch_embed.proj.weight
        return self._blocks(F.linear(patches[:, self.within].to(weight.dtype), weight.flatten(1)))

    def _blocks(self, h: Tensor) -> Tensor:
        config = self.tower.config
        batch, tokens, heads = h.shape[0], h.shape[1], config.num_heads
        size = config.hidden_size // heads
        for depth, block in enumerate(self.tower.blocks):
            z = rms(h, block.norm1.weight, 1e-6)
            q, k, v = block.attn.qkv(z).view(batch, tokens, 3, heads, size).unbind(2)
            q, k = rotate(q, self.cos, self.sin), rotate(k, self.cos, self.sin)
            full = depth in config.fullatt_block_indexes
            shape = (batch, tokens, heads, size) if full else (batch * self.windows, self.window, heads, size)
            o = attend(*(t.reshape(shape).transpose(1, 2) for t in (q, k, v)))
            h = h + block.attn.proj(o.transpose(1, 2).reshape(batch, tokens, -1))
            z = rms(h, block.norm2.weight, 1e-6)
            h = h + block.mlp.down_proj(F.silu(block.mlp.gate_proj(z)) * block.mlp.up_proj(z))
        z = rms(h, self.tower.merger.ln_q.weight, 1e-6)
        return self.tower.merger.mlp(z.reshape(batch, tokens // self.merge**2, -1))[:, self.back]
