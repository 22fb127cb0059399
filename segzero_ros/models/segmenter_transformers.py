"""SAM 2 by transformers: encode an image once, prompt it often; best of the multimask outputs by predicted IoU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Sam2Model

from segzero_ros.core.contract import (
    Box,
    Cancel,
    Image,
    LoadedModel,
    Mask,
    OnProgress,
    Point,
)
from segzero_ros.core.profiles import Profile
from segzero_ros.models.loading import Checkpoint, Placement, load_model

MODEL_TYPES = {"sam2", "sam2_video"}  # a video checkpoint holds the image model and more

# ImageNet's, as in the published preprocessor_config.json.
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def load_segmenter(
    profile: Profile,
    checkpoint: str | None = None,
    revision: str | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    offline: bool = False,
    on_progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> TransformersSegmenter:
    """Loads a checkpoint folder or hub name (SAM 2.0 or 2.1, any size). Raises SegzeroError."""
    tell = on_progress or (lambda share, what: None)
    own = checkpoint is None or checkpoint == profile.segmenter
    wanted = Checkpoint(checkpoint or profile.segmenter, revision or (profile.segmenter_revision if own else None))
    placement = Placement(device, dtype, None, offline)
    model, _, info = load_model(Sam2Model, wanted, "segmenter", MODEL_TYPES, placement, tell, cancel)
    return TransformersSegmenter(model, info)


@dataclass(frozen=True)
class Features:
    embeddings: list[torch.Tensor]
    height: int
    width: int


class TransformersSegmenter:
    """See contract.Segmenter. Not thread-safe: one thread owns it."""

    def __init__(self, model: Any, info: LoadedModel) -> None:
        self.model, self.info = model, info
        size = model.config.vision_config.backbone_config.image_size
        self.side = int(size[0] if isinstance(size, (list, tuple)) else size)

    @torch.inference_mode()
    def encode(self, image: Image) -> Features:
        height, width = image.shape[:2]
        device = self.model.device
        x = torch.from_numpy(image.copy()).to(device).permute(2, 0, 1)[None].float() / 255
        # As SAM 2's own transforms (sam2/utils/transforms.py) do it: aliasing would show on cameras above 1024 pixels.
        square = F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
        mean, std = (torch.from_numpy(v).to(device)[:, None, None] for v in (MEAN, STD))
        pixels = ((square - mean) / std).to(self.model.dtype)
        return Features(self.model.get_image_embeddings(pixels), height, width)

    @torch.inference_mode()
    def segment(
        self, features: object, boxes: list[Box | None], points: list[tuple[Point, ...]]
    ) -> list[tuple[Mask, float]]:
        assert isinstance(features, Features)
        found: list[tuple[Mask, float] | None] = [None] * len(boxes)
        # One call for all prompts of one form; a tensor cannot hold some with and some without a box.
        forms: dict[tuple[bool, int], list[int]] = {}
        for i, (box, many) in enumerate(zip(boxes, points, strict=True)):
            if box is None and not many:
                raise ValueError("a prompt needs a box or a point")
            forms.setdefault((box is not None, len(many)), []).append(i)
        scale = torch.tensor([self.side / features.width, self.side / features.height], device=self.model.device)
        for (with_box, count), members in forms.items():
            prompt: dict[str, torch.Tensor] = {}
            if with_box:
                xyxy = torch.tensor([[boxes[i] for i in members]], device=self.model.device, dtype=torch.float32)
                prompt["input_boxes"] = xyxy * scale.repeat(2)
            if count:
                xy = torch.tensor([[points[i] for i in members]], device=self.model.device, dtype=torch.float32)
                prompt["input_points"] = xy * scale
                prompt["input_labels"] = torch.ones(1, len(members), count, dtype=torch.int64, device=self.model.device)
            out = self.model(image_embeddings=list(features.embeddings), multimask_output=True, **prompt)
            scores = out.iou_scores[0].float().nan_to_num(0.0)  # half precision can overflow
            best = scores.argmax(1)
            rows = torch.arange(len(members), device=best.device)
            logits = out.pred_masks[0][rows, best].float()[None]
            size = (features.height, features.width)
            masks = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0] > 0
            for n, i in enumerate(members):
                found[i] = (masks[n].cpu().numpy(), float(scores[n, best[n]].clamp(0, 1)))
        return [f for f in found if f is not None]
