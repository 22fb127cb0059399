"""What arms, sets and logged quantities are called in tables and pictures, and the colours of arms."""

from __future__ import annotations

LABELS = {
    "start_think": "start, with thought",
    "start_answer": "start, without thought",
    "sft_answer": "SFT, answers",
    "sft_thought": "SFT, template thoughts",
    "sft_own": "SFT, own samples",
    "grpo_answer": "GRPO, without thought",
    "grpo_thought": "GRPO, with thought",
    "grpo_random": "GRPO, random reward",
    "start_majority_of_8": "start, majority of 8",
    "start_best_of_8": "start, best of 8 (by the truth)",
    "start_undenied": "start, not allowed to deny",
    "soft_accuracy": "GRPO, soft accuracy",
    "kl_x10": "GRPO, KL weight x 10",
    "n_4": "GRPO, n = 4",
    "sft_answer_compute": "SFT, answers, equal compute",
    "sft_thought_compute": "SFT, template thoughts, equal compute",
    "grpo_thought_cool": "GRPO, temperature 0.5",
    "grpo_thought_slow": "GRPO, with thought, 3e-5",
    "sft_thought_slow": "SFT, template thoughts, 3e-5",
    "grpo_random_slow": "GRPO, random reward, 3e-5",
    "thought_kept": "thought kept",
    "thought_emptied": "thought emptied",
    "thought_swapped": "another item's thought",
    "thought_without_coordinates": "thought without coordinates",
}
NAMES = {"id": "ID", "retained": "RETAINED", "novel": "NOVEL", "questions": "questions", "no_target": "no-target"}
COLORS = {
    "start_think": "#222222",
    "start_answer": "#222222",
    "sft_answer": "#d95f02",
    "sft_thought": "#e0a500",
    "sft_own": "#8c4a10",
    "grpo_answer": "#3b8bd0",
    "grpo_thought": "#0b7a55",
    "grpo_random": "#8a8a8a",
    "soft_accuracy": "#7a5fc0",
    "kl_x10": "#d6408f",
    "n_4": "#7fae1e",
    "sft_answer_compute": "#b0301c",
    "sft_thought_compute": "#9c8a00",
    "grpo_thought_cool": "#4fd0c0",
    "grpo_thought_slow": "#97c95a",
    "sft_thought_slow": "#f2d16b",
    "grpo_random_slow": "#c4c4c4",
}
PANELS = (
    ("reward", "reward of training (every profile its own scale)"),
    ("eval_reward", "reward, greedy validation"),
    ("eval_rewards/accuracy", "accuracy term, greedy validation"),
    ("kl", "KL to the start, nats per token"),
    ("entropy", "entropy, nats per token"),
    ("completions/mean_length", "tokens of an answer"),
    ("completions/clipped_ratio", "share cut off"),
    ("frac_reward_zero_std", "share of groups without spread"),
    ("grad_norm", "gradient norm"),
    ("loss", "loss"),
)


def label(name: str) -> str:
    return LABELS.get(name, name)


def color(name: str) -> str:
    return COLORS.get(name, "#bbbbbb")
