"""What is sent to a server: the bodies of chat completions."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image as PIL

from segzero_ros.core.contract import Image, Sampling
from segzero_ros.core.profile import Profile

Body = dict[str, Any]

# What a request does not say, vLLM takes from the checkpoint's generation_config.json: there Qwen2.5-VL has a penalty.
NEUTRAL = {"repetition_penalty": 1.0}
NEUTRAL_SAMPLING = {"top_k": -1, "min_p": 0.0}


def new_turn(
    profile: Profile,
    model: str,
    picture: str | None,
    words: str,
    limit: int,
    *,
    sampling: Sampling | None = None,
    index: int = 0,
    neutral: bool = True,
) -> Body:
    """picture: a data URL; it stands before the words, as the checkpoints were trained. limit: tokens of the answer.

    index: in the batch, whose seeds differ. neutral: whether the server takes NEUTRAL and other words of vLLM.
    """
    parts: list[Body] = [{"type": "image_url", "image_url": {"url": picture}}] if picture else []
    turn = {"role": "user", "content": [*parts, {"type": "text", "text": words}]}
    system, thinking = profile.system, profile.thinking
    body: Body = {
        "model": model,
        "messages": [{"role": "system", "content": system}, turn] if system else [turn],
        "max_tokens": limit,
        "temperature": sampling.temperature if sampling else 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if neutral:  # a count in every event: without a tokenizer an event of several tokens would count as one
        body["stream_options"]["continuous_usage_stats"] = True
    if sampling:
        body |= {"top_p": sampling.top_p, "seed": (sampling.seed + index) % (1 << 63)}
    if neutral:
        body |= NEUTRAL | (NEUTRAL_SAMPLING if sampling else {})
    if thinking != "written":
        body["chat_template_kwargs"] = {"enable_thinking": thinking == "opened"}
    if profile.answers_in_special_tokens:
        body["skip_special_tokens"] = False
    return body


def continued_turn(body: Body, begun: str, limit: int) -> Body:
    """The same conversation with the model's turn begun. limit: tokens of the rest."""
    turn = {"role": "assistant", "content": begun}
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    return body | flags | {"messages": [*body["messages"], turn], "max_tokens": limit}


def constrained(body: Body, tag: dict[str, Any] | None) -> Body:
    """tag: of `answer_schema`; vLLM and SGLang take it in this form alike. None: the body as it is."""
    return body | {"response_format": tag} if tag else body


def data_url(image: Image) -> str:
    """PNG, which keeps every pixel; little effort, since the way is short."""
    file = io.BytesIO()
    PIL.fromarray(image).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
