"""How far two engines' log-probabilities are apart on the same sampled completions, with images.

With vLLM for rollouts and transformers for the loss, the policy that samples is not quite the one that learns: the
ratio that PPO's clip and GRPO's on-policy form take for 1 is exp(log p learner - log p sampler). Four steps, since the
engines live in two environments (docs/decisions/training-environments.md); a folder goes from one to the next:

    prompts   images as PNG and token ids                         folder/prompts.json
    sample    by either engine, temperature 1, whole vocabulary   folder/ENGINE-DTYPE.jsonl
    score     the same tokens by either engine                    folder/ENGINE-DTYPE.by-ENGINE-DTYPE.jsonl
    report    figures, and a picture

Token ids go over, never text, and the image token stands in them once: an engine that expands it does so once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.prompt import build_prompt
from segzero_ros.profiles import Profile, load_profile

CLIP = 0.2  # of PPO, as published
QUANTILES = (0.0, 0.01, 0.5, 0.99, 1.0)


@dataclass(frozen=True)
class Prompt:
    """ids: of the whole prompt, the image token once. image: RGB uint8 (square, square, 3)."""

    ids: list[int]
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class Prompts:
    """What both engines are asked. image_token is `image_tokens` tokens long once expanded."""

    profile: str
    checkpoint: str
    image_token: int
    image_tokens: int
    items: list[Prompt]

    def expanded(self, item: int) -> list[int]:
        ids = self.items[item].ids
        at = ids.index(self.image_token)
        return [*ids[:at], *[self.image_token] * self.image_tokens, *ids[at + 1 :]]


@dataclass(frozen=True)
class Completion:
    """Of prompt `item`. logprobs: natural, per token, by the engine that sampled it; the end token is one of them."""

    item: int
    ids: list[int]
    logprobs: list[float]


class Engine(Protocol):
    name: str

    def sample(self, prompts: Prompts, samples: int, seed: int) -> Iterator[Completion]: ...

    def score(self, prompts: Prompts, completions: Sequence[Completion]) -> Iterator[list[float]]: ...


# What is asked -----------------------------------------------------------------------------------------------------


def write_prompts(
    folder: Path, profile: Profile, checkpoint: str, asked: Sequence[tuple[NDArray[np.uint8], str]]
) -> None:
    """asked: squares and instructions."""
    from PIL import Image

    reasoner = _transformers_reasoner(profile.name, checkpoint, "float32")
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for number, (square, instruction) in enumerate(asked):
        if square.shape != (profile.square, profile.square, 3):
            raise ValueError(f"item {number}: the image is {square.shape}, and {profile.name} takes {profile.square}")
        name = f"{number:04d}.png"
        Image.fromarray(np.ascontiguousarray(square)).save(folder / name)
        ids = reasoner.prompt_ids(build_prompt(profile, instruction))
        first = ids.index(reasoner._image_id)
        ids[first : first + reasoner.image_tokens] = [reasoner._image_id]
        items.append({"image": name, "instruction": instruction, "ids": ids})
    whole = {
        "profile": profile.name,
        "checkpoint": checkpoint,
        "image_token": reasoner._image_id,
        "image_tokens": reasoner.image_tokens,
        "items": items,
    }
    part = folder / "prompts.json.part"
    part.write_text(json.dumps(whole, indent=1))
    part.replace(folder / "prompts.json")


def read_prompts(folder: Path) -> Prompts:
    from PIL import Image

    path = folder / "prompts.json"
    if not path.is_file():
        raise ValueError(f"{path} is not there: `python -m training.engines.mismatch prompts` writes it")
    found = json.loads(path.read_text())
    items = [
        Prompt(i["ids"], np.asarray(Image.open(folder / i["image"]).convert("RGB"), np.uint8)) for i in found["items"]
    ]
    return Prompts(found["profile"], found["checkpoint"], found["image_token"], found["image_tokens"], items)


def tabletop(folder: Path, count: int) -> list[tuple[NDArray[np.uint8], str]]:
    """Every kind of instruction equally often, a fifth without a match."""
    from training.data.tabletop.evaluation import questions
    from training.data.tabletop.store import Scenes

    scenes = Scenes(folder)
    return [(scenes.rgb(q.scene), q.item.text) for q in questions(scenes, count, 0, ood=False)]


def prepared(folder: Path, count: int) -> list[tuple[NDArray[np.uint8], str]]:
    """The first rows that `segzero-train prepare` wrote."""
    from datasets import load_from_disk

    rows = load_from_disk(str(folder))
    return [(np.asarray(r["image"].convert("RGB"), np.uint8), r["problem"]) for r in rows.select(range(count))]


# The engines -------------------------------------------------------------------------------------------------------


def _transformers_reasoner(profile: str, checkpoint: str, dtype: str) -> Any:
    from segzero_ros.models.reasoner_transformers import load_reasoner

    return load_reasoner(load_profile(profile), checkpoint, dtype=dtype, offline=True)


class Transformers:
    """As the node loads it; scored in one pass over prompt and completion, as a trainer does."""

    def __init__(self, prompts: Prompts, dtype: str, batch: int = 16) -> None:
        import transformers

        self.name = f"transformers {transformers.__version__}, {dtype}"
        # "autocast": float32 weights and bfloat16 products, as a trainer with bf16 runs.
        self.autocast = dtype == "autocast"
        self.reasoner = _transformers_reasoner(
            prompts.profile, prompts.checkpoint, "float32" if self.autocast else dtype
        )
        self.batch = batch

    def _inputs(self, prompts: Prompts, items: Sequence[int], rows: Sequence[Sequence[int]], left: bool) -> Any:
        import torch

        model = self.reasoner.model
        longest = max(map(len, rows))
        pad = self.reasoner.tokenizer.pad_token_id

        def padded(values: Sequence[int], filler: int) -> list[int]:
            more = [filler] * (longest - len(values))
            return [*more, *values] if left else [*values, *more]

        ids = torch.tensor([padded(r, pad) for r in rows])
        grid = self.reasoner.profile.square // self.reasoner.patch
        model.model.rope_deltas = None  # of an earlier call
        return {
            "input_ids": ids,
            "attention_mask": torch.tensor([padded([1] * len(r), 0) for r in rows]),
            "pixel_values": self.reasoner.pixel_values([prompts.items[i].image for i in items]).to(model.dtype),
            "image_grid_thw": torch.tensor([[1, grid, grid]] * len(items)),
            "mm_token_type_ids": (ids == prompts.image_token).int(),
        }

    def sample(self, prompts: Prompts, samples: int, seed: int) -> Iterator[Completion]:
        import torch

        torch.manual_seed(seed)
        model = self.reasoner.model
        ends = model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        wanted = [i for i in range(len(prompts.items)) for _ in range(samples)]
        for start in range(0, len(wanted), self.batch):
            items = wanted[start : start + self.batch]
            rows = [prompts.expanded(i) for i in items]
            with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=self.autocast):
                out = model.generate(
                    **self._inputs(prompts, items, rows, left=True),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=self.reasoner.profile.max_new_tokens,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
                logps = torch.stack(out.logits, 1).float().log_softmax(-1)
            new = out.sequences[:, -logps.shape[1] :]
            chosen = logps.gather(-1, new[..., None])[..., 0]
            for item, ids, values in zip(items, new.tolist(), chosen.tolist(), strict=True):
                count = next((n + 1 for n, t in enumerate(ids) if t in ends), len(ids))
                yield Completion(item, ids[:count], values[:count])

    def score(self, prompts: Prompts, completions: Sequence[Completion]) -> Iterator[list[float]]:
        import torch

        for start in range(0, len(completions), self.batch):
            part = completions[start : start + self.batch]
            heads = [prompts.expanded(c.item) for c in part]
            rows = [[*h, *c.ids] for h, c in zip(heads, part, strict=True)]
            inputs = self._inputs(prompts, [c.item for c in part], rows, left=False)
            with (
                torch.inference_mode(),
                torch.autocast(self.reasoner.model.device.type, torch.bfloat16, enabled=self.autocast),
            ):
                logits = self.reasoner.model(**inputs).logits
            for head, completion, row in zip(heads, part, logits, strict=True):
                at = slice(len(head) - 1, len(head) - 1 + len(completion.ids))
                ids = torch.tensor(completion.ids)
                yield row[at].float().log_softmax(-1).gather(-1, ids[:, None])[:, 0].tolist()


class VLLM:
    """In process, without CUDA graphs or compilation. Log-probabilities are those before temperature and truncation."""

    def __init__(self, prompts: Prompts, dtype: str, work: Path, vision_theta: bool = True) -> None:
        # One process: the model class below must be the one that the engine's core builds.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        import vllm

        self.profile = load_profile(prompts.profile)
        folder = with_processor(_checkpoint_folder(prompts.checkpoint), work / "vllm-checkpoint", self.profile.square)
        if vision_theta:
            register_vision_theta()
        self.name = f"vllm {vllm.__version__}{'' if vision_theta else ' as it is'}, {dtype}"
        longest = max(len(prompts.expanded(i)) for i in range(len(prompts.items))) + self.profile.max_new_tokens
        self.llm = vllm.LLM(
            str(folder),
            dtype=dtype,
            max_model_len=longest,
            max_num_seqs=32,
            enforce_eager=True,
            enable_prefix_caching=False,
            limit_mm_per_prompt={"image": 1, "video": 0},
            seed=0,
        )

    def _asked(self, prompts: Prompts, items: Sequence[int], more: Sequence[Sequence[int]]) -> list[Any]:
        from PIL import Image

        return [
            {
                "prompt_token_ids": [*prompts.items[i].ids, *m],
                "multi_modal_data": {"image": Image.fromarray(prompts.items[i].image)},
            }
            for i, m in zip(items, more, strict=True)
        ]

    def sample(self, prompts: Prompts, samples: int, seed: int) -> Iterator[Completion]:
        import torch
        from vllm import SamplingParams

        torch.manual_seed(seed)  # a seed of its own per request is what vLLM's CPU build cannot take
        items = range(len(prompts.items))
        params = SamplingParams(
            n=samples,
            temperature=1.0,
            top_p=1.0,
            top_k=-1,
            max_tokens=self.profile.max_new_tokens,
            logprobs=0,
            detokenize=False,
        )
        found = self.llm.generate(self._asked(prompts, items, [[]] * len(items)), params)
        for item, one in enumerate(found):
            _same(one.prompt_token_ids, prompts.expanded(item), item)
            for out in one.outputs:
                ids = list(out.token_ids)
                yield Completion(item, ids, [v[t].logprob for v, t in zip(out.logprobs, ids, strict=True)])

    def score(self, prompts: Prompts, completions: Sequence[Completion]) -> Iterator[list[float]]:
        from vllm import SamplingParams

        params = SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        asked = self._asked(prompts, [c.item for c in completions], [c.ids for c in completions])
        for one, completion in zip(self.llm.generate(asked, params), completions, strict=True):
            _same(one.prompt_token_ids, [*prompts.expanded(completion.item), *completion.ids], completion.item)
            last = one.prompt_logprobs[-len(completion.ids) :]
            yield [v[t].logprob for v, t in zip(last, completion.ids, strict=True)]


def _same(seen: Sequence[int], meant: Sequence[int], item: int) -> None:
    """An image expanded twice, or to another number of tokens, would be measured as a mismatch."""
    if list(seen) != list(meant):
        raise ValueError(f"item {item}: vLLM saw a prompt of {len(seen)} tokens, and {len(meant)} were meant")


def _checkpoint_folder(name: str) -> Path:
    from segzero_ros.models import checkpoints

    return Path(checkpoints.resolve(name, "reasoner", offline=True))


def with_processor(checkpoint: Path, folder: Path, square: int) -> Path:
    """The checkpoint, with the processor's files that a server's own processor reads where it has none."""
    if (checkpoint / "preprocessor_config.json").exists():
        return checkpoint
    from training.finetune.processor_files import write_processor_files

    folder.mkdir(parents=True, exist_ok=True)
    for path in checkpoint.iterdir():
        link = folder / path.name
        if not link.exists():
            link.symlink_to(path.resolve())
    write_processor_files(folder, square)
    return folder


def register_vision_theta() -> None:
    """Makes vLLM's Qwen2.5-VL read the vision tower's rope base from the configuration.

    vLLM has it fixed at 10,000, which all published checkpoints have; the embedded model has 100.
    """
    from vllm import ModelRegistry
    from vllm.model_executor.layers.rotary_embedding import get_rope
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

    class WithVisionTheta(Qwen2_5_VLForConditionalGeneration):
        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            vision = vllm_config.model_config.hf_config.vision_config
            given = getattr(vision, "rope_parameters", None) or {}
            self.visual.rotary_pos_emb = get_rope(
                head_size=vision.hidden_size // vision.num_heads,
                max_position=8192,
                is_neox_style=True,
                rope_parameters={"partial_rotary_factor": 0.5, "rope_theta": given.get("rope_theta", 10000.0)},
            )

    ModelRegistry.register_model("Qwen2_5_VLForConditionalGeneration", WithVisionTheta)


# Figures -----------------------------------------------------------------------------------------------------------


def figures(sampled: Sequence[Sequence[float]], scored: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Of the completions' tokens: log-probabilities by the engine that sampled, and by the one that scored.

    d is scored minus sampled. kl_k1 = mean(-d) and kl_k3 = mean(exp(d) - 1 - d) estimate KL(sampler || scorer) per
    token (Schulman's estimators; the tokens are the sampler's). ratio: exp(d) by token; ratio_sequence: exp(sum d).
    outside_clip: share of tokens that PPO's clip of 0.2 would call off-policy before any update.
    """
    pairs = [np.asarray(b, float) - np.asarray(a, float) for a, b in zip(sampled, scored, strict=True)]
    if not pairs or any(len(p) == 0 for p in pairs):
        raise ValueError("no completions, or one without tokens")
    d = np.concatenate(pairs)
    if not np.isfinite(d).all():
        raise ValueError("a log-probability is not finite")
    sums = np.array([p.sum() for p in pairs])
    ratio = np.exp(d)
    return {
        "completions": len(pairs),
        "tokens": len(d),
        "mean_abs": float(np.abs(d).mean()),
        "p99_abs": float(np.quantile(np.abs(d), 0.99)),
        "max_abs": float(np.abs(d).max()),
        "kl_k1": float(-d.mean()),
        "kl_k3": float((ratio - 1 - d).mean()),
        "ratio": dict(zip(map(str, QUANTILES), np.quantile(ratio, QUANTILES).tolist(), strict=True)),
        "ratio_sequence": dict(zip(map(str, QUANTILES), np.quantile(np.exp(sums), QUANTILES).tolist(), strict=True)),
        "outside_clip": float((np.abs(ratio - 1) > CLIP).mean()),
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown, one row per pair of engines."""
    lines = [
        "| sampled by | scored by | tokens | mean abs | p99 abs | max abs | KL (k3) | ratio, 1 % to 99 % "
        "| ratio of sequences, all | outside clip |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, f in found.items():
        a, b = name.split(" -> ")
        r, s = f["ratio"], f["ratio_sequence"]
        lines.append(
            f"| {a} | {b} | {f['tokens']} | {f['mean_abs']:.2g} | {f['p99_abs']:.2g} | {f['max_abs']:.2g} "
            f"| {f['kl_k3']:.2g} | {_span(r, '0.01', '0.99')} | {_span(s, '0.0', '1.0')} "
            f"| {f['outside_clip']:.2%} |"
        )
    return "\n".join(lines)


def _span(quantiles: dict[str, float], low: str, high: str) -> str:
    return f"{quantiles[low]:.5g} to {quantiles[high]:.5g}"


def picture(differences: dict[str, NDArray[np.float64]], path: Path) -> None:
    """Share of tokens whose log-probabilities differ by more than x."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.5, 5.5), layout="constrained")
    for name, d in differences.items():
        x = np.sort(np.abs(d))
        axes.plot(np.maximum(x, 1e-8), 1 - np.arange(len(x)) / len(x), label=name)
    axes.axvline(CLIP, color="grey", ls=":", label="PPO's clip")
    axes.set(
        xscale="log", yscale="log", xlabel="|difference of log-probabilities|, nats", ylabel="share of tokens above"
    )
    axes.grid(alpha=0.3)
    axes.set_xlim(left=1e-7)  # about a unit in float32's last place
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


# The command -------------------------------------------------------------------------------------------------------


def _write(path: Path, lines: Iterator[dict[str, Any]], total: int) -> None:
    from tqdm import tqdm

    part = path.with_suffix(path.suffix + ".part")
    with part.open("w") as file:
        for line in tqdm(lines, total=total, desc=path.name, unit="completion"):
            file.write(json.dumps(line) + "\n")
            file.flush()
    part.replace(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Raises ValueError that names file and line."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return found


def _engine(arguments: argparse.Namespace, prompts: Prompts) -> Engine:
    if arguments.engine == "vllm":
        if arguments.dtype == "autocast":
            raise ValueError("vLLM has no autocast; it runs in float32 or bfloat16")
        return VLLM(prompts, arguments.dtype, arguments.folder, vision_theta=not arguments.stock)
    return Transformers(prompts, arguments.dtype)


def _tag(arguments: argparse.Namespace) -> str:
    return f"{arguments.engine}{'-stock' if arguments.stock else ''}-{arguments.dtype}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.engines.mismatch", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("prompts", help="images and token ids")
    asked.add_argument("folder", type=Path)
    asked.add_argument("--profile", default="demo")
    asked.add_argument("--checkpoint", default="embedded", help="embedded, a folder, or a hub name")
    asked.add_argument("--count", type=int, default=64)
    source = asked.add_mutually_exclusive_group(required=True)
    source.add_argument("--tabletop", type=Path, help="a rendered split")
    source.add_argument("--data", type=Path, help="prepared rows")
    for name, what in (("sample", "completions by one engine"), ("score", "the same tokens by another")):
        command = commands.add_parser(name, help=what)
        command.add_argument("folder", type=Path)
        command.add_argument("--engine", choices=("transformers", "vllm"), required=True)
        command.add_argument("--dtype", choices=("float32", "bfloat16", "autocast"), default="float32")
        command.add_argument("--stock", action="store_true", help="vLLM's model class as it is")
        if name == "sample":
            command.add_argument("--samples", type=int, default=4, help="per prompt")
            command.add_argument("--seed", type=int, default=0)
        else:
            command.add_argument("--sampled", required=True, help="such as vllm-float32")
    told = commands.add_parser("report", help="figures of score files")
    told.add_argument("files", type=Path, nargs="+")
    told.add_argument("--json", type=Path)
    told.add_argument("--picture", type=Path)
    arguments = parser.parse_args(argv)
    try:
        _run(arguments)
    except ValueError as error:
        print(f"mismatch: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "prompts":
        make = (tabletop, arguments.tabletop) if arguments.tabletop else (prepared, arguments.data)
        write_prompts(
            arguments.folder, load_profile(arguments.profile), arguments.checkpoint, make[0](make[1], arguments.count)
        )
    elif arguments.command == "report":
        found, differences = {}, {}
        for path in arguments.files:
            lines = read_lines(path)
            name = f"{lines[0]['sampled_by']} -> {lines[0]['scored_by']}"
            found[name] = figures([r["sampled"] for r in lines], [r["scored"] for r in lines])
            differences[name] = np.concatenate([np.subtract(r["scored"], r["sampled"]) for r in lines])
        print(table(found))
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")
        if arguments.picture:
            picture(differences, arguments.picture)
    else:
        prompts = read_prompts(arguments.folder)
        if arguments.command == "sample":
            engine = _engine(arguments, prompts)
            drawn = engine.sample(prompts, arguments.samples, arguments.seed)
            records = ({**asdict(c), "engine": engine.name} for c in drawn)
            total = arguments.samples * len(prompts.items)
            _write(arguments.folder / f"{_tag(arguments)}.jsonl", records, total)
        else:
            sampled = read_lines(arguments.folder / f"{arguments.sampled}.jsonl")
            engine = _engine(arguments, prompts)
            completions = [Completion(r["item"], r["ids"], r["logprobs"]) for r in sampled]
            scored = (
                {
                    "item": r["item"],
                    "ids": r["ids"],
                    "sampled": r["logprobs"],
                    "scored": logprobs,
                    "sampled_by": r["engine"],
                    "scored_by": engine.name,
                }
                for r, logprobs in zip(sampled, engine.score(prompts, completions), strict=True)
            )
            _write(arguments.folder / f"{arguments.sampled}.by-{_tag(arguments)}.jsonl", scored, len(sampled))


if __name__ == "__main__":
    sys.exit(main())
