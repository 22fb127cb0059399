"""Trains the embedded reasoner from nothing: the vision tower alone, then all of it on instructions.

Next-token loss alone learns the format and does not ground, so the image tokens also predict what they show
(heads that are thrown away), and some attention heads are told where to look. Worker processes, one thread each,
average their gradients; a checkpoint holds everything, so a killed run continues where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from training.data.tabletop.instructions import KINDS
from training.embedded.processes import MALLOC

LOG_EVERY = 20  # steps


@dataclass(frozen=True)
class Settings:
    """One run. Steps are of `workers` x `images` images."""

    data: str
    out: str
    vision_steps: int = 500
    joint_steps: int = 1950
    images: int = 10  # per worker and step
    length: int = 384  # tokens of packed queries per image
    absent: float = 0.33  # share of the instructions that nothing matches
    reworded: float = 0.6  # share of the instructions in the words of training/data/tabletop/wordings.py
    kinds: tuple[str, ...] = KINDS  # of the instructions; one that stands twice is drawn twice as often
    lr: float = 0.01  # Muon, language
    lr_vision: float = 0.01  # Muon, while the vision tower is alone
    lr_vision_joint: float = 0.004
    warmup: int = 30
    workers: int = 2
    seed: int = 0
    save_every: int = 100
    validate_every: int = 400
    asked: int = 96  # questions of `val` that every validation asks for whole answers, the same every time
    stop_after: int = 0  # end early, at this step, as if killed; 0 = at the end
    compile: bool = True
    smoke: bool = False
    course: str = "instructions"  # or "experiment": what training/experiments pre-trains on
    tower: str = ""  # a checkpoint whose vision tower is taken and kept as it is; empty: trained from nothing
    init: str = ""  # a checkpoint to go on from; what image tokens know in the language model is not asked then.
    # Its vision tower may have another rope base: in `vision_steps` it learns to say by ours what it said by its own.
    settle: int = 0  # steps in which the heads over a tower that is gone on with are learnt, before it learns from them
    think: float = 0.5  # share of the course "experiment" that is answered with a thought
    limit: int = 0  # scenes of the training split that are used; 0 = all
    export_every: int = 0  # keep the model of every so many steps too; 0 = only the last


def run_worker(settings: Settings, rank: int) -> None:
    import numpy as np
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
    from torch import Tensor, nn
    from tqdm import tqdm

    from training.data.tabletop.questions import WORDS
    from training.data.tabletop.scene import CATEGORIES, COLORS
    from training.data.tabletop.store import Scenes
    from training.embedded import held_out
    from training.embedded.batch import Batch, Writer, drawn, make_batch
    from training.embedded.pretraining import pretraining
    from training.embedded.reasoner import CELL, GRID, PATCHES, SIZE, SMOKE, Dimensions, FastLanguage, build
    from training.embedded.tokenizer import FIRST_NUMBER, NUMBERS, save_tokenizer
    from training.finetune.fast_vision import FastVision
    from training.finetune.processor_files import write_processor_files

    draw, more_words = drawn(settings.absent, tuple(settings.kinds), settings.reworded), ""
    if settings.course == "experiment":
        draw, more_words = pretraining(settings.think), WORDS
    torch.set_num_threads(1)
    if settings.workers > 1:
        dist.init_process_group("gloo", rank=rank, world_size=settings.workers)
    out = Path(settings.out)
    if rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        save_tokenizer(out / "tokenizer", more_words)
    if settings.workers > 1:
        dist.barrier()
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(out / "tokenizer")
    token = tokenizer.convert_tokens_to_ids
    dims = SMOKE if settings.smoke else Dimensions()
    if settings.tower:
        dims = replace(dims, vision_rope_base=rope_base(settings.tower))
    model = build(tokenizer, dims, settings.seed)
    if settings.init:
        keep(model, settings.init)
    elif settings.tower:
        keep(model.model.visual, settings.tower, "model.visual.")
    vision = FastVision(model, PATCHES)
    teacher: Any = None
    if settings.init:
        other = rope_base(settings.init)
        if rank == 0 and other != dims.vision_rope_base:
            print(f"{settings.init}: vision rope base {other:g}; it goes on with {dims.vision_rope_base:g}", flush=True)
        if settings.vision_steps:
            teacher = FastVision(read_model(settings.init).requires_grad_(False), PATCHES).__call__
    language = FastLanguage(model, tokenizer.encode("<|im_start|>user\n<|vision_start|>"), token("<|vision_end|>"))
    embedding = model.model.language_model.embed_tokens.weight
    see_image: Any = vision.__call__
    read: Any = language.__call__
    if settings.compile:
        see_image, read = (torch.compile(f, dynamic=False) for f in (see_image, read))
        teacher = teacher and torch.compile(teacher, dynamic=False)
    width = dims.hidden
    tap = 2  # after this layer image tokens know where they are
    supervised = {
        dims.layers // 2: dims.heads // 2,
        dims.layers // 2 + 1: dims.heads,
    }  # layer -> heads told where to look

    class VisionHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.present, self.category = nn.Linear(width, 1), nn.Linear(width, len(CATEGORIES))
            self.color, self.box = nn.Linear(width, len(COLORS)), nn.Linear(width, 4)
            nn.init.zeros_(self.box.weight)
            nn.init.constant_(self.box.bias, 1.2)

    class LanguageHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.number, self.scale = nn.Linear(width, 6 * width), nn.Parameter(torch.tensor(1.0))
            self.category, self.color = nn.Linear(width, len(CATEGORIES)), nn.Linear(width, len(COLORS))
            self.row = nn.ModuleList([nn.Linear(width, GRID) for _ in range(2)])
            self.column = nn.ModuleList([nn.Linear(width, GRID) for _ in range(2)])

    torch.manual_seed(settings.seed + 1)
    see, know = VisionHeads(), LanguageHeads()
    middle = (torch.arange(GRID) + 0.5) * CELL
    cell_x, cell_y = middle[None].expand(GRID, GRID).reshape(-1), middle[:, None].expand(GRID, GRID).reshape(-1)
    row = torch.arange(GRID)[:, None].expand(GRID, GRID).reshape(-1)
    column = torch.arange(GRID)[None].expand(GRID, GRID).reshape(-1)
    scale = torch.arange(NUMBERS).float()

    def soft(target: Tensor, sigma: float = 1.5) -> Tensor:
        weight = torch.exp(-((scale[None] - target[:, None].float()) ** 2) / (2 * sigma**2))
        return weight / weight.sum(1, keepdim=True)

    def generalised_iou(p: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        inner = (torch.min(p[:, 2:], t[:, 2:]) - torch.max(p[:, :2], t[:, :2])).clamp(min=0).prod(1)
        union = (p[:, 2:] - p[:, :2]).clamp(min=0).prod(1) + (t[:, 2:] - t[:, :2]).prod(1) - inner + 1e-6
        hull = (torch.max(p[:, 2:], t[:, 2:]) - torch.min(p[:, :2], t[:, :2])).prod(1).clamp(min=1e-6)
        return inner / union, inner / union - (hull - union) / hull

    def vision_loss(tokens: Tensor, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        h = F.rms_norm(tokens.float(), (width,))
        present, care = see.present(h)[..., 0], b.owner >= 0
        loss = 2 * F.binary_cross_entropy_with_logits(present[care], (b.owner[care] > 0).float())
        image, cell = torch.nonzero(b.owner > 0, as_tuple=True)
        who = b.owner[image, cell] - 1
        f, box = h[image, cell], b.box[image, who]
        category, color = see.category(f), see.color(f)
        loss = loss + F.cross_entropy(category, b.category[image, who]) + F.cross_entropy(color, b.color[image, who])
        d = see.box(f) * CELL
        x, y = cell_x[cell], cell_y[cell]
        guess = torch.stack([x - d[:, 0], y - d[:, 1], x + d[:, 2], y + d[:, 3]], 1)
        iou, giou = generalised_iou(guess, box)
        loss = loss + 2 * F.smooth_l1_loss(guess / CELL, box / CELL, beta=0.25) + (1 - giou).mean()
        return loss, {
            "cell_category": (category.argmax(1) == b.category[image, who]).float().mean(),
            "cell_color": (color.argmax(1) == b.color[image, who]).float().mean(),
            "cell_iou": iou.mean(),
        }

    def language_loss(
        text: Tensor, hidden: Any, scores: Any, b: Batch, look: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        found: dict[str, Tensor] = {}
        learn = b.label >= 0
        target, weight = b.label[learn], b.weight[learn]
        logits = text[learn].float() @ embedding.t()
        logp = F.log_softmax(logits, -1)
        number = (target >= FIRST_NUMBER) & (target < FIRST_NUMBER + NUMBERS)
        value = target[number] - FIRST_NUMBER
        numbers = logp[number][:, FIRST_NUMBER : FIRST_NUMBER + NUMBERS]
        number_loss = -(numbers * soft(value)).sum(1).mean()
        word_loss = -logp[~number].gather(1, target[~number][:, None])[:, 0]
        loss = 2 * (word_loss * weight[~number]).sum() / weight[~number].sum() + number_loss
        right = logits.argmax(1) == target
        for name, chosen in (("word_acc", weight == 4.0), ("decide_acc", weight == 8.0)):
            found[name] = right[chosen].float().mean()
        found["number_mae"] = (numbers.argmax(1) - value).abs().float().mean()

        # Where to look while writing about an object: at its cells; about nothing: at the end of the image.
        # Most of all where it is decided, since an object hardly looked at there is denied.
        told = b.about >= 0
        image, place = torch.nonzero(told, as_tuple=True)
        keys = language.image_tokens
        wanted = torch.zeros(len(image), keys, dtype=torch.bool)
        who = b.about[image, place]
        wanted[:, language.before : keys - 1] = (b.owner[image] == who[:, None]) & (who[:, None] > 0)
        wanted[:, keys - 1] = who == 0
        importance = torch.where(b.weight[image, place] == 8.0, 40.0, 1.0) * wanted.any(1)
        look_loss = torch.zeros(())
        for layer in supervised:
            raw = scores[layer][image, :, place].float()  # (N, heads, keys + T)
            total = torch.logsumexp(raw, -1)
            mass = torch.logsumexp(raw[:, :, :keys].masked_fill(~wanted[:, None], -1e4), -1) - total
            look_loss = look_loss - (mass.mean(1) * importance).sum() / importance.sum() / len(supervised)
            found[f"look_{layer}"] = (mass.exp().mean(1) * importance).sum() / importance.sum()
        loss = loss + look * look_loss
        if settings.init:
            return loss, found

        # What image tokens know inside the language model: where they are, what they show, in absolute numbers.
        image, cell = torch.nonzero(b.owner > 0, as_tuple=True)
        who = b.owner[image, cell] - 1
        f = F.rms_norm(hidden[tap].float(), (width,))[image, cell]
        numbers = torch.cat([b.box[image, who], b.point[image, who]], 1).long()
        table = embedding[FIRST_NUMBER : FIRST_NUMBER + NUMBERS]
        logp = F.log_softmax((know.number(f).view(-1, 6, width) @ table.t()) * know.scale, -1)
        loss = loss - 0.7 * (logp.reshape(-1, NUMBERS) * soft(numbers.reshape(-1))).sum(1).mean()
        kinds = F.cross_entropy(know.category(f), b.category[image, who]) + F.cross_entropy(
            know.color(f), b.color[image, who]
        )
        loss = loss + 0.2 * kinds
        found["token_mae"] = (logp.argmax(-1) - numbers).abs().float().mean()
        for layer in range(2):
            h = F.rms_norm(hidden[layer].float(), (width,))
            rows, columns = know.row[layer](h), know.column[layer](h)
            loss = loss + 0.25 * F.cross_entropy(rows.transpose(1, 2), row.expand(len(h), -1))
            loss = loss + 0.25 * F.cross_entropy(columns.transpose(1, 2), column.expand(len(h), -1))
            found[f"column_{layer}"] = (columns.argmax(-1) == column).float().mean()
        return loss, found

    named = dict(model.named_parameters())
    tower = {n: w for n, w in named.items() if "visual" in n} | {f"see.{n}": w for n, w in see.named_parameters()}
    rest = {n: w for n, w in named.items() if "visual" not in n} | {f"know.{n}": w for n, w in know.named_parameters()}

    def optimisers(group: Mapping[str, Tensor], muon: float) -> list[torch.optim.Optimizer]:
        matrices = [
            w for n, w in group.items() if w.ndim == 2 and not any(s in n for s in ("embed", "head", "see.", "know."))
        ]
        chosen = {id(w) for w in matrices}
        others = [w for w in group.values() if id(w) not in chosen]
        return [
            torch.optim.Muon(
                matrices, lr=muon, weight_decay=0.02, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.01),
        ]

    optimiser = {"tower": optimisers(tower, 1.0), "rest": optimisers(rest, 1.0)}
    total = settings.vision_steps + settings.joint_steps

    def rates(step: int) -> dict[str, float]:
        """Muon's rate per group: one cosine for the vision tower alone, then one over everything."""
        if step < settings.vision_steps:
            done, first = step / settings.vision_steps, step
            # Not to zero: the tower goes on learning.
            shape = min(1.0, (first + 1) / settings.warmup) * (0.3 + 0.35 * (1 + math.cos(math.pi * done)))
            return {"tower": settings.lr_vision * shape, "rest": 0.0}
        first = step - settings.vision_steps
        done = first / max(1, settings.joint_steps)
        shape = min(1.0, (first + 1) / settings.warmup) * (0.01 + 0.495 * (1 + math.cos(math.pi * done)))
        return {"tower": settings.lr_vision_joint * shape, "rest": settings.lr * shape}

    scenes = Scenes(Path(settings.data) / "train", limit=settings.limit or None)
    validation = Scenes(Path(settings.data) / "val", limit=512)
    # The experiment's course has prompts of its own.
    probes = held_out.draw(validation, settings.asked if settings.course == "instructions" else 0)
    writer = Writer(tokenizer)
    checkpoint = out / "state.pt"
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        see.load_state_dict(state["see"])
        know.load_state_dict(state["know"])
        for name, many in optimiser.items():
            for one, saved in zip(many, state[name], strict=True):
                one.load_state_dict(saved)
        start = int(state["step"])

    def batch_at(step: int) -> Batch:
        """A step's batch depends on seed, step and rank alone, so a continued run sees what it would have seen."""
        rng = np.random.default_rng([settings.seed, step, rank])
        indices = rng.choice(len(scenes), settings.images, replace=False)
        length = settings.length if step >= settings.vision_steps else 1
        return make_batch(scenes, np.sort(indices), rng, writer, draw, length=length)

    ready: queue.Queue[Batch] = queue.Queue(4)
    stop = threading.Event()

    def feed() -> None:
        for step in range(start, total):
            made = batch_at(step)
            while not stop.is_set():
                try:
                    ready.put(made, timeout=1)
                    break
                except queue.Full:
                    continue
            if stop.is_set():
                return

    threading.Thread(target=feed, daemon=True).start()

    def save(step: int) -> None:
        part = checkpoint.with_suffix(".part")
        state = {"model": model.state_dict(), "see": see.state_dict(), "know": know.state_dict(), "step": step}
        torch.save(state | {n: [o.state_dict() for o in many] for n, many in optimiser.items()}, part)
        part.replace(checkpoint)

    def export(folder: Path) -> None:
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_processor_files(folder, SIZE)

    def recall_loss(tokens: Tensor, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The tower is to say what it said by its former rope base, which the language model understands; the heads
        learn to read it meanwhile."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half), torch.no_grad():
            wanted = teacher(b.images).float()
        missed = F.mse_loss(tokens.float(), wanted) / wanted.var()
        loss, seen = vision_loss(tokens.detach(), b)
        return missed + loss, seen | {"recall": missed}

    def loss_of(step: int, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half), torch.set_grad_enabled(learns):
            tokens = see_image(b.images)
        if step < settings.vision_steps:
            return vision_loss(tokens, b) if teacher is None else recall_loss(tokens, b)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            text, hidden, scores = read(tokens, b.packed, tuple({0, 1, tap}), supervised)
        # Positions first: the attention's supervision competes with them.
        grown = 1.0 if settings.init else min(1.0, (step - settings.vision_steps) / max(1, 0.1 * settings.joint_steps))
        more, found = language_loss(text, hidden, scores, b, look=0.1 + 0.9 * grown)
        if not learns:
            return more, found
        loss, seen = vision_loss(tokens.detach() if step < settings.settle else tokens, b)
        return more + 0.5 * loss, seen | found

    @torch.no_grad()
    def validate(step: int) -> dict[str, float]:
        rng = np.random.default_rng(settings.seed)
        sums: dict[str, float] = {}
        parts = [
            np.arange(i, i + settings.images)
            for i in range(0, min(120, len(validation)) - settings.images + 1, settings.images)
        ]
        for part in parts:
            b = make_batch(validation, part, rng, writer, draw, length=settings.length, augment=False)
            loss, seen = loss_of(step, b)
            for name, x in (seen | {"loss": loss}).items():
                sums[name] = sums.get(name, 0.0) + float(x) / len(parts)
        return {n: round(x, 4) for n, x in sums.items()} | held_out.accuracies(model, tokenizer, probes)

    half, learns = _half_is_faster(), not settings.tower and settings.lr_vision_joint > 0
    log = (out / "log.jsonl").open("a") if rank == 0 else None

    def note(record: dict[str, Any]) -> None:
        if log:
            log.write(json.dumps(record) + "\n")
            log.flush()

    bar = tqdm(total=total, initial=start, desc="reasoner", unit="step", disable=rank != 0, mininterval=5)
    smooth: dict[str, float] = {}
    began = last = time.monotonic()
    for step in range(start, total):
        if step == settings.vision_steps:
            smooth.clear()  # other losses begin
        b = ready.get()
        loss, seen = loss_of(step, b)
        loss.backward()
        group = ["tower"] if step < settings.vision_steps else ["tower", "rest"] if learns else ["rest"]
        weights = [w for part in group for w in {"tower": tower, "rest": rest}[part].values()]
        if settings.workers > 1:
            flat = torch.cat([(w.grad if w.grad is not None else torch.zeros_like(w)).reshape(-1) for w in weights])
            dist.all_reduce(flat)
            flat /= settings.workers
            at = 0
            for w in weights:
                w.grad = flat[at : at + w.numel()].view_as(w)
                at += w.numel()
        rate = rates(step)
        for name in group:
            muon, adam = optimiser[name]
            base = settings.lr_vision if name == "tower" else settings.lr
            for one, value in ((muon, rate[name]), (adam, 2e-3 * rate[name] / base)):
                for parameters in one.param_groups:
                    parameters["lr"] = value
                one.step()
                one.zero_grad(set_to_none=True)
        for name, x in (seen | {"loss": loss}).items():
            x = x.detach()
            if not math.isnan(float(x)):
                smooth[name] = 0.95 * smooth.get(name, float(x)) + 0.05 * float(x)
        bar.update()
        if rank == 0:
            if (step + 1) % LOG_EVERY == 0:
                shown = {k: round(v, 3) for k, v in smooth.items()}
                now = time.monotonic()
                times = {"seconds": round(now - began, 1), "step_seconds": round((now - last) / LOG_EVERY, 2)}
                note({"step": step + 1, **times, **shown})
                last = now
                bar.set_postfix_str(" ".join(f"{k}={v}" for k, v in list(shown.items())[-7:]))
            if (step + 1) % settings.validate_every == 0 or step + 1 == total:
                note({"step": step + 1, "validation": validate(step)})
                last = time.monotonic()
            if settings.export_every and (step + 1) % settings.export_every == 0:
                export(out / f"model-{step + 1:05d}")
            if (step + 1) % settings.save_every == 0 or step + 1 == total:
                save(step + 1)
                if step + 1 > settings.vision_steps:
                    export(out / "model")
        if step + 1 == settings.stop_after:
            break
    stop.set()
    if rank == 0:
        (out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    bar.close()
    if settings.workers > 1:
        dist.destroy_process_group()


def read_model(folder: str) -> Any:
    """A checkpoint as it is, in float32."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype="float32")


def keep(part: Any, folder: str, prefix: str = "") -> None:
    """Takes the weights below a name from a checkpoint of the same dimensions."""
    found = read_model(folder).state_dict()
    part.load_state_dict({k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)})


def rope_base(folder: str) -> float:
    """Of a checkpoint's vision tower."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return float(config["vision_config"]["rope_parameters"]["rope_theta"])


def _half_is_faster() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32: up to eight times with AMX, slower without."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(4096, 256, dtype=dtype), torch.ones(256, 768, dtype=dtype)
        times = []
        for _ in range(6):
            began = time.perf_counter()
            torch.mm(a, b)
            times.append(time.perf_counter() - began)
        return min(times)

    return seconds(torch.bfloat16) < 0.8 * seconds(torch.float32)


def train(settings: Settings) -> Path:
    """Runs all workers to the end; returns the folder of the trained model."""
    import subprocess
    import sys

    port = 20000 + os.getpid() % 20000
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "training.embedded.train_reasoner",
                "--worker",
                str(rank),
                json.dumps(asdict(settings)),
            ],
            env=os.environ
            | MALLOC
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(settings.workers)
    ]
    try:
        codes = [process.wait() for process in processes]
    except BaseException:
        for process in processes:
            process.kill()
        raise
    if any(codes):
        raise RuntimeError(f"a training worker failed: exit codes {codes}")
    return Path(settings.out) / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded reasoner.")
    parser.add_argument("--worker", nargs=2, metavar=("RANK", "SETTINGS"), help=argparse.SUPPRESS)
    parser.add_argument("--data", default="build/tabletop")
    parser.add_argument("--out", default="build/reasoner")
    parser.add_argument("--course", choices=("instructions", "experiment"), default="instructions")
    parser.add_argument("--tower", default="", help="checkpoint whose vision tower is kept; with --vision-steps 0")
    parser.add_argument("--init", default="", help="checkpoint to go on from")
    for name in ("lr", "lr_vision", "lr_vision_joint", "reworded"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(Settings, name))
    parser.add_argument(
        "--kinds", nargs="+", default=KINDS, choices=KINDS, help="asked; one given twice twice as often"
    )
    for name in (
        "vision_steps",
        "joint_steps",
        "images",
        "workers",
        "seed",
        "length",
        "limit",
        "export_every",
        "save_every",
        "validate_every",
        "asked",
        "settle",
    ):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Settings, name))
    parser.add_argument("--smoke", action="store_true")
    arguments = vars(parser.parse_args())
    worker = arguments.pop("worker")
    if worker:
        run_worker(Settings(**json.loads(worker[1])), int(worker[0]))
    else:
        train(Settings(**arguments))


if __name__ == "__main__":
    main()
