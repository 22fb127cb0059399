"""From an instruction to the words that a checkpoint was trained with.

A published prompt is an interface constant, like a vocabulary: bit-exact, oddities included (sentences that touch,
single quotes in an example that the parser refuses). tests/test_core.py pins each by its hash.
"""

from __future__ import annotations

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.profile import Profile

MAX_CHARS = 2000

# dvlab-research/Seg-Zero (Apache-2.0), inference_scripts/infer.py, QUESTION_TEMPLATE and its Answer.
SEG_ZERO = (
    "Please find '{question}' with bbox and points."
    "Compare the difference between objects and find the most closely matched one."
    "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
    "Output the one bbox and points of two largest inscribed circles inside the interested object in JSON format."
    "i.e., <think> thinking process here </think>"
    "<answer>{'bbox': [10,100,200,210], 'points_1': [30,110], 'points_2': [35,180]}</answer>"
)

# JIA-Lab-research/VisionReasoner (Apache-2.0), vision_reasoner/models/vision_reasoner_model.py, DETECTION_TEMPLATE.
VISION_REASONER = (
    'Please find "{question}" with bboxs and points.'
    "Compare the difference between object(s) and find the most closely matched object(s)."
    "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
    "Output the bbox(es) and point(s) inside the interested object(s) in JSON format."
    "i.e., <think> thinking process here </think>"
    '<answer>[{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}, '
    '{"bbox_2d": [225,296,706,786], "point_2d": [302,410]}]</answer>'
)

# ysj9909/StAR (Apache-2.0), evaluation_scripts/evaluation_star.py, QUESTION_TEMPLATE of ReasonSeg and its Answer.
STAR = (
    'Please find "{question}" with bbox(es) and point(s). '
    "Also provide a short label for each object. "
    'First, understand and summarize what the query —"{question}"— is likely referring to (which object or concept). '
    "Then apply this to the image and find the matched target object(s). "
    "Return ALL matching instances; if there are no matches, return an empty list (<answer>[]</answer>). "
    "double-check none are missed. "
    "Output the thinking process in <think> </think> and final answer in <answer> </answer> tags. "
    "Output the bbox(es) and point(s) inside the interested object(s), along with a short label, in JSON format. "
    "i.e., <think> thinking process (step-by-step reasoning) here </think> "
    '<answer>[{"label": "chair", "bbox_2d": [10,100,200,210], "point_2d": [30,110]}, '
    '{"label": "train track", "bbox_2d": [225,296,706,786], "point_2d": [302,410]}]</answer>'
)

# The same, verl/utils/rl_dataset.py: what its two stages are trained with; neither says what to do without a match.
STAR_STAGE_2 = STAR.replace("if there are no matches, return an empty list (<answer>[]</answer>). ", "")
_FIRST, _RETURN = (STAR_STAGE_2.index(words) for words in ("First, understand", "Return ALL"))
STAR_STAGE_1 = (
    STAR_STAGE_2[:_FIRST]
    + "Compare the difference between object(s) and find the most closely matched object(s). "
    + STAR_STAGE_2[_RETURN:]
)

# Ours, for stock models.
SEGZERO = (
    'Look for every object in the image that answers this request: "{question}". '
    "First think: what is asked for, which objects could be meant, how they differ, and which of them match. "
    "Write your thoughts between <think> and </think>. Then write between <answer> and </answer> a JSON list with one "
    'entry per matching object: {"bbox_2d": [x_min, y_min, x_max, y_max], "point_2d": [x, y], "label": "short name"}, '
    "where the point lies on the object. Coordinates are relative to the image, from 0 to 1000. "
    "Write an empty list when nothing in the image matches."
)

# For ablations that name a prompt and do not print it: the published ones without the example, or without the thought.
_THINK = "Output the thinking process in <think> </think> and final answer in"
_THOUGHT = "<think> thinking process here </think>"


def _without_thought(template: str) -> str:
    return template.replace(_THINK, "Output the final answer in").replace(_THOUGHT, "")


TEMPLATES = {
    "seg-zero": SEG_ZERO,
    "seg-zero-without-example": SEG_ZERO.partition("i.e., ")[0],
    "seg-zero-without-thought": _without_thought(SEG_ZERO),
    "vision-reasoner": VISION_REASONER,
    "vision-reasoner-without-thought": _without_thought(VISION_REASONER),
    "star": STAR,
    "star-stage-1": STAR_STAGE_1,
    "star-stage-2": STAR_STAGE_2,
    "segzero": SEGZERO,
    "plain": "{question}",
}
# What the published code strips from both ends of a question, after lower-casing.
_STRIPPED = {
    **dict.fromkeys(("seg-zero", "seg-zero-without-example", "seg-zero-without-thought"), "."),
    **dict.fromkeys(("star-stage-1", "star-stage-2"), "."),
    **dict.fromkeys(("vision-reasoner", "vision-reasoner-without-thought", "star"), '."?!'),
    "plain": '."?! ',
}
_STRIPPED_IN_TRAINING = {name: "." if name != "plain" else strip for name, strip in _STRIPPED.items()}


def validate_instruction(text: str, max_chars: int = MAX_CHARS) -> str:
    """The instruction on one line, control characters and runs of white space folded to one space.

    Raises SegzeroError(BAD_INSTRUCTION) if nothing is left or it is longer than max_chars.
    """
    if not isinstance(text, str):
        raise SegzeroError(Status.BAD_INSTRUCTION, f"the instruction is a text, not a {type(text).__name__}")
    if len(text) > 16 * max_chars:
        raise SegzeroError(Status.BAD_INSTRUCTION, f"the instruction has {len(text)} characters; {max_chars} are taken")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not line:
        raise SegzeroError(Status.BAD_INSTRUCTION, "the instruction is empty")
    if len(line) > max_chars:
        raise SegzeroError(Status.BAD_INSTRUCTION, f"the instruction has {len(line)} characters; {max_chars} are taken")
    return line


def normalise_instruction(profile: Profile, instruction: str, *, training: bool = False) -> str:
    """As the profile's published code treats a question; our own profiles keep it as it is.

    training: as verl/utils/rl_dataset.py, which strips full stops alone where the evaluation strips more.
    """
    strip = (_STRIPPED_IN_TRAINING if training else _STRIPPED).get(profile.prompt)
    return instruction if strip is None else instruction.lower().strip(strip)


def build_prompt(profile: Profile, instruction: str, *, training: bool = False) -> str:
    """The user turn's text, without the image; training: as a checkpoint is trained and not used."""
    template = TEMPLATES.get(profile.prompt, profile.prompt)
    return template.replace("{question}", normalise_instruction(profile, instruction, training=training))
