"""What a family of checkpoints expects: declared, never guessed from an answer's values.

`profiles.py` finds and reads profiles; docs/profiles.md says more of each field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Profile:
    """One family of checkpoints.

    prompt: a template's name in `prompt.py`, or the words themselves with `{question}` for the instruction.
    system: the system turn before the prompt; None = none at all.
    thinking: how the model's turn begins. "written": with nothing, the model writes <think> itself or does not think;
        "opened": with <think>; "closed": with an empty thought, so that it answers at once.
    square: side of the image that the reasoning model sees, pixels; the aspect ratio is not kept.
    reader: the form of an answer, see `readers.py`.
    coordinates: what an answer's numbers count: "pixels" of the square, or "thousandths" (0 to 1000), "bins" (0 to
        999), "percent" (0 to 100) or the "unit" (0 to 1) of the image's sides.
    order: whether a point and a corner of a box are written x first or y first.
    schema: of the published parsers: "single" {bbox, points_1, points_2} or "list" [{bbox_2d, point_2d, label}].
    rounding: how coordinates become source pixels, with the factor f = side / extent: "round" round(int(v) * f),
        "half-up" int(v * f + 0.5), "last-pixel" round(v * f) with f = (side - 1) / extent.
    sam_prompts: what SAM is given: "box", "points" or "both".
    dtype: number format where none is asked for; "auto": by what the device computes with.
    reasoner, segmenter: "embedded", a folder, or a hub name; with the revision to take. A reasoner may be a server:
        http://host:port/v1, or http://host:port/v1#model.
    subfolder: folder inside the reasoner's repository that holds the weights; None = the repository itself.
    adapter: a PEFT LoRA adapter, folder or hub name, merged into the reasoner's weights at load; None = none. It may
        have a subfolder and a revision of its own.
    tokenizer: for a reasoner by URL: the folder or hub name, on this disk, of the served model's tokenizer.json; None =
        that of the reasoner, where it is no URL.
    constrain: whether the model is held to the form of its answers, token by token (`answer_schema.py`).
    """

    name: str
    description: str
    prompt: str
    reasoner: str
    segmenter: str
    square: int = 840
    system: str | None = "You are a helpful assistant."
    coordinates: Literal["pixels", "thousandths", "bins", "percent", "unit"] = "pixels"
    schema: Literal["single", "list"] = "list"
    rounding: Literal["round", "half-up", "last-pixel"] = "half-up"
    sam_prompts: Literal["box", "points", "both"] = "both"
    max_new_tokens: int = 1024
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    model_class: Literal["qwen2_5_vl", "qwen3_vl", "qwen3_5"] = "qwen2_5_vl"
    reasoner_revision: str | None = None
    segmenter_revision: str | None = None
    licence: str = ""
    reader: Literal["json", "glm", "rex-omni", "molmo"] = "json"
    order: Literal["xy", "yx"] = "xy"
    thinking: Literal["written", "opened", "closed"] = "written"
    subfolder: str | None = None
    adapter: str | None = None
    adapter_subfolder: str | None = None
    adapter_revision: str | None = None
    tokenizer: str | None = None
    constrain: bool = False

    @property
    def extent(self) -> int:
        """The largest coordinate that an answer may hold: the image's far edge."""
        fixed = {"thousandths": 1000, "bins": 999, "percent": 100, "unit": 1}
        return fixed.get(self.coordinates, self.square)

    @property
    def answers_in_special_tokens(self) -> bool:
        """Whether the tags around an answer are special tokens, which a decoder must not drop."""
        return self.reader in ("glm", "rex-omni")
