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

Known oddities are kept, since published figures have them: VQAv2 compares raw text where all annotators agree; relaxed
accuracy compares text where the true number is 0; ANLS counts .5 itself, which the paper's equation does not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segzero_ros.core.contract import Image, Reasoner, Sampling, SegzeroError
from segzero_ros.profiles import ProfileError
from training.measures.metrics import interval
from training.measures.records import Record, RecordFile, RecordsError, load

Score = Callable[[str, Sequence[str]], float]
QUESTIONS = 600  # over the tabletop, as in the experiment


@dataclass(frozen=True)
class Question:
    """answers: of all annotators, or all that are right. image: a file, or RGB uint8 (H, W, 3). kind: to group by."""

    id: str
    image: Path | NDArray[np.uint8] = field(repr=False)
    question: str
    answers: tuple[str, ...]
    kind: str = ""

    def pixels(self) -> Image:
        """Raises ValueError for a file that is no image."""
        from training.data.images import read_image

        return read_image(self.image) if isinstance(self.image, Path) else self.image


# Scores: a model's answer and the right ones to [0, 1].


def exact(answer: str, answers: Sequence[str]) -> float:
    """Equal to one of them, but for case, white space and a full stop."""
    return float(_bare(answer) in {_bare(a) for a in answers})


def _bare(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .")


# Contractions that the VQA script mends, by their right forms; the wrong ones lack one apostrophe each.
_CONTRACTED = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've he'd"""
CONTRACTIONS = {
    right[:n] + right[n + 1 :]: right for right in _CONTRACTED.split() for n, c in enumerate(right) if c == "'"
} | {"somebody'd": "somebodyd"}
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")


def _unpunctuated(text: str, number_comma: str) -> str:
    """Marks at a word's edge vanish, others become a space; all vanish where a comma stands between digits."""
    comma = re.search(number_comma, text) is not None
    out = text
    for mark in _PUNCTUATION:
        out = out.replace(mark, "" if comma or f"{mark} " in text or f" {mark}" in text else " ")
    return _PERIOD.sub("", out, count=32)  # the script passes a flag, which is 32, for the count


def _plain_words(text: str) -> str:
    words = [NUMBERS.get(w, w) for w in text.lower().split()]
    return " ".join(CONTRACTIONS.get(w, w) for w in words if w not in ("a", "an", "the"))


def normalise_vqa(text: str) -> str:
    return _plain_words(_unpunctuated(text, r"\d,\d"))


def normalise_textvqa(text: str) -> str:
    tokens = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    tokens = tokens.replace("\n", " ").replace("\t", " ").strip()
    return _plain_words(_unpunctuated(tokens, r"(?<=\d),+(?=\d)"))


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    said, true = _line(answer), [_line(a) for a in answers]
    if len(set(true)) > 1:
        said, true = normalise_vqa(said), [normalise_vqa(a) for a in true]
    return _soft(said, true)


def textvqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    return _soft(normalise_textvqa(answer), [normalise_textvqa(a) for a in answers])


def _line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _soft(said: str, true: Sequence[str]) -> float:
    """Each annotator in turn is left out, and a third of a point given for each other one who says the same."""
    same = true.count(said)
    if not true:
        raise ValueError("a question has no answers")
    return float(np.mean([min(1.0, (same - (a == said)) / 3) for a in true]))


def anls(answer: str, answers: Sequence[str]) -> float:
    """For the nearest right answer. Case and runs of white space do not count (but in the length, as published)."""
    best = max(_similarity(a, answer) for a in answers)
    return best if best >= 0.5 else 0.0


def _similarity(true: str, said: str) -> float:
    longer = max(len(true), len(said))
    distance = edit_distance(" ".join(true.lower().split()), " ".join(said.lower().split()))
    return 1 - distance / longer if longer else 1.0


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's: fewest insertions, deletions and replacements of a character."""
    row = list(range(len(b) + 1))
    for i, c in enumerate(a, 1):
        before, row = row, [i]
        for j, d in enumerate(b, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (c != d)))
    return row[-1]


def relaxed_accuracy(answer: str, answers: Sequence[str]) -> float:
    return float(any(_relaxed(answer, a) for a in answers))


def _relaxed(said: str, true: str) -> bool:
    a, b = _number(said), _number(true)
    if a is not None and b:
        return abs(a - b) / abs(b) <= 0.05
    return said.lower() == true.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


# Readers. Each raises ValueError that names the file for what is not in the set's format.


def read_vqav2(questions: Path, annotations: Path, images: Path) -> list[Question]:
    """v2_OpenEnded_mscoco_SPLIT_questions.json, v2_mscoco_SPLIT_annotations.json, and the folder of COCO images."""
    asked, answered = _json(questions), _json(annotations)
    rows = _list(asked, "questions", questions)
    given = {a.get("question_id"): a for a in _list(answered, "annotations", annotations) if isinstance(a, dict)}
    kind = asked.get("data_subtype", "val2014")

    def one(q: dict[str, Any]) -> Question:
        if q["question_id"] not in given:
            raise ValueError(f"{annotations} has no answers to question {q['question_id']}")
        found = given[q["question_id"]]
        image = images / f"COCO_{kind}_{int(q['image_id']):012d}.jpg"
        texts = tuple(a["answer"] for a in found["answers"])
        return Question(str(q["question_id"]), image, q["question"], texts, found.get("answer_type", ""))

    return [_one(questions, n, q, one) for n, q in enumerate(rows)]


def read_textvqa(questions: Path, images: Path) -> list[Question]:
    """TextVQA_0.5.1_SPLIT.json, and its folder of images."""

    def one(q: dict[str, Any]) -> Question:
        return Question(str(q["question_id"]), images / f"{q['image_id']}.jpg", q["question"], _several(q["answers"]))

    return _data(questions, one)


def read_docvqa(questions: Path, images: Path) -> list[Question]:
    """SPLIT_v1.0_withQT.json, and the folder that holds `documents`."""

    def one(q: dict[str, Any]) -> Question:
        return Question(str(q["questionId"]), images / q["image"], q["question"], _several(q["answers"]))

    return _data(questions, one)


def read_chartqa(questions: Path, images: Path) -> list[Question]:
    """test_human.json or test_augmented.json, and the folder `png`."""

    def one(n: int, q: dict[str, Any]) -> Question:
        return Question(f"{questions.stem}-{n:05d}", images / q["imgname"], q["query"], (str(q["label"]),))

    rows = _list({"data": _json(questions)}, "data", questions)
    return [_one(questions, n, q, partial(one, n)) for n, q in enumerate(rows)]


SETS: dict[str, tuple[Callable[..., list[Question]], Score]] = {
    "vqav2": (read_vqav2, vqa_accuracy),
    "textvqa": (read_textvqa, textvqa_accuracy),
    "docvqa": (read_docvqa, anls),
    "chartqa": (read_chartqa, relaxed_accuracy),
}


def read_tabletop(root: Path, split: str, *, scenes: int | None, count: int, seed: int) -> tuple[list[Question], str]:
    """Questions over the simulated tabletop, and the SHA-256 over their scenes and texts.

    root: where scenes are kept; what is missing is rendered. Split test with the experiment's number of scenes, 600
    questions and seed 0 is the experiment's own set. Raises ValueError for an unknown split and for scenes that hold
    nothing to ask for.
    """
    from training.data.tabletop import questions, sets
    from training.data.tabletop.store import Scenes, render_split

    if split not in sets.SCENES:
        raise ValueError(f"the tabletop has no split {split!r}; there are {', '.join(sets.SCENES)}")
    number = scenes or sets.SCENES[split]
    seen = Scenes(render_split(root, split, number), limit=number)
    chosen = sets.build(seen, split, "questions", lambda rng, things: questions.question(rng, things), count, seed)
    return [
        Question(i.id, np.ascontiguousarray(seen.rgb(i.scene)), i.ask.text, (i.ask.answer,), i.ask.kind)
        for i in chosen.items
    ], chosen.digest


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _list(data: Any, key: str, path: Path) -> list[Any]:
    if not isinstance(data, dict) or not isinstance(data.get(key), list):
        raise ValueError(f"{path} holds no list {key!r}")
    return list(data[key])


def _several(answers: Any) -> tuple[str, ...]:
    if not isinstance(answers, list):
        raise TypeError("its answers are no list")
    return tuple(answers)


def _data(path: Path, make: Callable[[dict[str, Any]], Question]) -> list[Question]:
    return [_one(path, n, q, make) for n, q in enumerate(_list(_json(path), "data", path))]


def _one(path: Path, number: int, row: Any, make: Callable[[dict[str, Any]], Question]) -> Question:
    try:
        question = make(row)
        if not question.answers or not all(isinstance(a, str) for a in (question.question, *question.answers)):
            raise ValueError("no question or no answers")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}, row {number} is no question: {error!r}") from error
    return question


# Asking.


def short_prompt(question: str) -> str:
    """What Qwen2.5-VL and LLaVA are commonly asked on these sets."""
    return f"{question}\nAnswer the question using a single word or phrase."


def tabletop_prompt(question: str, suffix: str) -> str:
    """In the embedded model's words. suffix: think, answer (what it was taught to end its prompts with) or none."""
    from training.data.tabletop.instructions import prompt_text
    from training.data.tabletop.questions import SUFFIX

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
    from segzero_ros.core.geometry import square_image

    every = list(questions)
    done = dict(file.done) if file else {}
    for start in tqdm(range(0, len(every), batch), desc="questions", unit="batch"):
        indices = range(start, min(start + batch, len(every)))
        todo = [i for i in indices if i not in done]
        if not todo:
            continue
        squares, new = {}, {}
        for i in indices:
            about = {"index": i, "id": every[i].id, "kind": every[i].kind, "question": every[i].question}
            new[i] = about | {"answers": list(every[i].answers)}
            try:
                squares[i] = square_image(every[i].pixels(), square)
            except Exception as error:  # as in training.evaluate: that item's fault, not the run's
                name = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
                new[i] |= {"status": "UNREAD", "message": f"{name}{error}"}
        if squares:
            prompts = [prompt(every[i].question) for i in squares]
            texts = reasoner.generate(list(squares.values()), prompts, sampling=sampling)
            for i, generation in zip(squares, texts, strict=True):
                heard = said(generation.text)
                status = "TRUNCATED" if generation.truncated else "OK"
                value = score(heard, every[i].answers)
                new[i] |= {"status": status, "text": generation.text, "said": heard, "score": value}
        if file:
            file.append([new[i] for i in todo])
        done |= {i: new[i] for i in todo}
    return [done[i] for i in sorted(done)]


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
    try:
        if a.from_records:
            print(json.dumps(summarise(load([a.from_records], "score")[1])))
            return 0
        return _run(a)
    except (RecordsError, ProfileError, SegzeroError, ValueError, OSError) as error:
        print(f"segzero-train abilities: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("segzero-train abilities: interrupted; with --records the same call continues", file=sys.stderr)
        return 130


def _run(a: argparse.Namespace) -> int:
    from segzero_ros.models.reasoner_transformers import load_reasoner
    from segzero_ros.profiles import load_profile
    from training.evaluation.evaluate import weights

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
    ids = hashlib.blake2b("\n".join(q.id for q in questions).encode(), digest_size=16).hexdigest()
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
