"""Trains the embedded SAM 2 from nothing: image and prompt in, mask and its predicted IoU out.

Trained naively at this size it ignores its prompts. What cures it: one Fourier matrix for image and prompts (as in
published weights), fan-in initialisation, queries and keys of the mask decoder that agree from the start, the
single-mask output first, and two heads, thrown away later, that ask the high-resolution maps where objects are.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.embedded.prefetch import made_ahead
from training.embedded.processes import MALLOC

SIDE = 256  # pixels of the model's square


@dataclass(frozen=True)
class Settings:
    """One run; a step is `images` images with `prompts` prompts each."""

    data: str
    out: str
    steps: int = 2400
    images: int = 8
    prompts: int = 5
    lr: float = 0.005  # Muon
    lr_rest: float = 0.002  # AdamW
    warmup: int = 50
    single: float = 0.4  # share of the run in which mostly the single-mask output is trained
    threads: int = 1
    seed: int = 0
    save_every: int = 250
    validate_every: int = 400
    stop_after: int = 0  # end early, at this step, as if killed; 0 = at the end


def build(seed: int) -> Any:
    """An untrained Sam2Model of 2.1 million parameters that listens to its prompts."""
    import torch
    from torch import nn
    from transformers import Sam2Config, Sam2Model

    torch.manual_seed(seed)
    hiera = {
        "hidden_size": 32,
        "num_attention_heads": 1,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 3, 1],
        "embed_dim_per_stage": [32, 64, 128, 256],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 8, 4],
        "global_attention_blocks": [4],
        "window_positional_embedding_background_size": [8, 8],
    }
    config = Sam2Config(
        vision_config={
            "backbone_config": {"model_type": "sam2_hiera_det_model", **hiera},
            "backbone_channel_list": [256, 128, 64, 32],
            "backbone_feature_sizes": [[64, 64], [32, 32], [16, 16]],
            "fpn_hidden_size": 128,
        },
        prompt_encoder_config={"hidden_size": 128, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 16},
        mask_decoder_config={
            "hidden_size": 128,
            "mlp_dim": 256,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 128,
            "dynamic_multimask_via_stability": False,
        },
    )
    config._attn_implementation = "eager"  # the fused kernel's backward is slow on a CPU
    model = Sam2Model(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=module.weight.shape[0] ** -0.5)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(
            model.shared_image_embedding.positional_embedding
        )
        for name, module in model.mask_decoder.transformer.named_modules():
            if ("cross_attn" in name or "final_attn" in name) and hasattr(module, "q_proj"):
                module.k_proj.weight.copy_(1.4 * module.q_proj.weight)
                module.q_proj.weight.mul_(1.4)
    return model


def run(settings: Settings) -> None:
    import cv2
    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
    from tqdm import tqdm

    from segzero_ros.models.segmenter_transformers import MEAN, STD
    from training.data.tabletop import instructions
    from training.data.tabletop.scene import SIZE
    from training.data.tabletop.store import MIN_AREA, Scenes
    from training.embedded.run_files import note, read_state, save_state

    torch.set_num_threads(settings.threads)
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    model = build(settings.seed)
    heads = nn.ModuleList([nn.Conv2d(channels, 3, 1) for channels in (16, 32)])  # foreground, offset to the centre
    scenes = Scenes(Path(settings.data) / "train")
    validation = Scenes(Path(settings.data) / "val", limit=200)

    named = [(n, w) for n, w in model.named_parameters() if "positional_embedding" not in n]
    matrices = [w for n, w in named if w.ndim == 2 and "embed" not in n and "token" not in n]
    chosen = {id(w) for w in matrices}
    others = [w for _, w in named if id(w) not in chosen] + list(heads.parameters())
    optimisers = [
        torch.optim.Muon(matrices, lr=1.0, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.95), weight_decay=0.01),
    ]
    start = 0
    if state := read_state(out / "state.pt"):
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        for one, saved in zip(optimisers, state["optimisers"], strict=True):
            one.load_state_dict(saved)
        start = int(state["step"])

    def picture(rgb: Any) -> Any:
        square = cv2.resize(np.ascontiguousarray(rgb), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        return (square.astype(np.float32) / 255 - MEAN) / STD

    def batch_at(step: int) -> tuple[Tensor, ...]:
        """A step's images, instance masks, and per prompt: object, box, point. Depends on seed and step alone."""
        rng = np.random.default_rng([settings.seed, step])
        images: list[Any] = []
        masks, objects, boxes, points = [], [], [], []
        while len(images) < settings.images:
            index = int(rng.integers(len(scenes)))
            rgb, ids, things = scenes.rgb(index), scenes.ids(index), scenes.things(index)
            if rng.random() < 0.5:
                rgb, ids, things = rgb[:, ::-1], ids[:, ::-1], instructions.mirror(things)
            things = [t for t in things if t.area >= MIN_AREA]
            if not things:
                continue
            image = picture(rgb) * rng.uniform(0.85, 1.15) + rng.normal(0, 0.15)
            images.append(image + 0.03 * rng.standard_normal(image.shape, np.float32))
            masks.append(ids)
            for n in rng.permutation(max(settings.prompts, len(things)))[: settings.prompts]:
                t = things[int(n) % len(things)]
                objects.append(t.id)
                box = np.array(t.box, float)
                sides = np.tile(box[2:] - box[:2], 2)
                boxes.append(np.clip(box + rng.normal(0, 0.05, 4) * sides * (rng.random() < 0.8), 0, SIZE))
                x, y = t.point
                if rng.random() < 0.5:
                    ys, xs = np.nonzero(ids == t.id)
                    chosen = int(rng.integers(len(ys)))
                    x, y = int(xs[chosen]), int(ys[chosen])
                points.append((x + 0.5, y + 0.5))
        shape = (settings.images, settings.prompts)
        scale = SIDE / SIZE
        return (
            torch.from_numpy(np.stack(images).astype(np.float32)).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(np.stack(masks)).long(),
            torch.tensor(objects).view(shape),
            torch.from_numpy(np.stack(boxes).astype(np.float32) * scale).view(*shape, 4),
            (torch.tensor(points) * scale).view(*shape, 1, 2),
        )

    def prompts_of(form: str, boxes: Tensor, points: Tensor) -> dict[str, Tensor]:
        prompt: dict[str, Tensor] = {}
        if form != "point":
            prompt["input_boxes"] = boxes
        if form != "box":
            prompt |= {"input_points": points, "input_labels": torch.ones(points.shape[:3], dtype=torch.int64)}
        return prompt

    def auxiliary(features: list[Tensor], ids: Tensor) -> Tensor:
        """Foreground, and for the foreground where its object's centre is, asked of both high-resolution maps."""
        loss = torch.zeros(())
        for head, feature in zip(heads, features, strict=False):
            n = feature.shape[-1]
            small = F.interpolate(ids[:, None].float(), (n, n), mode="nearest")[:, 0].long()
            guess = head(feature)
            loss = loss + F.binary_cross_entropy_with_logits(guess[:, 0], (small > 0).float())
            ys, xs = torch.meshgrid(torch.arange(n) + 0.5, torch.arange(n) + 0.5, indexing="ij")
            places = torch.stack([xs, ys]) / n  # (2, n, n)
            onehot = F.one_hot(small, 9)[..., 1:].float()  # (B, n, n, 8)
            mass = onehot.sum((1, 2)).clamp(min=1)
            centre = torch.einsum("bhwo,chw->boc", onehot, places) / mass[..., None]
            offset = torch.einsum("bhwo,boc->bchw", onehot, centre) - places
            apart = F.smooth_l1_loss(guess[:, 1:] / 4, offset, beta=0.05, reduction="none").sum(1)
            loss = loss + 4 * (apart * (small > 0)).sum() / (small > 0).sum().clamp(min=1)
        return loss

    def loss_of(step: int, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
        pixels, ids, objects, boxes, points = batch
        rng = np.random.default_rng([settings.seed, step, 1])
        form = str(rng.choice(["both", "box", "point"], p=[0.7, 0.15, 0.15]))
        many = bool(rng.random() < (0.1 if step < settings.single * settings.steps else 0.7))
        out = model(pixel_values=pixels, multimask_output=many, **prompts_of(form, boxes, points))
        target = (ids[:, None] == objects[..., None, None]).float()[:, :, None]  # (B, P, 1, S, S)
        logits = F.interpolate(out.pred_masks.flatten(0, 1), (SIZE, SIZE), mode="bilinear", align_corners=False)
        logits = logits.view(*out.pred_masks.shape[:3], SIZE, SIZE)
        target = target.expand_as(logits)
        # Weighted to the box's surroundings: most of the picture is far from the object and soon right.
        cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum((-1, -2))
        area = target.sum((-1, -2))
        probability = logits.sigmoid()
        overlap = (probability * target).sum((-1, -2))
        dice = 1 - (2 * overlap + 1) / (probability.sum((-1, -2)) + area + 1)
        each = dice + cross / (4 * area + 100)
        with torch.no_grad():
            found = logits > 0
            both = (found & (target > 0)).sum((-1, -2)).float()
            iou = both / (found | (target > 0)).sum((-1, -2)).clamp(min=1)
        # Published: only the best mask learns; a little for the others keeps every output usable at this size.
        mask_loss = (0.8 * each.min(-1).values + 0.2 * each.mean(-1)).mean()
        quality = F.mse_loss(out.iou_scores, iou)
        exists = F.softplus(-out.object_score_logits).mean()
        extra = auxiliary(out.image_embeddings, ids)
        loss = mask_loss + 2 * quality + 0.05 * exists + 0.5 * extra
        best = iou.gather(-1, out.iou_scores.argmax(-1, keepdim=True)).mean()
        name = f"iou_{form}"
        return loss, {
            "loss": float(loss),
            name: float(best),
            "quality_error": float(quality) ** 0.5,
            "auxiliary": float(extra),
        }

    @torch.no_grad()
    def validate() -> dict[str, float]:
        """Mean IoU of the best mask by predicted IoU, from true box and point, and from the box alone."""
        model.eval()
        found: dict[str, list[float]] = {"iou_both": [], "iou_box": []}
        for index in range(len(validation)):
            ids = torch.from_numpy(np.array(validation.ids(index)))
            things = [t for t in validation.things(index) if t.area >= MIN_AREA]
            if not things:
                continue
            pixels = torch.from_numpy(picture(validation.rgb(index)).astype(np.float32)).permute(2, 0, 1)[None]
            embeddings = model.get_image_embeddings(pixels)
            boxes = torch.tensor([[t.box for t in things]]).float() * SIDE / SIZE
            points = torch.tensor([[[t.point] for t in things]]).float() * SIDE / SIZE
            for form in ("both", "box"):
                out = model(image_embeddings=list(embeddings), **prompts_of(form, boxes, points))
                best = out.iou_scores[0].argmax(1)
                logits = out.pred_masks[0][torch.arange(len(things)), best][None]
                masks = F.interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)[0] > 0
                for mask, t in zip(masks, things, strict=True):
                    truth = ids == t.id
                    found[f"iou_{form}"].append(float((mask & truth).sum() / (mask | truth).sum()))
        model.train()
        both = np.array(found["iou_both"])
        return {
            "iou_both": round(float(both.mean()), 4),
            "iou_box": round(float(np.mean(found["iou_box"])), 4),
            "above_half": round(float((both > 0.5).mean()), 4),
        }

    def state_at(step: int) -> dict[str, Any]:
        return {
            "model": model.state_dict(),
            "heads": heads.state_dict(),
            "optimisers": [o.state_dict() for o in optimisers],
            "step": step,
        }

    model.train()
    smooth: dict[str, float] = {}
    began = time.monotonic()
    bar = tqdm(total=settings.steps, initial=start, desc="segmenter", unit="step", mininterval=5)
    with bar, closing(made_ahead(batch_at, range(start, settings.steps))) as batches:
        for step, batch in enumerate(batches, start):
            loss, seen = loss_of(step, batch)
            loss.backward()
            nn.utils.clip_grad_norm_([*matrices, *others], 5.0)
            shape = min(1.0, (step + 1) / settings.warmup) * (
                0.01 + 0.495 * (1 + math.cos(math.pi * step / max(1, settings.steps)))
            )
            for one, rate in zip(optimisers, (settings.lr, settings.lr_rest), strict=True):
                for group in one.param_groups:
                    group["lr"] = rate * shape
                one.step()
                one.zero_grad(set_to_none=True)
            for name, value in seen.items():
                smooth[name] = 0.97 * smooth.get(name, value) + 0.03 * value
            bar.update()
            done = step + 1
            if done % 50 == 0:
                shown = {name: round(value, 4) for name, value in smooth.items()}
                note(out / "log.jsonl", {"step": done, "seconds": round(time.monotonic() - began, 1), **shown})
                bar.set_postfix_str(" ".join(f"{k}={v}" for k, v in shown.items()))
            if done % settings.validate_every == 0 or done == settings.steps:
                note(out / "log.jsonl", {"step": done, "validation": validate()})
            if done % settings.save_every == 0 or done == settings.steps:
                save_state(out / "state.pt", state_at(done))
            if done == settings.stop_after:
                break
    model.config._attn_implementation = "sdpa"
    model.to(torch.bfloat16).save_pretrained(out / "model")
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))


def train(settings: Settings) -> Path:
    """Trains in a process of its own, or continues; returns the folder of the trained model."""
    subprocess.run(
        [sys.executable, "-m", "training.embedded.segmenter", "--worker", json.dumps(asdict(settings))],
        env=os.environ | MALLOC,
        check=True,
    )
    return Path(settings.out) / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded segmenter.")
    parser.add_argument("--worker", metavar="SETTINGS", help=argparse.SUPPRESS)
    parser.add_argument("--data", default="build/tabletop")
    parser.add_argument("--out", default="build/segmenter")
    for name in ("steps", "images", "prompts", "threads", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Settings, name))
    arguments = vars(parser.parse_args())
    worker = arguments.pop("worker")
    if worker:
        run(Settings(**json.loads(worker)))
    else:
        train(Settings(**arguments))


if __name__ == "__main__":
    main()
