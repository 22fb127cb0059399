"""Small random models of the real classes, in the layout that the adapters load: real loading, real generation."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Sam2Config, Sam2Model

from training.demo.reasoner import SMOKE, build
from training.demo.tokenizer import build_tokenizer


def save_reasoner(folder: Path) -> Path:
    tokenizer = build_tokenizer()
    build(tokenizer, SMOKE, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
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
    Sam2Model(config).save_pretrained(folder)
    return folder
