"""What a run leaves to look at, without any service: log.jsonl, curves.png, samples.jsonl and samples.html; notes.jsonl
where it went on with other settings.

TensorBoard files are written beside them, and W&B is told where the configuration says so. A line is flushed as it is
written; a resumed run takes back what came after its checkpoint.
"""

from __future__ import annotations

import html
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.finetune.configuration import Configuration, main_process
from training.finetune.validate import Said, Term, weights

# Panels of curves.png: title, and what is drawn in it where it is in the log.
PANELS = (
    ("reward", ("reward", "eval_reward")),
    ("loss", ("loss",)),
    ("KL to the start, nats per token", ("kl",)),
    ("tokens of an answer", ("completions/mean_length", "eval_length")),
    ("share cut off", ("completions/clipped_ratio", "eval_truncated")),
    ("share of groups without spread", ("frac_reward_zero_std",)),
    ("entropy, nats per token", ("entropy",)),
    ("gradient norm", ("grad_norm",)),
)
TEXTS, ROWS, PICTURE = 4, 4, 224  # answers per prompt and prompts per step on the page; pixels of a picture there
NOTES = "notes.jsonl"  # settings that differed when the run went on, a line each (training/finetune/resumption.py)
REDRAW = 60.0  # seconds between two drawings of the curves


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """A line that a crash cut off is left out."""
    found = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()


def take_back(path: Path, step: int) -> None:
    """Removes what was logged after a step, at which a killed run resumes."""
    if path.is_file():
        kept = [record for record in read_jsonl(path) if record.get("step", 0) <= step]
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        part.replace(path)


def kinks(out: Path) -> list[tuple[int, str]]:
    """Changes that decide weights, accepted when a run went on: after which update, and what became of what."""
    found = []
    for record in read_jsonl(out / NOTES):
        if record.get("kind") == "accepted":
            what = f"{json.dumps(record.get('before'))} -> {json.dumps(record.get('now'))}"
            found.append((int(record.get("step", 0)), f"{record.get('setting')} {what}"[:200]))
    return found


class Journal(TrainerCallback):
    """log.jsonl as it comes, curves.png once in a while and at the end."""

    def __init__(self, c: Configuration) -> None:
        self.out, self.pictures = Path(c.out), c.pictures
        self.file = self.out / "log.jsonl"
        self._drawn = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            for name in ("log.jsonl", "samples.jsonl"):
                take_back(self.out / name, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            numbers = {k: v if v is None or math.isfinite(v) else str(v) for k, v in logs.items() if not _text(v)}
            append(self.file, {"step": state.global_step, "time": round(time.time(), 3), **numbers})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.pictures and time.monotonic() - self._drawn > REDRAW:
            curves(self.file, self.out / "curves.png")
            self._drawn = time.monotonic()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            if self.pictures:
                curves(self.file, self.out / "curves.png")
            page(self.out)


def _text(value: Any) -> bool:
    return not (value is None or isinstance(value, (int, float)))


def curves(log: Path, png: Path) -> None:
    """Every panel that the log has numbers for, over updates. Kinks of the run, beside the log, are dashed lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    records = read_jsonl(log)
    terms = sorted({key for record in records for key in record if key.startswith("rewards/") and key.endswith("mean")})
    evaluated = sorted({key for record in records for key in record if key.startswith("eval_rewards/")})
    panels = [*PANELS, ("terms of the reward, training", tuple(terms)), ("terms, greedy validation", tuple(evaluated))]
    drawn = []
    for title, keys in panels:
        lines = [(k, [(r["step"], r[k]) for r in records if isinstance(r.get(k), (int, float))]) for k in keys]
        if lines := [(k, points) for k, points in lines if points]:
            drawn.append((title, lines))
    if not drawn:
        return
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    bends = kinks(log.parent)
    figure = Figure(figsize=(4.6 * columns, 3.1 * rows))
    figure.suptitle("; ".join(f"after update {step} (dashed): {what}" for step, what in bends)[:300], fontsize=8)
    FigureCanvasAgg(figure)
    for n, (title, lines) in enumerate(drawn):
        axes = figure.add_subplot(rows, columns, n + 1)
        for key, points in lines:
            x, y = zip(*points, strict=True)
            name = key.removeprefix("rewards/").removeprefix("eval_rewards/").removesuffix("/mean")
            if "rewards/" not in key and len(lines) > 1:
                name = "validation, greedy" if key.startswith("eval_") else "training, sampled"
            axes.plot(x, y, marker="o" if len(x) < 40 else "", markersize=3, linewidth=1.2, label=name)
        for step, _ in bends:
            axes.axvline(step + 0.5, color="black", linestyle="--", linewidth=0.8)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("updates", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(fontsize=7)
    figure.subplots_adjust(0.06, 0.7 / (3.1 * rows), 0.99, 1 - (0.6 if bends else 0.35) / (3.1 * rows), 0.18, 0.42)
    part = png.with_suffix(".part.png")
    figure.savefig(part, dpi=110)
    part.replace(png)


class Samples:
    """Keeps answers with their rewards: a few groups of training every so many updates, and the same few validation
    rows at every validation, where one sees how the thoughts change."""

    def __init__(self, c: Configuration) -> None:
        self.c, self.out = c, Path(c.out)
        self.file = self.out / "samples.jsonl"
        self._waiting: dict[str, list[float]] = {}
        self._last = -1

    def around(self, terms: Sequence[Term]) -> list[Term]:
        """The same terms; the last one also writes what all of them gave."""

        def watched(term: Term) -> Term:
            def reward(completions: Sequence[Any], **columns: Any) -> list[float]:
                values = term(completions=completions, **columns)
                self._waiting[term.__name__] = values
                if len(self._waiting) == len(terms):
                    self._training(completions, columns, self._waiting)
                    self._waiting = {}
                return values

            reward.__name__ = term.__name__
            return reward

        return [watched(t) for t in terms] if main_process() else list(terms)

    def _training(self, completions: Sequence[Any], columns: dict[str, Any], values: dict[str, list[float]]) -> None:
        # `global_step` counts finished updates: this is the one after it.
        step = columns["trainer_state"].global_step + 1
        if step == self._last or (step - 1) % self.c.samples_every:
            return
        self._last = step
        texts = [x if isinstance(x, str) else x[0]["content"] for x in completions]
        groups: dict[str, list[int]] = {}
        for n, name in enumerate(columns["id"]):
            groups.setdefault(str(name), []).append(n)
        for members in list(groups.values())[:ROWS]:
            first = members[0]
            row = {key: columns[key][first] for key in ("id", "problem", "solution", "image")}
            chosen = members[:TEXTS]
            self._write("training", step, row, [texts[n] for n in chosen], _pick(values, chosen))

    def validation(
        self, step: int, rows: Sequence[dict[str, Any]], said: Sequence[Said], values: dict[str, list[float]]
    ) -> None:
        for n in range(min(ROWS, len(rows))):
            self._write("validation", step, rows[n], [said[n].text], _pick(values, [n]))
        page(self.out)

    def _write(
        self, kind: str, step: int, row: dict[str, Any], texts: list[str], values: dict[str, list[float]]
    ) -> None:
        name = f"{kind}-{step:06d}-{''.join(ch if ch.isalnum() else '_' for ch in str(row['id']))[:60]}.jpg"
        (self.out / "samples").mkdir(parents=True, exist_ok=True)
        _picture(self.c, row, texts).save(self.out / "samples" / name, quality=85)
        record = {"step": step, "kind": kind, "id": str(row["id"]), "problem": row["problem"]}
        sums = (np.array(list(values.values())).T @ np.array(weights(self.c))).tolist()
        record |= {"solution": row["solution"], "texts": texts, "rewards": values, "reward": sums, "picture": name}
        append(self.file, record)


def _pick(values: dict[str, list[float]], members: list[int]) -> dict[str, list[float]]:
    return {name: [float(v[n]) for n in members] for name, v in values.items()}


def _picture(c: Configuration, row: dict[str, Any], texts: Sequence[str]) -> Any:
    """The image with the solution's boxes in green and the answers' in red."""
    from PIL import ImageDraw

    from segzero_ros.core.answer import parse_answer
    from training.finetune.conversations import prompt_profile

    shown = row["image"].resize((PICTURE, PICTURE))
    pen, scale = ImageDraw.Draw(shown), PICTURE / c.data.extent
    profile = prompt_profile(c.data)
    # The published column's single form is no answer's form.
    for colour, said in (("red", texts), ("lime", [_as_answer(row["solution"], c)])):
        for text in said:
            for candidate in parse_answer(text, profile).candidates:
                if candidate.box is not None:
                    x1, y1, x2, y2 = (v * scale for v in candidate.box)
                    pen.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=colour, width=2)
    return shown


def _as_answer(solution: str, c: Configuration) -> str:
    from training.finetune.conversations import answer_text

    return answer_text(solution, c.data.answer)


def page(out: Path) -> None:
    """samples.html from samples.jsonl: newest first, pictures beside the texts."""
    records = read_jsonl(out / "samples.jsonl")
    if not records:
        return
    parts = [
        "<!doctype html><meta charset=utf-8><title>Samples</title><style>body{font:14px/1.4 sans-serif;margin:2em auto;"
        "max-width:70em}article{display:flex;gap:1em;margin:1em 0;border-top:1px solid #ccc;padding-top:1em}"
        "pre{white-space:pre-wrap;margin:0 0 .3em;background:#f5f5f5;padding:.4em}small{color:#555}</style>"
        "<h1>Samples</h1><p>Green: the solution's box. Red: the answers' boxes.</p>"
    ]
    for record in reversed(records):
        terms = record["rewards"]
        texts = []
        for n, text in enumerate(record["texts"]):
            won = ", ".join(f"{name} {values[n]:g}" for name, values in terms.items())
            total = f"{record['reward'][n]:g}: " if "reward" in record else ""
            texts.append(f"<pre>{html.escape(text)}</pre><small>{total}{html.escape(won)}</small>")
        parts.append(
            f"<article><img src='samples/{html.escape(record['picture'])}' width={PICTURE} height={PICTURE} alt=''>"
            f"<div><b>update {record['step']}, {record['kind']}</b>: {html.escape(record['problem'])}<br>"
            f"{''.join(texts)}</div></article>"
        )
    part = out / "samples.part"
    part.write_text("\n".join(parts), encoding="utf-8")
    part.replace(out / "samples.html")
