"""What a run was made with, so that records of other weights or items are never taken for its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def weights(name: str, role: str, revision: str, subfolder: str | None = None) -> str:
    """Which weights a name stands for: the hub's commit, or a digest of a folder's files."""
    if revision:
        return revision
    from segzero_ros.models.checkpoints import resolve

    digest = hashlib.blake2b(digest_size=16)
    folder = resolve(name, role, offline=True, subfolder=subfolder)
    config = "adapter_config.json" if role == "adapter" else "config.json"
    for path in sorted([folder / config, *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def digest_of(ids: Iterable[str]) -> str:
    """Of the items, in their order."""
    return hashlib.blake2b("\n".join(ids).encode(), digest_size=16).hexdigest()
