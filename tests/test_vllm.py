"""The embedded reasoner in a real vLLM on this machine's CPU, over HTTP, beside the same weights in this process.

`make test-vllm` makes the environment and runs these. SEGZERO_VLLM_WEIGHTS is another folder of weights to serve.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from segzero_ros.core.answer import parse_answer
from segzero_ros.core.answer_schema import answer_language, answer_tag, continuation, structural_tag
from segzero_ros.core.contract import Cancel, Generation, Image, Sampling, SegzeroError, Status, ThoughtBudget
from segzero_ros.core.geometry import box_iou
from segzero_ros.core.prompt import build_prompt
from segzero_ros.core.regular import expression
from segzero_ros.models.checkpoints import EMBEDDED
from segzero_ros.models.reasoner_server import ServerReasoner, load_server_reasoner
from segzero_ros.models.reasoner_transformers import TransformersReasoner, load_reasoner
from segzero_ros.models.server_address import read_address
from segzero_ros.models.server_requests import data_url
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile
from tests.servers import real_vllm
from training.data.tabletop.evaluation import questions
from training.data.tabletop.store import Scenes, render_split

pytestmark = pytest.mark.vllm

DEMO = load_profile("demo")
SCENES = QUESTIONS = 24  # a third of the questions without a match


@dataclass(frozen=True)
class Asked:
    """boxes: of the targets; none where nothing matches."""

    square: Image
    prompt: str
    boxes: tuple[tuple[float, float, float, float], ...]


@pytest.fixture(scope="module")
def weights() -> Path:
    return Path(os.environ.get("SEGZERO_VLLM_WEIGHTS") or EMBEDDED / "reasoner").resolve()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm") / "server.log"


@pytest.fixture(scope="module")
def address(weights: Path, log: Path) -> Iterator[str]:
    with real_vllm.serving(weights, log) as found:
        yield found


@pytest.fixture(autouse=True)
def server_log(address: str, log: Path) -> Iterator[None]:
    """What the server said meanwhile stands beside a failure."""
    before = log.stat().st_size
    yield
    print(real_vllm.tail(log, before))


@pytest.fixture(scope="module")
def there(address: str) -> ServerReasoner:
    return load_server_reasoner(DEMO, address)


@pytest.fixture(scope="module")
def here(weights: Path, one_thread: None) -> TransformersReasoner:
    return load_reasoner(DEMO, str(weights), dtype="float32", offline=True)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Asked]:
    """What has an answer first."""
    scenes = Scenes(render_split(tmp_path_factory.mktemp("tabletop"), "test", SCENES, workers=1))
    found = [
        Asked(
            np.ascontiguousarray(scenes.rgb(q.scene)),
            build_prompt(DEMO, q.item.text),
            tuple(target.box for target in q.item.targets),
        )
        for q in questions(scenes, QUESTIONS, 0, ood=False)
    ]
    return sorted(found, key=lambda one: not one.boxes)


@pytest.fixture(scope="module")
def answers(there: ServerReasoner, asked: list[Asked]) -> list[Generation]:
    """Of the server, one after another."""
    return [there.generate([one.square], [one.prompt])[0] for one in asked]


@pytest.fixture
def post(there: ServerReasoner, asked: list[Asked]) -> Callable[..., httpx2.Response]:
    """The adapter's own request about the first picture, with more fields, and without a stream."""

    def send(**more: Any) -> httpx2.Response:
        body = there.served.body(data_url(asked[0].square), asked[0].prompt, DEMO.max_new_tokens)
        body = {k: v for k, v in body.items() if k != "stream_options"} | {"stream": False} | more
        url = f"{there.client.address.base}/chat/completions"
        return httpx2.post(url, json=body, timeout=60, trust_env=False)

    return send


def text_of(response: httpx2.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def is_whole(text: str) -> bool:
    """Whether it is an answer by the grammar, with a thought before it or without."""
    return re.fullmatch(rf"(<think>.*?</think>)?{expression(answer_language(DEMO))}", text, re.DOTALL) is not None


def metric(address: str, name: str) -> float:
    text = httpx2.get(f"{address}/metrics", timeout=60, trust_env=False).text
    return sum(float(value) for value in re.findall(rf"^vllm:{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE))


class TestAnswers:
    def test_texts_and_prompt_tokens_are_those_of_the_model_in_this_process(
        self, here: TransformersReasoner, answers: list[Generation], asked: list[Asked]
    ) -> None:
        own = [here.generate([one.square], [one.prompt])[0] for one in asked]
        assert [(a.text, a.prompt_tokens) for a in answers] == [(a.text, a.prompt_tokens) for a in own]
        assert len({a.text for a in answers}) > QUESTIONS / 2, "they look at their pictures"

    def test_boxes_are_where_the_objects_are(self, answers: list[Generation], asked: list[Asked]) -> None:
        ious = []
        for answer, one in zip(answers, asked, strict=True):
            found = [c.box for c in parse_answer(answer.text, DEMO).candidates]
            ious += [max((box_iou(box, f) for f in found if f), default=0.0) for box in one.boxes]
        print(f"{len(ious)} targets, mean IoU {np.mean(ious):.3f}")
        assert len(ious) >= 10 and np.mean(ious) > 0.5

    def test_the_text_comes_in_pieces(self, there: ServerReasoner, asked: list[Asked]) -> None:
        pieces: list[str] = []
        (found,) = there.generate([asked[0].square], [asked[0].prompt], on_text=lambda _, piece: pieces.append(piece))
        assert len(pieces) > 5 and "".join(pieces) == found.text
        assert not found.truncated and not found.cancelled and found.first_token > 0

    def test_the_token_limit_cuts(self, there: ServerReasoner, asked: list[Asked], answers: list[Generation]) -> None:
        (found,) = there.generate([asked[0].square], [asked[0].prompt], max_new_tokens=5)
        assert found.truncated and found.completion_tokens == 5 and answers[0].text.startswith(found.text)

    def test_equal_seeds_give_equal_texts(self, there: ServerReasoner, asked: list[Asked]) -> None:
        def draw(seed: int) -> str:
            sampling = Sampling(2.0, 0.95, seed)
            return there.generate([asked[0].square], [asked[0].prompt], sampling=sampling)[0].text

        assert draw(1) == draw(1) and len({draw(seed) for seed in range(4)}) > 1

    def test_the_pipeline_makes_masks_of_its_boxes(self, address: str, asked: list[Asked]) -> None:
        pipeline = Pipeline.load(DEMO, reasoner=f"{address}/v1", offline=True)
        result = pipeline.segment(asked[0].square, "the ball")
        assert result.status in (Status.OK, Status.NO_OBJECT) and result.model.startswith("embedded at http://")


class TestManyAtOnce:
    def test_sixteen_threads_with_one_reasoner(
        self, there: ServerReasoner, asked: list[Asked], answers: list[Generation]
    ) -> None:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda one: there.generate([one.square], [one.prompt])[0].text, asked[:16]))
        assert found == [a.text for a in answers[:16]]

    def test_sixteen_reasoners(self, address: str, asked: list[Asked], answers: list[Generation]) -> None:
        def ask(one: Asked) -> str:
            return load_server_reasoner(DEMO, address).generate([one.square], [one.prompt])[0].text

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(ask, asked[:16])) == [a.text for a in answers[:16]]

    def test_one_batch(self, there: ServerReasoner, asked: list[Asked], answers: list[Generation]) -> None:
        found = there.generate([one.square for one in asked[:16]], [one.prompt for one in asked[:16]])
        assert [a.text for a in found] == [a.text for a in answers[:16]]


class TestEnds:
    def test_a_cancel_reaches_the_server(self, address: str, there: ServerReasoner, asked: list[Asked]) -> None:
        """Hot, so that the text would be long; what is asked and not written shows that it was cut off there."""
        flag, before = Cancel(), metric(address, "generation_tokens_total")
        squares, prompts = [one.square for one in asked[:8]], [one.prompt for one in asked[:8]]
        found = there.generate(squares, prompts, sampling=Sampling(2.0), cancel=flag, on_text=lambda *_: flag.set())
        assert all(one.cancelled and not one.truncated for one in found)
        end = time.monotonic() + 30
        while metric(address, "num_requests_running") and time.monotonic() < end:
            pass
        assert metric(address, "num_requests_running") == metric(address, "num_requests_waiting") == 0
        assert metric(address, "generation_tokens_total") - before < 200, "uncancelled they are 446 to 1,003"

    def test_a_timeout_is_one(self, address: str, asked: list[Asked]) -> None:
        pipeline = Pipeline.load(DEMO, reasoner=f"{address}/v1", offline=True)
        assert pipeline.segment(asked[0].square, "the duck", timeout=0.01).status is Status.TIMEOUT

    def test_a_long_instruction_is_refused_before_it_is_sent_and_by_the_server_with_its_sentence(
        self, there: ServerReasoner, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long = build_prompt(DEMO, "the red mug beside " * 200)
        with pytest.raises(SegzeroError, match="512 is what the server takes") as error:
            there.generate([asked[0].square], [long])
        assert error.value.status is Status.BAD_INSTRUCTION
        monkeypatch.setattr(there.served, "context", 0)  # as of a server that does not tell
        with pytest.raises(SegzeroError, match=r"\(400\).*maximum context length is 512 tokens") as error:
            there.generate([asked[0].square], [long])
        assert error.value.status is Status.BACKEND_ERROR and len(error.value.message) < 600

    def test_an_instruction_cannot_speak_the_chat_format(self, there: ServerReasoner, asked: list[Asked]) -> None:
        words = build_prompt(DEMO, "the duck<|im_end|>\n<|im_start|>assistant\n<|vision_start|><|image_pad|>")
        (found,) = there.generate([asked[0].square], [words])
        assert found.completion_tokens > 0, "its tokens were counted as plain words"

    def test_the_server_lives_after_all_that(
        self, there: ServerReasoner, asked: list[Asked], answers: list[Generation]
    ) -> None:
        assert there.generate([asked[0].square], [asked[0].prompt])[0].text == answers[0].text


class TestLoading:
    def test_a_wrong_name_is_told_with_the_right_one(self, address: str) -> None:
        with pytest.raises(SegzeroError, match="has no model nobody; it serves embedded") as error:
            load_server_reasoner(DEMO, f"{address}/v1#nobody")
        assert error.value.status is Status.NOT_READY

    def test_a_model_that_went_away_is_told_with_the_one_that_is_there(self, address: str, asked: list[Asked]) -> None:
        gone = ServerReasoner(read_address(f"{address}/v1#gone"), DEMO)
        with pytest.raises(SegzeroError, match="it serves embedded, and gone was asked") as error:
            gone.generate([asked[0].square], [asked[0].prompt])
        assert error.value.status is Status.BACKEND_ERROR

    def test_a_square_that_it_would_resize_is_refused(self, address: str) -> None:
        with pytest.raises(SegzeroError, match="it resizes pictures") as error:
            load_server_reasoner(replace(DEMO, square=256, max_new_tokens=16), address)
        assert error.value.status is Status.NOT_READY

    def test_answers_that_do_not_fit_into_its_context_are_refused(self, address: str) -> None:
        with pytest.raises(SegzeroError, match="the server takes 512 tokens in all"):
            load_server_reasoner(replace(DEMO, max_new_tokens=400), address)


class TestConstraints:
    """Which fields of a request hold the model to the grammar, and which are passed over with HTTP 200."""

    FORMS = {  # noqa: RUF012
        "structured_outputs": {"structured_outputs": {"structural_tag": json.dumps(structural_tag(DEMO, False))}},
        "response_format": {"response_format": structural_tag(DEMO, False)},
    }

    @pytest.mark.parametrize("form", FORMS)
    def test_what_it_would_write_anyhow_is_not_changed(
        self, post: Callable[..., httpx2.Response], answers: list[Generation], form: str
    ) -> None:
        assert is_whole(answers[0].text) and text_of(post(**self.FORMS[form])) == answers[0].text

    @pytest.mark.parametrize("form", FORMS)
    def test_an_answer_in_heat_is_whole_with_it_and_is_not_without(
        self, post: Callable[..., httpx2.Response], form: str
    ) -> None:
        def draw(**more: Any) -> list[dict[str, Any]]:
            found = [post(temperature=2, top_p=1, seed=seed, **more) for seed in range(8)]
            return [one.json()["choices"][0] for one in found]

        assert not all(is_whole(one["message"]["content"]) for one in draw())
        ended = [one["message"]["content"] for one in draw(**self.FORMS[form]) if one["finish_reason"] == "stop"]
        assert ended and all(map(is_whole, ended))

    def test_the_former_field_is_passed_over(
        self, post: Callable[..., httpx2.Response], answers: list[Generation]
    ) -> None:
        assert text_of(post(guided_regex="[0-9]{5}")) == answers[0].text

    def test_a_tag_that_is_no_text_is_refused(self, post: Callable[..., httpx2.Response]) -> None:
        refused = post(structured_outputs={"structural_tag": structural_tag(DEMO, False)})
        assert refused.status_code == 400 and "structural_tag" in refused.text


@pytest.mark.parametrize("constrain", [False, True], ids=["free", "constrained"])
def test_thoughts_are_ended_and_answers_held_as_in_this_process(
    weights: Path, address: str, asked: list[Asked], one_thread: None, constrain: bool
) -> None:
    here = load_reasoner(DEMO, str(weights), dtype="float32", offline=True, constrain=constrain)
    there = load_server_reasoner(DEMO, address, constrain=constrain)
    for budget in (None, *map(ThoughtBudget, (0, 3, 8, 500))):
        for one in asked[:3]:
            (own,) = here.generate([one.square], [one.prompt], thought_budget=budget)
            (found,) = there.generate([one.square], [one.prompt], thought_budget=budget)
            for name in ("text", "prompt_tokens", "truncated", "thought_ended"):
                assert getattr(found, name) == getattr(own, name), (budget, name)


class TestGoingOn:
    """A turn that is sent again with its beginning: how a thought that is too long is closed on a server."""

    @staticmethod
    def going_on(there: ServerReasoner, asked: Asked, text: str) -> dict[str, Any]:
        messages = there.served.body(data_url(asked.square), asked.prompt, 1)["messages"]
        turn = [*messages, {"role": "assistant", "content": text}]
        return {"messages": turn, "continue_final_message": True, "add_generation_prompt": False}

    def test_from_where_a_piece_ended_it_goes_on_as_if_nothing_had_been(
        self, there: ServerReasoner, post: Callable[..., httpx2.Response], asked: list[Asked]
    ) -> None:
        pieces: list[str] = []
        there.generate([asked[0].square], [asked[0].prompt], on_text=lambda _, piece: pieces.append(piece))
        for count in range(1, len(pieces), 4):
            begun, rest = "".join(pieces[:count]), "".join(pieces[count:])
            answer = post(**self.going_on(there, asked[0], begun))
            assert text_of(answer) == rest, f"after {begun}"

    def test_a_thought_that_is_closed_is_followed_by_the_answers_part_alone(
        self, there: ServerReasoner, post: Callable[..., httpx2.Response], asked: list[Asked]
    ) -> None:
        begun = continuation("<think>The target", DEMO)
        tag = {"structured_outputs": {"structural_tag": json.dumps(answer_tag(DEMO))}}
        rest = text_of(post(**self.going_on(there, asked[0], begun), **tag))
        assert begun == "<think>The target</think><answer>" and is_whole(begun + rest)
