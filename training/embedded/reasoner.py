"""The embedded reasoner: a small Qwen2.5-VL, its initialisation, and a batched forward equal to the library's.

The library packs images of any size into one sequence; with equal squares a batched form is several times
faster on a CPU. tests/test_train_reasoner.py holds the two forms together.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from training.embedded.tokenizer import FIRST_NUMBER, NUMBERS
from training.finetune.fast_vision import attend, rms, rotate
from training.finetune.processor_files import write_processor_files

SIZE, PATCH, MERGE = 224, 8, 2
CELL = PATCH * MERGE  # pixels of the image per image token
GRID = SIZE // CELL
PATCHES = SIZE // PATCH  # along a side
EMBEDDINGS = "model.language_model.embed_tokens.weight"  # the output's, too
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


@dataclass(frozen=True)
class Dimensions:
    vision_hidden: int = 128
    vision_layers: int = 6
    vision_heads: int = 4
    vision_mlp: int = 384
    hidden: int = 256
    layers: int = 6
    heads: int = 8
    mlp: int = 768
    vision_rope_base: float = 10_000.0  # vLLM and others have it fixed there, whatever a configuration says


SMOKE = Dimensions(vision_layers=2, layers=5, hidden=64, heads=2, mlp=96, vision_hidden=64, vision_mlp=96)


def build(tokenizer: Any, dims: Dimensions, seed: int) -> Any:
    """A fresh model. The language's rope base is small because positions are few: a 14 x 14 grid, about 150 tokens."""
    torch.manual_seed(seed)
    token = tokenizer.convert_tokens_to_ids
    head = dims.hidden // dims.heads // 2
    third = head * 7 // 16
    model: Any = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            vision_config={
                "depth": dims.vision_layers,
                "hidden_size": dims.vision_hidden,
                "intermediate_size": dims.vision_mlp,
                "num_heads": dims.vision_heads,
                "patch_size": PATCH,
                "spatial_merge_size": MERGE,
                "temporal_patch_size": 2,
                "window_size": 112,
                "out_hidden_size": dims.hidden,
                "fullatt_block_indexes": [dims.vision_layers // 2],
                "rope_parameters": {"rope_type": "axial", "rope_theta": dims.vision_rope_base},
            },
            text_config={
                "vocab_size": -(-len(tokenizer) // 64) * 64,
                "hidden_size": dims.hidden,
                "intermediate_size": dims.mlp,
                "num_hidden_layers": dims.layers,
                "num_attention_heads": dims.heads,
                "num_key_value_heads": dims.heads,
                "max_position_embeddings": 4096,
                "bos_token_id": token("<|im_start|>"),
                "eos_token_id": token("<|im_end|>"),
                "pad_token_id": token("<pad>"),
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 5.0,
                    "mrope_section": [head - 2 * third, third, third],
                },
            },
            image_token_id=token("<|image_pad|>"),
            video_token_id=token("<|video_pad|>"),
            vision_start_token_id=token("<|vision_start|>"),
            vision_end_token_id=token("<|vision_end|>"),
            tie_word_embeddings=True,
        )
    )
    with torch.no_grad():
        _fan_in(model)
        _local_kernels(model)
        _fourier_numbers(model.model.language_model.embed_tokens.weight)
    return model


def _fan_in(model: Any) -> None:
    """1 / sqrt(fan in); projections back into the residual stream smaller by sqrt(2 layers)."""
    layers = {"visual": len(model.model.visual.blocks), "": len(model.model.language_model.layers)}
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            continue
        if "embed_tokens" in name or "lm_head" in name:
            nn.init.normal_(weight, 0, weight.shape[1] ** -0.5)
            continue
        gain = 1.0
        if name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight")):
            gain = (2 * layers["visual" if "visual" in name else ""]) ** -0.5
        nn.init.normal_(weight, 0, gain * weight[0].numel() ** -0.5)


def _local_kernels(model: Any) -> None:
    """Each vision head starts by looking at one neighbour, farther away in deeper blocks, like a convolution.

    The biases of query and key, turned by the rotary embedding, peak at a fixed offset.
    """
    visual = model.model.visual
    heads, size = visual.config.num_heads, visual.config.hidden_size // visual.config.num_heads
    frequencies = visual.rotary_pos_emb.inv_freq
    count = size // 4
    neighbours = [(0, -1), (0, 1), (-1, 0), (1, 0)]
    for depth, block in enumerate(visual.blocks):
        radius = min(4, 1 + depth // 2) if depth < 4 else depth - 1
        bias = torch.zeros(3, heads, size)
        for head in range(heads):
            dy, dx = (radius * d for d in neighbours[head % 4])
            for j in range(count):
                frequency = float(frequencies[j])
                peak = math.sqrt((4.0 if frequency > 0.15 else 0.5) * size**0.5)
                for axis, offset in enumerate((dy, dx)):
                    real = axis * count + j
                    bias[1, head, real] = peak
                    bias[0, head, real] = peak * math.cos(frequency * offset)
                    bias[0, head, real + size // 2] = peak * math.sin(frequency * offset)
        block.attn.qkv.bias.copy_(bias.reshape(-1))
        block.attn.qkv.weight[: 2 * visual.config.hidden_size] *= 0.5


def _fourier_numbers(embeddings: Tensor) -> None:
    """The first dimensions of a number's embedding tell its value: waves of 500 down to 7 pixels."""
    waves = min(48, embeddings.shape[1] // 4)
    phase = 2 * math.pi * torch.arange(NUMBERS)[:, None] / torch.logspace(math.log10(500), math.log10(7), waves)[None]
    numbers = embeddings[FIRST_NUMBER : FIRST_NUMBER + NUMBERS]
    numbers *= 0.3
    numbers[:, : 2 * waves] = torch.cat([phase.cos(), phase.sin()], 1) * 1.4 * embeddings.shape[1] ** -0.5


def read_model(folder: str) -> Any:
    """A checkpoint as it is, in float32."""
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype="float32")


def keep(part: Any, folder: str, prefix: str = "") -> None:
    """Takes the weights below a name from a checkpoint of the same dimensions."""
    found = read_model(folder).state_dict()
    part.load_state_dict({k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)})


def go_on_from(model: Any, folder: str, tokenizer: Any) -> None:
    """Takes all weights from a checkpoint whose tokenizer may know fewer words: one that it spelled begins as the mean
    of what it was spelled by."""
    found = read_model(folder).state_dict()
    former = AutoTokenizer.from_pretrained(folder)
    rows, known = found[EMBEDDINGS], former.get_vocab()
    embeddings = torch.zeros_like(model.state_dict()[EMBEDDINGS])
    for token, number in tokenizer.get_vocab().items():
        before = [known[token]] if token in known else former.encode(token, add_special_tokens=False)
        embeddings[number] = rows[before].mean(0)
    model.load_state_dict(found | {EMBEDDINGS: embeddings, "lm_head.weight": embeddings})


def export(model: Any, tokenizer: Any, folder: Path) -> None:
    """A checkpoint as the hub lays them out, in bfloat16, with the processor's files; the model stays as it is."""
    model = copy.deepcopy(model).to(torch.bfloat16)
    for part in (model.config.text_config, model.config.vision_config):
        part.dtype = None  # of what it was read in; a server would take it for the weights'
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_processor_files(folder, SIZE)


def rope_base(folder: str) -> float:
    """Of a checkpoint's vision tower."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return float(config["vision_config"]["rope_parameters"]["rope_theta"])


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) to float (B, 3, S, S), as Qwen2-VL's image processor does."""
    return ((images.float() / 255.0 - MEAN) / STD).permute(0, 3, 1, 2).contiguous()


def library_inputs(images: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised images (B, 3, S, S) as the library wants them: pixel_values and image_grid_thw."""
    batch, rows = images.shape[0], SIZE // PATCH
    x = images.view(batch, 3, GRID, MERGE, PATCH, GRID, MERGE, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    x = x.reshape(batch * rows * rows, 3, 1, PATCH * PATCH).expand(-1, 3, 2, PATCH * PATCH)
    return x.reshape(batch * rows * rows, -1), torch.tensor([[1, rows, rows]] * batch)


@dataclass(frozen=True)
class Packed:
    """Several queries over one image, one after another.

    ids (B, S) token ids; query (B, S) which query a token belongs to, -1 = padding; step (B, S) its place in its query.
    """

    ids: Tensor
    query: Tensor
    step: Tensor


class FastLanguage:
    """The language model on one image and several packed queries, each of which sees the image and itself."""

    def __init__(self, model: Any, prefix: list[int], end: int) -> None:
        """prefix: tokens before the image; end: the token after it."""
        self.model, self.language = model, model.model.language_model
        self.prefix, self.end = torch.tensor(prefix), torch.tensor([end])
        first = len(prefix)
        self.before, self.image_tokens = first, first + GRID * GRID + 1
        self.causal = torch.ones(self.image_tokens, self.image_tokens, dtype=torch.bool).tril()
        rows = torch.arange(GRID)[:, None].expand(GRID, GRID).reshape(-1) + first
        columns = torch.arange(GRID)[None].expand(GRID, GRID).reshape(-1) + first
        image = torch.stack([torch.full_like(rows, first), rows, columns])
        text = torch.arange(first)[None].expand(3, -1)
        last = torch.full((3, 1), first + GRID)
        self.image_position = torch.cat([text, image, last], 1)
        self.next_position = first + GRID + 1

    def __call__(
        self,
        vision: Tensor,
        packed: Packed,
        keep_hidden: tuple[int, ...] = (),
        keep_scores: Mapping[int, int] | None = None,
    ) -> tuple[Tensor, Mapping[int, Tensor], Mapping[int, Tensor]]:
        """Returns the text's last hidden states (B, S, C), the image tokens' after some layers (B, GRID², C), and
        the text's attention scores before the softmax (B, n, S, image tokens + S) in the layers of keep_scores, of the
        first n heads that it says."""
        keep_scores = keep_scores or {}
        embed = self.language.embed_tokens
        config = self.language.config
        batch, length = packed.ids.shape
        heads = config.num_attention_heads
        first = self.image_tokens
        h = torch.cat(
            [
                embed(self.prefix)[None].expand(batch, -1, -1),
                vision.to(embed.weight.dtype),
                embed(self.end)[None].expand(batch, -1, -1),
                embed(packed.ids),
            ],
            1,
        )
        steps = (packed.step + self.next_position)[None].expand(3, -1, -1)
        position = torch.cat([self.image_position[:, None].expand(3, batch, -1), steps], 2)
        cos, sin = (t[:, :, None] for t in self.language.rotary_emb(torch.zeros(1), position))
        same = (packed.query[:, :, None] == packed.query[:, None, :]).tril()
        mask = torch.cat([torch.ones(batch, length, first, dtype=torch.bool), same], 2)[:, None]
        hidden, scores = {}, {}
        for depth, layer in enumerate(self.language.layers):
            z = rms(h, layer.input_layernorm.weight, config.rms_norm_eps)
            attention = layer.self_attn
            q, k, v = (
                f(z).view(batch, first + length, heads, -1)
                for f in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            image = attend(q[:, :, :first], k[:, :, :first], v[:, :, :first], self.causal)
            text = attend(q[:, :, first:], k, v, mask)
            if some := keep_scores.get(depth):
                raw = (q[:, :some, first:] * q.shape[-1] ** -0.5) @ k[:, :some].transpose(-1, -2)
                scores[depth] = raw.masked_fill(~mask, -1e4)
            h = h + attention.o_proj(torch.cat([image, text], 2).transpose(1, 2).reshape(batch, first + length, -1))
            z = rms(h, layer.post_attention_layernorm.weight, config.rms_norm_eps)
            h = h + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(z)) * layer.mlp.up_proj(z))
            if depth in keep_hidden:
                hidden[depth] = h[:, self.before : first - 1]
        return rms(h[:, first:], self.language.norm.weight, config.rms_norm_eps), hidden, scores
