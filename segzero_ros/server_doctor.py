"""The command `segzero doctor --server URL`: whether a server's boxes can be trusted, and what else it does wrong.

Drawn pictures with known boxes go through the adapter that the node uses. Nothing here loads a model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from segzero_ros.core.answer import parse_answer
from segzero_ros.core.box_faults import find_box_fault
from segzero_ros.core.contract import Box, Generation, Sampling, SegzeroError, Status
from segzero_ros.core.geometry import box_iou
from segzero_ros.core.known_pictures import KnownPicture, draw_known_pictures
from segzero_ros.core.profile import Profile
from segzero_ros.core.prompt import build_prompt
from segzero_ros.core.text import one_line
from segzero_ros.models.reasoner_server import ServerReasoner
from segzero_ros.models.server_address import KEY, read_address
from segzero_ros.models.server_failures import ServerError
from segzero_ros.models.server_probes import Constraint, Leaving, ServerProbe, TimeLimit

Line = tuple[str, str, str]  # "ok", "note" or "bad"; what; advice

GOOD, TIGHT = 0.5, 0.8  # IoU from which a box counts as right, and mean from which all are as shapes so plain allow
EACH = 120.0  # seconds for a request, at most
MANY = 8  # tokens from which a text says something about streams and speeds
WIDE = 4096  # coordinates that are read before a fault of scale is looked for
_FAILURES = (OSError, ValueError, RuntimeError)  # a server's answers are hostile, and this command must end in a line


@dataclass(frozen=True)
class Asked:
    """What came for a picture. pieces: when each came; began, ended: seconds on the same clock."""

    picture: KnownPicture
    found: Generation
    began: float
    pieces: tuple[float, ...]
    ended: float

    @property
    def first(self) -> float:
        return (self.pieces[0] if self.pieces else self.ended) - self.began

    @property
    def whole(self) -> float:
        return self.ended - self.began


def check_server(url: str, profile: Profile, seconds: float) -> Iterator[Line]:
    """seconds: for all of it. Raises nothing but what a keyboard does."""
    limit = TimeLimit(min(EACH, seconds), seconds)
    try:
        reasoner = ServerReasoner(read_address(url), profile, silence=limit.each + 10)
        with limit.flag() as flag:
            reasoner.connect(flag)
    except SegzeroError as error:
        yield "bad", f"connection: {error.message}", _advice_for(error, profile)
        return
    room = f"max_model_len {reasoner.context}" if reasoner.context else "max_model_len is not told"
    yield "ok", f"connection: {one_line(reasoner.model, 100)} at {reasoner.client.address.base}; {room}", ""
    if profile.adapter:
        advice = f"start it with {one_line(profile.adapter, 100)}, or on a folder with it merged"
        yield "note", f"connection: profile {profile.name} wants an adapter, which only the server knows", advice
    refusal = ""
    try:
        with limit.flag() as flag:
            reasoner.calibrate(flag)
    except SegzeroError as error:
        refusal = error.message
        yield "bad", f"prompt tokens: {refusal}", _advice_for(error, profile)
        if isinstance(error, ServerError) or error.status is Status.TIMEOUT:
            return
    try:
        asked = [_ask(reasoner, picture, limit) for picture in draw_known_pictures(profile.square)]
    except SegzeroError as error:
        if error.message != refusal:
            yield "bad", f"answers: {error.message}", _advice_for(error, profile)
        return
    yield check_boxes(asked, profile)
    yield check_counts(asked, reasoner) if not refusal else _weigh_refusal(asked, profile)
    probe = ServerProbe(reasoner.client, reasoner.model, profile, limit)
    yield from _tried("thought", lambda: check_thought(asked, profile, probe.thought_field))
    yield from check_stream(asked)
    yield from _tried("constraint", lambda: judge_constraint(probe.try_constraint(), profile))
    yield from _tried("thought budget", lambda: check_begun_turn(reasoner, limit))
    yield from _tried("cancel", lambda: judge_leaving(probe.try_leaving()))
    yield from _tried("seeds", lambda: check_seeds(reasoner, asked[0].picture, limit))


def _tried(name: str, check: Callable[[], Line]) -> Iterator[Line]:
    try:
        yield check()
    except SegzeroError as error:
        over = error.status is Status.TIMEOUT
        advice = "--timeout gives it more time" if over else "the boxes above are not touched by this"
        yield ("note" if over else "bad"), f"{name}: unknown, {error.message}", advice
    except _FAILURES as error:
        yield "note", f"{name}: unknown, {one_line(f'{type(error).__name__}: {error}', 200)}", ""


def _ask(reasoner: ServerReasoner, picture: KnownPicture, limit: TimeLimit) -> Asked:
    """Asked once more without the adapter's count where the count is wrong: the box may be right all the same."""
    try:
        return _ask_once(reasoner, picture, limit)
    except SegzeroError as error:
        if reasoner.expected is None or isinstance(error, ServerError) or error.status is Status.TIMEOUT:
            raise
        expected, reasoner.expected = reasoner.expected, None
        try:
            return _ask_once(reasoner, picture, limit)
        finally:
            reasoner.expected = expected


def _ask_once(reasoner: ServerReasoner, picture: KnownPicture, limit: TimeLimit) -> Asked:
    pieces: list[float] = []
    began = time.perf_counter()
    prompt = build_prompt(reasoner.profile, picture.instruction)
    with limit.flag() as flag:
        (found,) = reasoner.generate(
            [picture.image], [prompt], cancel=flag, on_text=lambda *_: pieces.append(time.perf_counter())
        )
    return Asked(picture, found, began, tuple(pieces), time.perf_counter())


def check_counts(asked: Sequence[Asked], reasoner: ServerReasoner) -> Line:
    """What the server counted, beside what the load found that it must count."""
    assert reasoner.expected is not None
    counted = [a.found.prompt_tokens for a in asked]
    bounds = [reasoner.expected.bounds(build_prompt(reasoner.profile, a.picture.instruction)) for a in asked]
    shown = [f"{low}" if low == high else f"{low} to {high}" for low, high in bounds]
    what = f"prompt tokens: {_each(counted)} counted for the drawn pictures, {_each(shown)} expected"
    if any(not low <= n <= high for n, (low, high) in zip(counted, bounds, strict=True)):
        return "bad", what, "the server resizes or drops pictures, or cuts prompts: see its min_pixels and max_pixels"
    return "ok", what, "" if reasoner.expected.is_exact else "`tokenizer` in the profile makes this exact"


def _weigh_refusal(asked: Sequence[Asked], profile: Profile) -> Line:
    """A wrong count is the sign of a picture that was resized; the boxes say whether it was."""
    if all(_iou(a, profile) >= GOOD for a in asked):
        what = "prompt tokens: the boxes are right all the same: it seems to count in a way of its own"
        return (
            "note",
            what,
            "a server whose counts are wrong is not taken as reasoner: nothing else tells a shifted box",
        )
    return "note", "prompt tokens: the boxes are wrong, too", ""


def _each(values: Sequence[object]) -> str:
    """Once, where all are equal."""
    return ", ".join(str(v) for v in (values[:1] if len(set(values)) == 1 else values))


def check_boxes(asked: Sequence[Asked], profile: Profile) -> Line:
    ious = [_iou(a, profile) for a in asked]
    mean = statistics.mean(ious)
    each = ", ".join(
        f"{a.picture.instruction.removeprefix('the ')} {iou:.2f}" for a, iou in zip(asked, ious, strict=True)
    )
    what = f"boxes: mean IoU {mean:.2f} on {len(asked)} drawn pictures ({each})"
    pairs = [(_in_units(a.picture.box, profile), box) for a in asked if (box := _raw_box(a.found.text, profile))]
    if fault := find_box_fault([true for true, _ in pairs], [found for _, found in pairs], profile):
        return "bad", f"{what}: they are {fault.what}", fault.advice
    if min(ious) >= GOOD and mean >= TIGHT:
        return "ok", what, ""
    if min(ious) >= GOOD:
        advice = (
            "looser than shapes so plain should be: is the model quantised, or computed otherwise than it was trained?"
        )
        return "note", what, advice
    worst = asked[ious.index(min(ious))]
    said = f"for {worst.picture.instruction} it wrote: {one_line(worst.found.text, 160) or 'nothing'}"
    if mean >= GOOD:
        return "note", what, said
    if len(pairs) < len(asked) / 2:
        what += f": {len(asked) - len(pairs)} answers have no box"
        return "bad", what, f"is {profile.name} the profile of the checkpoint that is served? {said}"
    return (
        "bad",
        f"{what}: no swap, mirror, scale or shift explains them",
        f"was the checkpoint trained to point? {said}",
    )


def _iou(asked: Asked, profile: Profile) -> float:
    """Of the first object of the answer, as a robot would get it."""
    boxes = [c.box for c in parse_answer(asked.found.text, profile).candidates if c.box]
    return box_iou(_in_units(asked.picture.box, profile), boxes[0]) if boxes else 0.0


def _in_units(box: Box, profile: Profile) -> Box:
    factor = profile.extent / profile.square
    a, b, c, d = (v * factor for v in box)
    return a, b, c, d


def _raw_box(text: str, profile: Profile) -> Box | None:
    """The first box of a text as it was written, also where it leaves the picture."""
    wide = replace(profile, coordinates="pixels", square=WIDE) if profile.reader == "json" else profile
    return next((c.box for c in parse_answer(text, wide).candidates if c.box), None)


def check_thought(asked: Sequence[Asked], profile: Profile, field: Callable[[], str]) -> Line:
    thoughts = [parse_answer(a.found.text, profile).reasoning for a in asked]
    if not any(thoughts):
        return "ok", "thought: none is written", ""
    name = field()
    where = f"the field {name}" if name else "the content, between tags"
    return "ok", f"thought: in {where}, {statistics.mean(map(len, thoughts)):.0f} characters on average", ""


def check_stream(asked: Sequence[Asked]) -> Iterator[Line]:
    """Whether pieces come as they are written, and how fast."""
    told = [a for a in asked if a.pieces and a.found.completion_tokens >= MANY]
    if not told:
        yield "note", f"streaming: unknown, the answers have fewer than {MANY} tokens", ""
        return
    tokens, pieces = sum(a.found.completion_tokens for a in told), sum(len(a.pieces) for a in told)
    first = statistics.median(a.first for a in told)
    whole = statistics.median(a.whole for a in told)
    prompt = statistics.median(a.found.prompt_tokens for a in told)
    what = f"streaming: {pieces} pieces for {tokens} tokens, the first after {first:.3g} of {whole:.3g} s"
    advice = "all is sent at the end: a proxy between keeps it (nginx: proxy_buffering off), or the server writes whole"
    if held := is_held_back(told):
        yield "bad", what, f"{advice} answers"
    else:
        yield "ok", what, ""
    writing = [a.whole if held else a.pieces[-1] - a.pieces[0] for a in told]
    speed = (tokens - (0 if held else len(told))) / max(sum(writing), 1e-9)
    rest = (
        "in all" if held else f"behind it; a prompt of {prompt:.0f} is read at {prompt / max(first, 1e-9):.0f} a second"
    )
    yield "ok", f"speed: {speed:.0f} tokens a second {rest}", ""


def is_held_back(told: Sequence[Asked]) -> bool:
    """Whether texts of many tokens come in few pieces, or all pieces together at the end of a wait."""
    if sum(len(a.pieces) for a in told) * MANY < sum(a.found.completion_tokens for a in told):
        return True
    shares = [(a.pieces[-1] - a.pieces[0]) / max(a.whole, 1e-9) for a in told]
    return statistics.median(shares) < 0.05 and statistics.median(a.whole for a in told) > 0.2


def judge_constraint(found: Constraint, profile: Profile) -> Line:
    needed = "bad" if profile.constrain else "note"
    if found.obeyed and found.own is False:
        advice = "leave `constrain` off; the server's grammar library is too old or another one (vLLM: xgrammar)"
        return needed, f"constraint: obeyed, but not the grammar of profile {profile.name}", advice
    if found.obeyed:
        whole = "" if found.own else "; the profile's own grammar was not tried to its end"
        return "ok", f"constraint: obeyed{whole}", ""
    advice = "`constrain: true` would fail here; vLLM 0.31 with xgrammar obeys it"
    if found.refusal:
        return needed, f"constraint: refused: {found.refusal}", advice
    said = one_line(found.text, 60) or "nothing"
    advice = "`constrain: true` would have no effect here; vLLM 0.31 with xgrammar obeys it"
    return needed, f"constraint: ignored without a word; against it was written: {said}", advice


def check_begun_turn(reasoner: ServerReasoner, limit: TimeLimit) -> Line:
    """Whether it goes on where a turn was begun, with which a thought is ended."""
    try:
        with limit.flag() as flag:
            reasoner.try_begun_turn(flag)
    except SegzeroError as error:
        if error.status is Status.TIMEOUT:
            raise
        mark = "bad" if reasoner.profile.constrain else "note"
        return mark, f"thought budget: {error.message}", "`thought_budget` and `constrain: true` would fail here"
    return "ok", "thought budget: the server goes on with a turn that was begun", ""


def judge_leaving(found: Leaving) -> Line:
    """By the server's own count where it has one, else by how long the next request waits."""
    if found.running:
        during, last = found.running
        if last >= during:
            advice = "a cancelled request keeps its place: is there a proxy that does not pass on a closed connection?"
            return "bad", f"cancel: ignored, /metrics still counts {last:.0f} running", advice
        return "ok", f"cancel: the server stops when the connection closes (/metrics: {during:.0f} to {last:.0f})", ""
    after = f"the next request took {found.after:.3g} s, {found.one:.3g} s without one before"
    if found.rest < 4 * found.one + 0.2:
        return "note", f"cancel: unknown, its long answer ended within {found.rest:.3g} s; {after}", ""
    if found.beside < 0.5 * found.rest:
        advice = "with /metrics it can be known (vLLM has them, SGLang: --enable-metrics, llama.cpp: --metrics)"
        return "note", f"cancel: unknown, since this server answers several at once; {after}", advice
    if found.after < 2 * found.one + 0.3 * found.rest:
        return "ok", f"cancel: the server stops when the connection closes; {after}", ""
    advice = "a cancelled request is written to its end: is there a proxy that does not pass on a closed connection?"
    return "bad", f"cancel: ignored; {after}", advice


def check_seeds(reasoner: ServerReasoner, picture: KnownPicture, limit: TimeLimit) -> Line:
    """Two texts of one seed, and one of another."""

    def draw(seed: int) -> str:
        prompt = build_prompt(reasoner.profile, picture.instruction)
        with limit.flag() as flag:
            (found,) = reasoner.generate(
                [picture.image], [prompt], cancel=flag, sampling=Sampling(2.0, 1.0, seed), max_new_tokens=24
            )
        return found.text

    reasoner.expected = None  # told above
    first, again, other = draw(1), draw(1), draw(2)
    if first != again:
        advice = "votes by seed differ from run to run; greedy answers do not"
        return "note", "seeds: one seed gave two texts", advice
    if first == other:
        return "note", "seeds: two seeds gave one text at a temperature of 2", "sampling seems to be ignored"
    return "ok", "seeds: one seed gives one text, another gives another", ""


def _advice_for(error: SegzeroError, profile: Profile) -> str:
    """The sentence says what is wrong already; this is what to change."""
    code = error.code if isinstance(error, ServerError) else None
    if code in (401, 403):
        return f"export {KEY}=... with the key that the server was started with"
    if "cannot be reached" in error.message:
        return f"start it, such as with `segzero serve {profile.name}`; does the URL have its port?"
    if code == 0:
        return "see the server's own log, and that of a proxy between"
    if code in (429, 503):
        return "wait until it has loaded, and ask again"
    if code in (400, 422):
        return f"start it with other limits, such as those of `segzero serve {profile.name}`"
    if code is not None or "list of models" in error.message or "page" in error.message:
        return "the URL is http://HOST:PORT/v1, as `segzero serve` prints it"
    if "choose one" in error.message:
        return "put the name behind the URL; an adapter has the profile's own"
    if error.status is Status.TIMEOUT:
        return "see the server's own log; --timeout gives it more time"
    if "resizes" in error.message:
        side = profile.square
        return (
            f'vLLM: --mm-processor-kwargs \'{{"min_pixels": {min(3136, side**2)}, "max_pixels": {side**2}}}\','
            f" as `segzero serve {profile.name}` does"
        )
    return "docs/servers.md has how servers are started"
