"""`segzero-train compare-published`, over small files with the names and the doors of the published ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import cli
from training.evaluation import against_published
from training.evaluation.published_scripts import load_script, stand_in

# A script of the evaluation's form: what it reads, what it leaves out, and how it writes. {} stands for its faults.
SCRIPT = """
import argparse, json, re
import numpy as np
import torch.nn.functional as F
from sam2.sam2_image_predictor import SAM2ImagePredictor
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
from .beside import Helper

class Odd(Helper): ...

def extract_bbox_points_think(text, fx, fy):
    data = json.loads(re.search(r"{[^}]+}", text).group())
    box = data[next(k for k in data if "bbox" in k.lower())]
    if len(box) != 4 or not re.search("<think>[^<]+</think>", text):
        raise ValueError("unreadable")
    first, second = [data[k] for k in data if "points" in k.lower()][:2]
    both = [[round(int(p[0]) * fx), round(int(p[1]) * fy)] for p in (first, second)]
    return [round(int(v) * f) for v, f in zip(box, (fx, fy, fx, fy))], both, "thought"

def main():
    known = argparse.ArgumentParser()
    for name in ("output_path", "test_data_path", "idx", "num_parts", "batch_size"):
        known.add_argument("--" + name)
    args = known.parse_args()
    processor, model = AutoProcessor.from_pretrained("a"), Qwen2_5_VLForConditionalGeneration.from_pretrained("b")
    segmenter = SAM2ImagePredictor.from_pretrained("c")
    written = []
    with F.nothing() as _:
        rows = load_dataset(args.test_data_path, split="test").select([])
    for row in load_dataset(args.test_data_path):
        question = row["text"].lower().strip(".")
        words = PROMPT.replace("QUESTION", question)
        message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}]
        inputs = processor(text=[processor.apply_chat_template(message)]).to("cuda")
        out = model.generate(**inputs, max_new_tokens=TOKENS)
        (said,) = processor.batch_decode([o[len(i):] for i, o in zip(inputs.input_ids, out)])
        true = np.array(row["mask"])
        try:
            box, points, _ = extract_bbox_points_think(said, row["img_width"] / 840, row["img_height"] / 840)
            segmenter.set_image(row["image"])
            masks, scores, _ = segmenter.predict(point_coords=points, point_labels=[1, 1], box=box)
            mask = masks[np.argmax(scores)].astype(bool)
            if not (mask | true).any():
                continue
            above, below = int((mask & true).sum()), int((mask | true).sum())
        except Exception:
            above, below = 0, int(true.sum())
        written.append({"image_id": row["image_id"], "intersection": above, "union": below})
    with open(args.output_path + "/output_0.json", "w") as file:
        json.dump(written, file)
"""
FIGURES = """
import json
def calculate_metrics(folder):
    rows = json.load(open(folder + "/output_0.json"))
    value = sum(r["intersection"] / r["union"] if r["union"] else 0 for r in rows) / len(rows)
    print(f"gIoU (mean): {value:.4f}")
"""


def write(folder: Path, **changes: str) -> Path:
    """A repository with one evaluation; changes: of its text, old to new by turns."""
    from segzero_ros.core.prompt import SEG_ZERO

    scripts = folder / "evaluation_scripts"
    scripts.mkdir(parents=True)
    text = SCRIPT.replace("TOKENS", changes.pop("tokens", "1024"))
    text += f"\nPROMPT = {SEG_ZERO.replace('{question}', 'QUESTION')!r}\n"
    if changes:
        assert changes["old"] in text
        text = text.replace(changes["old"], changes["new"])
    (scripts / "evaluation.py").write_text(text)
    (scripts / "calculate_iou.py").write_text(FIGURES)
    return folder


def call(capsys: pytest.CaptureFixture[str], mode: str, *repos: Path, n: int = 150) -> tuple[int, list[Any], str]:
    code = cli.main(["compare-published", mode, "--n", str(n), "--repo", *map(str, repos)])
    told = capsys.readouterr()
    return code, [json.loads(line) for line in told.out.splitlines()], told.err


VOTES = """
from collections import Counter
MORE = [("use_lora", "true"), ("use_majority_voting", "false"), ("num_samples", "2")]

def extract_bbox_points_think(text, fx, fy):
    objects = json.loads(re.search(r"<answer>(.*?)</answer>", text, re.DOTALL).group(1).strip())
    boxes = [[int(v * f + 0.5) for v, f in zip(o["bbox_2d"], (fx, fy, fx, fy), strict=True)] for o in objects]
    return boxes, [[int(v * f + 0.5) for v, f in zip(o["point_2d"], (fx, fy), strict=True)] for o in objects]

def main():
    known = argparse.ArgumentParser()
    for name in ("output_path", "test_data_path", "idx", "num_parts", "batch_size"):
        known.add_argument("--" + name)
    for name, default in MORE:
        known.add_argument("--" + name, default=default)
    args = known.parse_args()
    processor, model, segmenter = AutoProcessor, Qwen2_5_VLForConditionalGeneration, SAM2ImagePredictor()
    written, many = [], int(args.num_samples)
    for row in load_dataset(args.test_data_path):
        inputs = processor(text=["question"])
        ids = [out[1:] for out in model.generate(**inputs, max_new_tokens=1024, num_return_sequences=many)]
        true, masks, counts = np.array(row["mask"]), [], []
        try:
            segmenter.set_image(row["image"])
        except Exception:
            continue
        for n, said in enumerate(processor.batch_decode(ids)):
            try:
                boxes, points = extract_bbox_points_think(said, row["img_width"] / 840, row["img_height"] / 840)
            except Exception:
                continue
            counts.append(len(boxes))
            for box, point in zip(boxes, points):
                found, scores, _ = segmenter.predict(point_coords=[point], point_labels=[1], box=box)
                masks.append((n, found[np.argmax(scores)].astype(bool), max(scores)))
        final = np.zeros_like(true)
        if counts and counts.count(0) / len(counts) < 0.5:
            groups = []
            for one in masks:
                for group in groups:
                    both, first = one[1] & group[0][1], one[1] | group[0][1]
                    if first.any() and both.sum() / first.sum() >= 0.85:
                        group.append(one)
                        break
                else:
                    groups.append([one])
            votes = [len({n for n, _, _ in group}) for group in groups]
            ranked = sorted(range(len(groups)), key=lambda g: (-votes[g], -np.mean([s for _, _, s in groups[g]])))
            strong = [g for g in ranked if votes[g] / len(counts) >= 0.2] or ranked
            for g in strong[: Counter(c for c in counts if c).most_common(1)[0][0]]:
                final = final | max(groups[g], key=lambda one: (one[2], one[1].sum()))[1]
        above = int((final & true).sum()) if counts else 0
        below = int((final | true).sum()) if counts else int(true.sum())
        written.append({"image_id": row["image_id"], "intersection": above, "union": below})
    with open(args.output_path + "/output_0.json", "w") as file:
        json.dump(written, file)
"""


def write_voting(folder: Path, old: str = "", new: str = "") -> Path:
    """A repository with StAR's evaluation by votes alone."""
    scripts = folder / "evaluation_scripts"
    scripts.mkdir(parents=True)
    assert old in VOTES
    head = SCRIPT.partition("from .beside")[0]
    (scripts / "evaluation_star.py").write_text(head + (VOTES.replace(old, new) if old else VOTES))
    (scripts / "calculate_iou.py").write_text(FIGURES.replace("else 0 for", "else 1 for"))
    return folder


@pytest.fixture
def plain_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers in StAR's form, since the stand-in reads no other; squares are not made."""

    def texts(rng: np.random.Generator, script: str, count: int, each: int = 1) -> Iterator[str]:
        for _ in range(count):
            boxes = rng.integers(0, 400, (int(rng.integers(1, 4)), 4)) + np.array([0, 0, 420, 420])
            for _ in range(each):
                moved = boxes + rng.integers(-30, 31, boxes.shape) * int(rng.choice([0, 1]))
                said = [{"label": "mug", "bbox_2d": b.tolist(), "point_2d": b[:2].tolist()} for b in moved]
                rng.shuffle(said)
                body = json.dumps(said[: int(rng.integers(1, 4))]) if rng.random() < 0.9 else "[{"
                yield f"<think>mugs</think><answer>{body}</answer>"

    monkeypatch.setattr(against_published, "texts", texts)
    monkeypatch.setattr("segzero_ros.core.pipeline.square_image", lambda image, side: image)


@pytest.mark.usefixtures("plain_answers")
def test_equal_voting_has_no_difference_and_is_seen_in_many_outcomes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, told = call(capsys, "voting", write_voting(tmp_path / "repo"), n=60)
    assert code == 0, told
    assert [line["what"] for line in lines] == ["voting star, of 1", "voting star, of 5"]
    assert all(line["differences"] == 0 and line["n"] == 60 and line["seen"] > 25 for line in lines)


@pytest.mark.usefixtures("plain_answers")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (">= 0.85", ">= 0.5"),
        (">= 0.2]", ">= 0.5]"),
        ("< 0.5:", "< 0.8:"),
        ("(one[2], one[1].sum())", "one[1].sum()"),
        (".most_common(1)[0][0]]", ".most_common(1)[0][0] + 1]"),
    ],
)
def test_voting_by_another_rule_is_told(old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, told = call(capsys, "voting", write_voting(tmp_path / "repo", old, new), n=60)
    assert code == 1 and lines[-1]["differences"] > 0 and '"ours": ' in told


@pytest.mark.parametrize("mode", ["parsers", "protocols", "prompts"])
def test_an_equal_script_has_no_difference_and_is_seen_in_many_outcomes(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, _ = call(capsys, mode, write(tmp_path / "repo"))
    assert code == 0
    (line,) = lines
    assert line["differences"] == 0 and line["n"] == 150 and line["seen"] > 40
    assert line["what"].endswith("seg-zero")


@pytest.mark.parametrize(
    ("mode", "old", "new"),
    [
        ("parsers", "round(int(v) * f) for v", "int(int(v) * f) for v"),
        ("parsers", '"<think>[^<]+</think>"', '"<think>"'),
        ("protocols", "above, below = 0, int(true.sum())", "continue"),
        ("protocols", "                continue", "                pass"),
        ("prompts", 'strip(".")', 'strip(". ")'),
    ],
)
def test_a_script_that_differs_is_told_with_its_first_cases(
    mode: str, old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (line,), told = call(capsys, mode, write(tmp_path / "repo", old=old, new=new))
    assert code == 1 and line["differences"] > 0
    assert any(c.startswith("{") and '"ours": ' in c for c in told.splitlines())


def test_another_number_of_tokens_is_a_difference_of_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (line,), told = call(capsys, "prompts", write(tmp_path / "repo", tokens="2000"), n=20)
    assert code == line["differences"] == 1 and '{"tokens": [2000], "ours": 1024}' in told


@pytest.mark.parametrize(
    ("text", "said"), [("def f(:", "cannot be run"), ("raise SystemExit(3)", "cannot be run"), ("x = 1", "ended with")]
)
def test_a_script_that_does_not_run_is_a_sentence(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = write(tmp_path / "repo")
    (repo / "evaluation_scripts" / "evaluation.py").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        against_published.main(["protocols", "--repo", str(repo), "--n", "5"])
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_without_published_files_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        against_published.main(["parsers", "--repo", str(tmp_path)])
    assert "holds none of the published files" in capsys.readouterr().err


def test_what_is_not_installed_takes_any_call(tmp_path: Path) -> None:
    """Also as a base class and a context manager; the standard library and NumPy are the real ones."""
    (tmp_path / "a.py").write_text(
        "import math, numpy as np, torch.cuda.amp as amp\nfrom x.y import Base, call\n"
        "class Mine(Base):\n    def f(self): return self.g.h(1)(2)\n"
        "with amp.on(True), call(): ready = Mine(3).f()\nnumber = math.pi + np.float64(1)\n"
    )
    module = load_script(tmp_path / "a.py")
    assert module.number == pytest.approx(np.pi + 1) and module.ready is not None
    assert isinstance(stand_in("A")(), stand_in("B").__mro__[1])


def test_training_prompts_are_taken_from_the_loader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from segzero_ros.core.prompt import VISION_REASONER

    repo = write(tmp_path / "repo")
    loader = repo / against_published.TRAINING
    loader.parent.mkdir(parents=True)
    text = (
        "class RLHFDataset(Dataset):\n"
        "    def __init__(self, path, tokenizer, processor, system_prompt):\n"
        "        self.rows, self.tokenizer = load_from_disk(path)['train'], tokenizer\n"
        "    def __getitem__(self, n):\n"
        "        said = WORDS.replace('{question}', self.rows[n]['problem'].lower().strip(STRIPPED))\n"
        "        return self.tokenizer.apply_chat_template([{'role': 'user', 'content': '<image>\\n' + said}])\n"
        f"WORDS = {VISION_REASONER!r}\n"
    )
    for stripped, expected in ((".", 0), (".?!", 1)):
        loader.write_text(f"from torch.utils.data import Dataset\nSTRIPPED = {stripped!r}\n{text}")
        code, lines, _ = call(capsys, "prompts", repo, n=60)
        assert code == expected and bool(lines[-1]["differences"]) == bool(expected)
        assert lines[-1]["what"] == "training prompt vision-reasoner"
