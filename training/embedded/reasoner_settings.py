"""What a training run of the embedded reasoner is given."""

from __future__ import annotations

from dataclasses import dataclass

from training.data.tabletop.instructions import KINDS


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
    reworded: float = 0.6  # share of the instructions in the words of training/data/tabletop/heard_wordings.py
    unheard: float = 0.25  # share of them among words that mean nothing
    understood: float = 0.0  # share of which only the thought's first sentence is learnt, what is meant
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
