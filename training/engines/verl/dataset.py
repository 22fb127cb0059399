"""Prepared rows as verl's custom dataset. Needs verl; in a configuration:

data.custom_cls: {path: "pkg://training.engines.verl.dataset", name: PreparedRows}
data.segzero:
  profile: seg-zero              # of segzero_ros/profiles, for prompt, system turn and square
  newline_after_image: false     # before the prompt
data.train_files: FOLDER         # what `segzero-train prepare` writes (of several splits one's folder), or several
"""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch
from verl.utils.dataset.rl_dataset import RLHFDataset

from segzero_ros.profiles import load_profile
from training.engines.verl.rows import check_profile, messages, prepared, verl_row


class PreparedRows(RLHFDataset):
    """Folders of `segzero-train prepare` instead of Parquet files; the rest (length filter, resuming) is verl's."""

    def __init__(self, data_files: Any, tokenizer: Any, config: Any, processor: Any = None, max_samples: int = -1):
        ours = config.get("segzero") or {}
        if not ours.get("profile"):
            raise ValueError("data.segzero.profile is not set; it names the prompt and the image's size")
        if processor is None:
            raise ValueError("the model has no image processor; verl's AutoProcessor needs preprocessor_config.json")
        self.profile = load_profile(ours["profile"])
        check_profile(self.profile)
        self.newline = bool(ours.get("newline_after_image", False))
        super().__init__(data_files, tokenizer, config, processor, max_samples)

    def _download(self, use_origin_parquet: bool = False) -> None:
        """Every node sees the folder, as it sees the model."""
        self.data_files = [str(f) for f in self.original_data_files]

    def _read_files_and_tokenize(self) -> None:
        self.dataframe = datasets.concatenate_datasets([prepared(folder) for folder in self.data_files])
        count = len(self.dataframe)
        if 0 < self.max_samples < count:
            order = np.random.default_rng(self.seed).permutation(count) if self.shuffle else np.arange(count)
            self.dataframe = self.dataframe.select(order[: self.max_samples].tolist())
        self.dataframe = self.maybe_filter_out_long_prompts(self.dataframe)

    def _build_messages(self, example: dict[str, Any], key: str) -> list[dict[str, Any]]:
        return messages(example, self.profile, self.newline)

    def __getitem__(self, item: int) -> dict[str, Any]:
        row = self.dataframe[item]
        found = verl_row(row, self.profile, row["_source"], item, self.newline)
        # verl's batch must hold a tensor, whatever it is.
        return {**found, "dummy_tensor": torch.zeros(1, dtype=torch.uint8)}
