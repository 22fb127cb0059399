"""The policy and its processor: Qwen2-VL, Qwen2.5-VL and Qwen3-VL, whole, with LoRA, or with LoRA over 4 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

from segzero_ros.models import checkpoints
from segzero_ros.models.loading import refuse_misfits
from training.finetune.configuration import Configuration, ConfigurationError, Model

# Seg-Zero's training: min_pixels and max_pixels of its data configuration.
MIN_PIXELS, MAX_PIXELS = 3136, 12845056
# preprocessor_config.json of the published checkpoints.
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
NORMS = {"qwen2_vl": _CLIP, "qwen2_5_vl": _CLIP, "qwen3_vl": ([0.5] * 3, [0.5] * 3)}
# Every linear layer of the language model. A suffix alone would also match the vision tower, whose
# gate_proj, up_proj and down_proj have the same names.
LORA_TARGETS = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"

# What the node writes by hand (segzero_ros.models.reasoner_transformers): no system turn unless one is given, nothing
# after the last end of turn. For one image it is the published template's text. New lines are spelled out: the library
# trims those behind a block.
CHAT = (
    "{% for m in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}<|im_start|>{{ m['role'] + '\\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"
)


class _Kwargs(ProcessingKwargs, total=False):
    # transformers 5.17, which vLLM's environment has, reads the default from here and newer ones below.
    _defaults = {"text_kwargs": {"return_mm_token_type_ids": True}}  # type: ignore[misc]  # noqa: RUF012


class Processor(ProcessorMixin):
    """A tokenizer and an image processor, which is what TRL knows a vision-language model by.

    The library's own needs torchvision for videos, which nothing here has.
    """

    valid_processor_kwargs = _Kwargs
    return_mm_token_type_ids = True  # forward and generate take image positions from them

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None, **_: Any) -> None:
        self.image_token = "<|image_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_: Any) -> str:
        tokens = int(image_inputs["image_grid_thw"][image_idx].prod()) // self.image_processor.merge_size**2
        return self.image_token * tokens


def folder_of(model: Model) -> Path:
    """Where the start checkpoint lies; fetched from the hub if it is a name. The trainer reads the reference from here
    again, also when a run is resumed."""
    return checkpoints.resolve(model.path, "reasoner", revision=model.revision)


def load_processor(folder: Path, config: Any) -> Processor:
    """config: the model's."""
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, padding_side="left", truncation_side="left"
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor_of(tokenizer, config)


def processor_of(tokenizer: PreTrainedTokenizerBase, config: Any) -> Processor:
    vision = config.vision_config
    mean, std = NORMS[config.model_type]
    images = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        image_mean=mean,
        image_std=std,
    )
    return Processor(images, tokenizer)


def load_model(model: Model, folder: Path) -> Any:
    """The policy as the file says; adapters are added by the trainer. Raises SegzeroError, ConfigurationError."""
    loader: Any = AutoModelForImageTextToText  # with loading info it returns a pair, which its annotation does not say
    found, info = loader.from_pretrained(
        folder,
        dtype=getattr(torch, model.dtype),
        attn_implementation=model.attention,
        quantization_config=quantisation(model),
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    refuse_misfits(str(model.path), found, info)
    freeze(found, model.freeze)
    return found


def freeze(model: Any, parts: tuple[str, ...]) -> None:
    """vision: the tower without its last layers, projector: those (the merger), language: all else."""
    tower = model.model.visual
    projector = {id(p) for name, p in tower.named_parameters() if "merger" in name}
    vision = {id(p) for p in tower.parameters()} - projector
    for weights in model.parameters():
        if not weights.is_floating_point():
            continue  # packed to 4 bits: it has no gradient
        where = "vision" if id(weights) in vision else "projector" if id(weights) in projector else "language"
        weights.requires_grad_(where not in parts)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigurationError("model.freeze: nothing is left to train")


def quantisation(model: Model) -> Any:
    """NF4 with double quantisation for the language model, as QLoRA; needs CUDA and bitsandbytes."""
    if model.quantise == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["model.visual", "lm_head"],  # by the beginning of a name, or its end,
    )


def adapters(model: Model) -> Any:
    """peft's configuration, or None. A new adapter is zero, so the reference is the model without it."""
    if model.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=model.lora.rank,
        lora_alpha=model.lora.alpha,
        lora_dropout=model.lora.dropout,
        target_modules=LORA_TARGETS,
        task_type="CAUSAL_LM",
    )


def keep_adapters_float32(model: Any) -> None:
    """TRL casts the adapters of a quantised model to bfloat16, where a step of 1e-5 is mostly rounded away."""
    for weights in model.parameters():
        if weights.requires_grad:
            weights.data = weights.data.float()


def image_tokens(c: Configuration, config: Any) -> int:
    """Tokens of one image. Raises ConfigurationError if the square is no whole number of cells."""
    cell = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    if c.data.square % cell:
        raise ConfigurationError(f"{c.name}: data.square {c.data.square} is no multiple of {cell} pixels")
    if not MIN_PIXELS <= c.data.square**2 <= MAX_PIXELS:
        raise ConfigurationError(f"{c.name}: data.square {c.data.square} would be resized by the processor")
    return int((c.data.square // cell) ** 2)
