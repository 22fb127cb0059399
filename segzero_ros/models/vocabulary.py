"""A reasoner's tokenizer, refused unless it belongs to the model: without its files the library makes an empty one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.text import first_line

# Of Qwen's chat form, around the image and the turns.
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")


def load_tokenizer(folder: Path, model: Any) -> Any:
    """Raises SegzeroError(NOT_READY)."""
    # tokenizer.json as it is: the classes of some model types build another from its vocabulary alone.
    kind: Any = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        _refuse_foreign(folder, tokenizer, model)
    except SegzeroError:
        raise
    except Exception as error:  # the tokenizers library raises its own bare Exception
        raise _refused(f"the tokenizer in {folder} cannot be read: {first_line(error)}") from error
    return tokenizer


def _refuse_foreign(folder: Path, tokenizer: Any, model: Any) -> None:
    ids = {}
    for token in SPECIAL:
        encoded = tokenizer.encode(token, add_special_tokens=False)
        if len(encoded) != 1:
            raise _refused(f"the tokenizer in {folder} knows no {token}; it takes {len(encoded)} tokens for it")
        ids[token] = encoded[0]
    if len(set(ids.values())) < len(ids):
        raise _refused(f"the tokenizer in {folder} gives several special tokens one number; it is another model's")
    if ids["<|image_pad|>"] != model.config.image_token_id:
        raise _refused(
            f"the tokenizer in {folder} is another model's: <|image_pad|> is {ids['<|image_pad|>']} there and"
            f" {model.config.image_token_id} in config.json"
        )
    special = map(str, tokenizer.all_special_tokens)
    if plain := [t for t in special if not (t.startswith("<") and t.endswith(">"))]:
        raise _refused(f"the tokenizer in {folder} takes {plain[0][:40]!r} for a special token, which answers lose")
    rows = model.get_input_embeddings().weight.shape[0]
    if (largest := max(ids.values())) >= rows or len(tokenizer.get_vocab()) > rows:
        raise _refused(
            f"the tokenizer in {folder} has {max(largest + 1, len(tokenizer.get_vocab()))} tokens, and the model knows"
            f" {rows}; it is another model's"
        )
    words = "the red mug on the left, 3 of 12"
    if tokenizer.decode(tokenizer.encode(words, add_special_tokens=False)) != words:
        raise _refused(f"the tokenizer in {folder} does not give plain words back as they were; it is damaged")


def _refused(sentence: str) -> SegzeroError:
    return SegzeroError(Status.NOT_READY, sentence)
