"""What a model could do before it was fine-tuned: question answering, asked through the node's reasoner.

    segzero-train abilities --profile seg-zero --set vqav2 --questions Q.json --annotations A.json --images DIR
    segzero-train abilities --set tabletop --split test --reasoner training/experiments/start

Sets, each in its authors' format and scored by its authors' measure, and for the embedded model's architecture the
questions of the experiment (training/data/tabletop/questions.py) over the scenes of a split:

| set | measure | definition |
|---|---|---|
| vqav2 | VQA accuracy | GT-Vision-Lab/VQA, vqaEval.py: min(1, same answers / 3), mean over leaving one annotator out |
| textvqa | VQA accuracy | facebookresearch/mmf, EvalAIAnswerProcessor: other normalisation, always applied |
| docvqa | ANLS | the script of the Robust Reading Competition: 1 - edit distance / longer length, 0 if below .5 |
| chartqa | relaxed accuracy | Masry et al. 2022, sec. 5.1, and pix2struct, metrics.py: numbers within 5 %, else equal |
| tabletop | accuracy | `exact`; kinds exists, what_color, what_kind, count |
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segzero_ros.core.contract import Image, Reasoner, Sampling
from segzero_ros.core.geometry import square_image
from training.data.tabletop.instructions import prompt_text
from training.data.tabletop.questions import SUFFIX
from training.evaluation.answer_scores import Score, exact
from training.evaluation.command import ended
from training.evaluation.identity import digest_of, weights
from training.evaluation.items import reason_of
from training.evaluation.question_sets import QUESTIONS, SETS, Question, read_tabletop
from training.measures.metrics import interval
from training.measures.records import Record, RecordFile, in_batches, load


def short_prompt(question: str) -> str:
    """What Qwen2.5-VL and LLaVA are commonly asked on these sets."""
    return f"{question}\nAnswer the question using a single word or phrase."


def tabletop_prompt(question: str, suffix: str) -> str:
    """In the embedded model's words. suffix: think, answer (what it was taught to end its prompts with) or none."""
    return prompt_text(question) + ("" if suffix == "none" else SUFFIX[suffix == "think"])


def said(text: str) -> str:
    """The last <answer>, or what follows the thought, or all of it."""
    if "<answer>" in text:
        return text.rsplit("<answer>", 1)[1].split("</answer>")[0].strip()
    return text.rsplit("</think>", 1)[-1].strip()


def check(
    reasoner: Reasoner,
    square: int,
    questions: Iterable[Question],
    score: Score = exact,
    *,
    prompt: Callable[[str], str] = short_prompt,
    batch: int = 32,
    file: RecordFile | None = None,
    sampling: Sampling | None = None,
) -> list[Record]:
    """Asks everything, and gives a record per question: id, question, answers, text, said, score, status.

    square: side of what the reasoner sees, pixels. Greedy unless sampling is given. status: "OK", "TRUNCATED" (no end
    within the token limit; scored as it is), "UNREAD" (an image that cannot be read; no score). With a file, batches
    that are there already are not asked again.
    """
    every = list(questions)

    def ask(indices: Sequence[int], todo: Sequence[int]) -> dict[int, Record]:
        squares, new = dict[int, Image](), dict[int, Record]()
        for i in indices:
            about = {"index": i, "id": every[i].id, "kind": every[i].kind, "question": every[i].question}
            new[i] = about | {"answers": list(every[i].answers)}
            try:
                squares[i] = square_image(every[i].pixels(), square)
            except Exception as error:  # as in training.evaluate: that item's fault, not the run's
                new[i] |= {"status": "UNREAD", "message": reason_of(error)}
        if squares:
            prompts = [prompt(every[i].question) for i in squares]
            texts = reasoner.generate(list(squares.values()), prompts, sampling=sampling)
            for i, generation in zip(squares, texts, strict=True):
                heard = said(generation.text)
                status = "TRUNCATED" if generation.truncated else "OK"
                value = score(heard, every[i].answers)
                new[i] |= {"status": status, "text": generation.text, "said": heard, "score": value}
        return new

    return in_batches(len(every), batch, ask, file=file, desc="questions")


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """accuracy: the mean score, with its 95 % bootstrap interval over questions; also per kind.

    Over the n questions whose image could be read; accuracy_if_unread_wrong is over all.
    """
    read = [r for r in records if r["status"] != "UNREAD"]
    right = sum(float(r["score"]) for r in read)

    def mean(some: Sequence[Record]) -> dict[str, Any]:
        scores = [float(r["score"]) for r in some]
        value = round(float(np.mean(scores)), 4) if scores else None
        return {"n": len(scores), "accuracy": value, "accuracy_ci": interval(scores) if scores else None}

    return mean(read) | {
        "items": len(records),
        "unread": len(records) - len(read),
        "accuracy_if_unread_wrong": round(right / len(records), 4) if records else None,
        "truncated": sum(r["status"] == "TRUNCATED" for r in records),
        "kinds": {kind: mean([r for r in read if r["kind"] == kind]) for kind in sorted({r["kind"] for r in read})},
    }


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="segzero-train abilities", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--profile", help="default: seg-zero, of the tabletop demo")
    p.add_argument("--reasoner", help="another checkpoint than the profile's")
    p.add_argument("--device")
    p.add_argument("--set", choices=sorted([*SETS, "tabletop"]))
    p.add_argument("--questions", type=Path)
    p.add_argument("--annotations", type=Path, help="of vqav2")
    p.add_argument("--images", type=Path)
    p.add_argument("--n", type=int, help=f"the first so many; of the tabletop how many, default {QUESTIONS}")
    scenes = p.add_argument_group("of the tabletop")
    scenes.add_argument("--split", default="test", help="train, tune, val, test or test-ood")
    scenes.add_argument("--root", type=Path, default=Path("build/tabletop"), help="where scenes are kept")
    scenes.add_argument("--scenes", type=int, help="default: as many as the experiment takes of the split")
    scenes.add_argument("--seed", type=int, default=0)
    scenes.add_argument("--suffix", choices=("answer", "think", "none"), default="answer", help="how a prompt ends")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--records", type=Path, help="JSONL; a killed run continues")
    p.add_argument("--restart", action="store_true")
    p.add_argument("--from-records", type=Path, help="figures of records alone")
    a = p.parse_args(argv)
    files = (a.questions, a.annotations, a.images)
    if a.from_records is None:
        if a.set is None:
            p.error("--set is needed")
        if a.set == "tabletop" and any(files):
            p.error("--questions, --annotations and --images are not of the tabletop, which has --split and --root")
        if a.set != "tabletop" and not (a.questions and a.images and (a.set == "vqav2") == (a.annotations is not None)):
            p.error("needed are --questions and --images, and --annotations for vqav2 alone")
        if a.batch < 1 or (a.n is not None and a.n < 1) or (a.scenes is not None and a.scenes < 1):
            p.error("--batch, --n and --scenes must be at least 1")
    return ended("abilities", lambda: _run(a))


def _run(a: argparse.Namespace) -> int:
    if a.from_records:
        print(json.dumps(summarise(load([a.from_records], "score")[1])))
        return 0
    from segzero_ros.models.reasoner_transformers import load_reasoner
    from segzero_ros.profiles import load_profile

    tabletop = a.set == "tabletop"
    name = a.profile or ("demo" if tabletop else "seg-zero")
    profile = load_profile(name)
    settings: dict[str, Any] = {"profile": name, "batch": a.batch, "square": profile.square}
    score: Score = exact
    prompt: Callable[[str], str] = short_prompt
    if tabletop:
        questions, digest = read_tabletop(a.root, a.split, scenes=a.scenes, count=a.n or QUESTIONS, seed=a.seed)
        prompt = partial(tabletop_prompt, suffix=a.suffix)
        settings |= {"data": f"tabletop:{a.split}", "seed": a.seed, "suffix": a.suffix, "sha256": digest}
    else:
        read, score = SETS[a.set]
        files = (a.questions, a.annotations, a.images) if a.set == "vqav2" else (a.questions, a.images)
        questions = read(*files)[: a.n]
        settings |= {"data": f"{a.set}:{a.questions.name}"}
    reasoner = load_reasoner(profile, a.reasoner, device=a.device)
    ids = digest_of(q.id for q in questions)
    settings |= {
        "items": len(questions),
        "ids": ids,
        "reasoner": [reasoner.info.name, weights(reasoner.info.name, "reasoner", reasoner.info.revision)],
    }
    file = RecordFile(a.records, settings, restart=a.restart) if a.records else None
    records = check(reasoner, profile.square, questions, score, prompt=prompt, batch=a.batch, file=file)
    told = [key for key in ("profile", "data", "suffix", "sha256", "batch") if key in settings]
    print(json.dumps({key: settings[key] for key in told} | summarise(records)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
