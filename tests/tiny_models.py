"""Small random models of the real classes, in the layout that the adapters load: real loading, real generation."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Sam2Config,
    Sam2Model,
)

from training.embedded.reasoner import SMOKE, build
from training.embedded.tokenizer import build_tokenizer


def save_reasoner(folder: Path) -> Path:
    tokenizer = build_tokenizer()
    build(tokenizer, SMOKE, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_qwen3_vl(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True, "rope_theta": 1e4}
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_parameters": rope,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 64,
            "patch_size": 16,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
    )
    model = Qwen3VLForConditionalGeneration(config)
    for weights in model.parameters():
        if weights.dim() > 1:
            weights.data *= 3  # or every prompt is answered alike
    model.save_pretrained(folder)
    return folder


def save_qwen3_5(folder: Path) -> Path:
    """Three layers of linear attention and one of full attention, as in the published models."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 1e4}
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen3_5Config(
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "rope_parameters": rope | {"partial_rotary_factor": 0.25},
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 64,
            "patch_size": 16,
            "num_position_embeddings": 16,
        },
    )
    model = Qwen3_5ForConditionalGeneration(config)
    for weights in model.parameters():
        if weights.dim() > 1:
            weights.data *= 3  # or every prompt is answered alike
    model.save_pretrained(folder)
    return folder


def save_segmenter(folder: Path) -> Path:
    torch.manual_seed(0)
    hiera = {
        "hidden_size": 16,
        "num_attention_heads": 1,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 1, 2, 4],
        "window_size_per_stage": [4, 2, 4, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
        "patch_kernel_size": [7, 7],
    }
    config = Sam2Config(
        vision_config={
            "backbone_config": {"model_type": "sam2_hiera_det_model", **hiera},
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 8},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    )
    model = Sam2Model(config)
    for name, weights in model.named_parameters():
        if "pos_embed" in name:  # zeros until they are trained, as a file that was cut off
            torch.nn.init.normal_(weights)
    model.save_pretrained(folder)
    return folder
