"""SAM 2 by transformers: encode an image once, prompt it often; best of the multimask outputs by predicted IoU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Sam2Model

from segzero_ros.core.contract import (
    Box,
    Cancel,
    Candidate,
    Image,
    LoadedModel,
    Logits,
    Mask,
    OnProgress,
    Point,
    SegzeroError,
    Status,
    Stopped,
)
from segzero_ros.core.profiles import Profile
from segzero_ros.models.loading import Checkpoint, Placement, choose_checkpoint, load_model, wanted_dtype
from segzero_ros.models.stopping import stoppable

MODEL_TYPES = {"sam2", "sam2_video"}  # a video checkpoint holds the image model and more

PROMPTS = 32  # decoded together; SAM 2 large takes 9 MB for each
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
    wanted = choose_checkpoint(Checkpoint(profile.segmenter, profile.segmenter_revision), checkpoint, revision)
    placement = Placement(device, wanted_dtype(dtype, profile), "sdpa", offline)
    model, _, info = load_model(Sam2Model, wanted, "segmenter", MODEL_TYPES, placement, on_progress, cancel)
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
        self.learned_masks = _learned_masks(model)

    @torch.inference_mode()
    def encode(self, image: Image, *, cancel: Cancel | None = None) -> Features:
        height, width = image.shape[:2]
        device = self.model.device
        x = torch.from_numpy(image.copy()).to(device).permute(2, 0, 1)[None].float() / 255
        # As SAM 2's own transforms (sam2/utils/transforms.py) do it: aliasing would show on cameras above 1024 pixels.
        square = F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
        mean, std = (torch.from_numpy(v).to(device)[:, None, None] for v in (MEAN, STD))
        pixels = ((square - mean) / std).to(self.model.dtype)
        with stoppable(self.model.vision_encoder.backbone.blocks, cancel):
            embeddings = self.model.get_image_embeddings(pixels)
        return Features(embeddings, height, width)

    @torch.inference_mode()
    def segment(
        self,
        features: object,
        boxes: list[Box | None],
        points: list[tuple[Point, ...]],
        *,
        cancel: Cancel | None = None,
    ) -> Sequence[tuple[Mask, float]]:
        prompts = [Candidate(box, many) for box, many in zip(boxes, points, strict=True)]
        return self._segment(features, prompts, [True] * len(prompts), cancel)

    @torch.inference_mode()
    def segment_pointed(
        self, features: object, candidates: Sequence[Candidate], *, cancel: Cancel | None = None
    ) -> Sequence[tuple[Mask, float]]:
        ambiguous = [c.box is None and len(c.points) + len(c.negative) == 1 for c in candidates]
        return self._segment(features, candidates, ambiguous, cancel)

    def _segment(
        self, features: object, prompts: Sequence[Candidate], ambiguous: Sequence[bool], cancel: Cancel | None
    ) -> _Enlarged:
        """ambiguous: for each prompt whether the best of the multimask outputs is wanted, else the single one."""
        assert isinstance(features, Features)
        # One call for prompts of one form: a tensor cannot hold some with and some without a box.
        forms: dict[tuple[bool, int, bool, int], list[int]] = {}
        for i, (prompt, many) in enumerate(zip(prompts, ambiguous, strict=True)):
            count = len(prompt.points) + len(prompt.negative)
            if prompt.box is None and not count:
                raise ValueError("a prompt needs a box or a point")
            alone = i + 1 if self.learned_masks and prompt.earlier is not None else 0  # the decoder takes one at a time
            forms.setdefault((prompt.box is not None, count, many, alone), []).append(i)
        found: dict[int, tuple[torch.Tensor, float]] = {}
        for (_, _, many, _), members in forms.items():
            for start in range(0, len(members), PROMPTS):
                _stop_if(cancel)
                some = members[start : start + PROMPTS]
                decoded = self._decode(features, [prompts[i] for i in some], many)
                found |= zip(some, decoded, strict=True)
        decoded = [found[i] for i in range(len(prompts))]
        return _Enlarged(decoded, (features.height, features.width), self.learned_masks, cancel)

    def _decode(self, features: Features, prompts: list[Candidate], many: bool) -> list[tuple[torch.Tensor, float]]:
        """Per prompt, all of one form: the mask's logits as small as the model makes them, and its score."""
        device = self.model.device
        boxes = [p.box for p in prompts]
        points = [p.points + p.negative for p in prompts]
        scale = torch.tensor([self.side / features.width, self.side / features.height], device=device)
        prompt: dict[str, torch.Tensor] = {}
        if boxes[0] is not None:
            prompt["input_boxes"] = torch.tensor([boxes], device=device, dtype=torch.float32) * scale.repeat(2)
        if points[0]:
            prompt["input_points"] = torch.tensor([points], device=device, dtype=torch.float32) * scale
            labels = [[1] * len(p.points) + [0] * len(p.negative) for p in prompts]
            prompt["input_labels"] = torch.tensor([labels], device=device)
        earlier = prompts[0].earlier
        if earlier is not None and self.learned_masks:
            prompt["input_masks"] = torch.from_numpy(earlier.copy()).to(device, self.model.dtype)[None, None]
        out = self.model(image_embeddings=list(features.embeddings), multimask_output=many, **prompt)
        scores = out.iou_scores[0].float()
        best = scores.argmax(1)
        rows = torch.arange(len(boxes), device=device)
        logits = out.pred_masks[0][rows, best].float()
        if not (scores.isfinite().all() & logits.isfinite().all()):
            why = "; float16 holds no number above 65504: try bfloat16 or float32" * (self.model.dtype == torch.float16)
            raise SegzeroError(Status.BACKEND_ERROR, f"the segmenter gave non-finite numbers{why}")
        return list(zip(logits, scores[rows, best].clamp(0, 1).tolist(), strict=True))


class _Enlarged(Sequence[tuple[Mask, float]]):
    """(mask, score) per prompt. A mask takes the source's size when it is asked for: all at once fill the memory."""

    def __init__(
        self,
        decoded: list[tuple[torch.Tensor, float]],
        size: tuple[int, int],
        readable: bool,
        cancel: Cancel | None,
    ) -> None:
        self._decoded, self._size, self._readable, self._cancel = decoded, size, readable, cancel

    def __len__(self) -> int:
        return len(self._decoded)

    @torch.inference_mode()
    def __getitem__(self, index: Any) -> Any:
        _stop_if(self._cancel)
        logits, score = self._decoded[index]
        large = F.interpolate(logits[None, None], self._size, mode="bilinear", align_corners=False)
        return (large[0, 0] > 0).cpu().numpy(), score

    def logits(self, index: int) -> Logits | None:
        """See contract.WithLogits; clamped as SAM2ImagePredictor does before it takes them as a prompt."""
        if not self._readable:
            return None
        return self._decoded[index][0].clamp(-32, 32).half().cpu().numpy()


def _learned_masks(model: Any) -> bool:
    """Whether the model was trained to read an earlier mask: the biases of what embeds it are zeros until then."""
    embed = model.prompt_encoder.mask_embed
    return any(bool(weights.any()) for name, weights in embed.named_parameters() if name.endswith("bias"))


def _stop_if(cancel: Cancel | None) -> None:
    if cancel is not None and cancel.is_set():
        raise Stopped
