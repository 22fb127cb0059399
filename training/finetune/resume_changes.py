"""What may differ when a run goes on: what decides its weights must be what it was, all else is taken over and noted.

A change that is accepted by name is a kink in the run: it stands in notes.jsonl, in curves.png and in the model card.
"""

from __future__ import annotations

import difflib
import json
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from training.finetune import configuration
from training.finetune.configuration import Configuration, ConfigurationError
from training.finetune.prepared import digest, images_digest, masks_digest, weights_digest

# Where a run lies, what is shown of it and when it is stopped: none of it decides a weight.
TAKEN_OVER = frozenset({"out", "hardware.memory", "pictures", "wandb"})
TAKEN_OVER_SECTIONS = ("watch.",)
# Places: another path is the same where what lies there has the same digests.
PLACES = {
    "data.train": ("train", "train images", "train masks"),
    "data.validation": ("validation", "validation images", "validation masks"),
    "model.path": ("model",),
    "reward.segmenter": ("segmenter",),
}
CONSTANT = ("constant", "constant_with_warmup")
ACCEPTED, TAKEN = "accepted", "taken over"


@dataclass(frozen=True)
class Change:
    """One setting of a run that goes on after update `step`. kind: ACCEPTED, a kink in the run, or TAKEN."""

    step: int
    kind: str
    setting: str
    before: Any
    now: Any

    def __str__(self) -> str:
        if self.before == self.now:
            return f"{self.setting} (what lies in {_short(self.now)} has changed)"
        return f"{self.setting} {_short(self.before)} -> {_short(self.now)}"


def _short(value: Any, most: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def digests(c: Configuration) -> dict[str, str]:
    """Of the rows to train and to validate on, their images, and the weights that a run starts from and is rewarded by,
    where they are there. Raises ConfigurationError for rows that are not readable."""
    found: dict[str, str] = {}
    for name, folder in (("train", c.data.train), ("validation", c.data.validation)):
        if folder and Path(folder).is_dir():
            found |= {
                name: digest(folder),
                f"{name} images": images_digest(folder),
                f"{name} masks": masks_digest(folder),
            }
    for name, place in (("model", c.model.path), ("segmenter", c.reward.segmenter or "")):
        if place and Path(place).is_dir():
            found[name] = weights_digest(Path(place))
    return found


def changes(
    c: Configuration, old: Mapping[str, Any], before: Mapping[str, str], now: Mapping[str, str], step: int
) -> tuple[list[Change], list[Change]]:
    """Of a run that goes on: changes that decide weights, and changes that do not.

    old: what the run wrote down of its configuration; before, now: digests of then and of now.
    """
    new = configuration.plain(c)
    old = _completed(old)
    differing = configuration.differences(dict(old), new)
    decisive, free = [], []
    for key in [*differing, *(k for k in PLACES if k not in differing)]:
        known = [n for n in PLACES.get(key, ()) if n in before and n in now]
        same = all(before[n] == now[n] for n in known)
        if key not in differing:
            if not same:
                decisive.append(Change(step, ACCEPTED, key, _at(old, key), _at(new, key)))
        elif (known and same) or _may_differ(key, c, old, new):
            free.append(Change(step, TAKEN, key, _at(old, key), _at(new, key)))
        else:
            decisive.append(Change(step, ACCEPTED, key, _at(old, key), _at(new, key)))
    return decisive, free


def _completed(old: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the defaults of settings that there were not yet when it was written."""
    try:
        c, gone = configuration.trained(dict(old), "the run's configuration.yaml")
    except ConfigurationError:
        return old
    known = configuration.plain(c)
    return configuration.merged(known, dict(old)) if gone else known  # what is gone may have decided weights


def _may_differ(key: str, c: Configuration, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if key in TAKEN_OVER or key.startswith(TAKEN_OVER_SECTIONS):
        return True
    if key == "batch.micro":  # bnpo's mean is over the tokens of a micro-batch, and so is a share of its tokens
        pooled = c.arguments.get("loss_type") == "bnpo" or c.arguments.get("top_entropy_quantile", 1.0) < 1
        return not (c.method == "grpo" and pooled)
    if key.endswith(".max_steps"):
        then, now = _at(old, key), _at(new, key)
        raised = isinstance(then, int) and isinstance(now, int) and 0 < then < now
        kind, warmup = c.arguments.get("lr_scheduler_type", "linear"), c.arguments.get("warmup_steps", 0)
        # A warm-up of a share of all updates becomes longer with them.
        return raised and (kind == "constant" or (kind in CONSTANT and not 0 < warmup < 1))
    return False


def _at(settings: Mapping[str, Any], key: str) -> Any:
    """Of a dotted key; None where it is not there."""
    found: Any = settings
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def check_there(c: Configuration, out: Path, old: Mapping[str, Any], before: Collection[str]) -> None:
    """Raises ConfigurationError for rows, or weights that a run began with, that are no longer where they are looked
    for. before: the names of their digests then."""
    new = configuration.plain(c)
    for key, (name, *_) in PLACES.items():
        place, then = _at(new, key), _at(old, key)
        rows = key.startswith("data.")
        if not place or Path(place).exists() or name not in before or not (rows or place == then):
            continue  # other weights may be a hub's name
        looked = "" if Path(place).is_absolute() else f" in {Path.cwd()}"
        began = "" if then in (place, None, "") else f" ({_short(then, 300)} when it began)"
        raise ConfigurationError(
            f"{out} cannot go on: {key}, {_short(place, 300)}{began}, is not there{looked}. Put it back, or say "
            f"where it lies now: --set {key}=FOLDER"
        )


def check_names(c: Configuration, found: Collection[Change], accepted: Collection[str]) -> None:
    """Raises ConfigurationError for an accepted name that no setting has."""
    differ = [change.setting for change in found]
    known = {*_keys(configuration.plain(c)), *differ}
    for name in accepted:
        if name in known or name in _of_trl(c):
            continue
        near = difflib.get_close_matches(name, differ, 1) or difflib.get_close_matches(name, sorted(known), 1)
        said = f"--accept {name[:100]}: there is no such setting" + (f" (do you mean {near[0]}?)" if near else "")
        those = ", ".join(differ[:8]) + (f" and {len(differ) - 8} more" if len(differ) > 8 else "")
        raise ConfigurationError(f"{said}; {those or 'nothing'} differs from what the run began with")


def _keys(settings: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Of all settings, dotted."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{at}{key}.")
        else:
            yield f"{at}{key}"


def _of_trl(c: Configuration) -> set[str]:
    """Settings that the configuration may leave to TRL's defaults."""
    from trl import GRPOConfig, SFTConfig

    names = [f.name for f in fields(GRPOConfig if c.method == "grpo" else SFTConfig)]
    return {f"{section}.{name}" for section in ("trl", c.method) for name in names}


def refused_today(old: Mapping[str, Any]) -> str:
    """Why a run could not begin by its own configuration any longer, or ""."""
    try:
        configuration.build(dict(old))
    except ConfigurationError as error:
        return str(error)
    return ""


def judge(out: Path, decisive: Collection[Change], accepted: Collection[str], today: str = "") -> None:
    """Raises ConfigurationError for changes that nobody accepted. today: what `refused_today` says of the run."""
    refused = [change for change in decisive if change.setting not in accepted]
    if not refused:
        return
    rows = [change for change in refused if change.before == change.now]
    what = "with other settings"
    if len(rows) == len(refused):
        what = "over other rows or weights"
    named = "; ".join(map(str, refused[:8])) + (f"; and {len(refused) - 8} more" if len(refused) > 8 else "")
    accept = " ".join(f"--accept {change.setting}" for change in refused[:8])
    back = (
        f"What it began with is refused today ({today[:500]}): put back what is not, or" if today else "Put it back, or"
    )
    raise ConfigurationError(f"{out} holds a run {what}: {named}. {back} go on with a kink: {accept}")


def note(out: Path, found: Collection[Change], step: int) -> None:
    """Writes changes down in notes.jsonl and says them. Kinks after `step`, at which the run goes on, begin there."""
    from training.finetune.logs import NOTES, append, read_jsonl

    file = out / NOTES
    records = read_jsonl(file)
    if any(record.get("step", 0) > step for record in records):
        part = file.with_suffix(".part")
        moved = ({**record, "step": min(step, record.get("step", 0))} for record in records)
        part.write_text("".join(json.dumps(record) + "\n" for record in moved), encoding="utf-8")
        part.replace(file)
    for change in found:
        append(file, {**asdict(change), "time": round(time.time(), 3)})
        say(f"{'a kink after update ' + str(step) if change.kind == ACCEPTED else 'taken over'}: {change}")


def say(text: str) -> None:
    print(f"segzero-train: {text}", file=sys.stderr)
