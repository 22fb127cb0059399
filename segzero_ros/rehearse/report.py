"""What was found, in lines for a person; and the verdict. Estimates are called so."""

from __future__ import annotations

from typing import Any

Found = dict[str, Any]
LENGTHS = (100, 300, 1024)  # tokens of the answers that are estimated
USUAL = 300  # tokens of a usual answer with its thought
_NAMES = {"vision": "vision tower", "prefill": "language prefill", "writing": "writing", "encode": "SAM encoder"}


def gb(count: int) -> str:
    return f"{count / 1e9:.1f}" if count >= 5e7 else f"{count / 1e9:.3f}"


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 0.1 else f"{value * 1e3:.1f} ms"


def machine_line(m: Found) -> str:
    line = f"machine: {m['processor']}, {m['cores']} cores, {m['threads']} threads, {gb(m['memory_free'])} GB free"
    if m["load"] > 0.5 * m["cores"]:
        line += f", BUSY with other work (load {m['load']:.1f}: all times are too long)"
    if "gpu" in m:
        free, total = gb(m["gpu_memory_free"]), gb(m["gpu_memory_total"])
        line += f"; {m['gpu']} (compute capability {m['compute_capability']}), {free} of {total} GB free"
    return f"{line}; torch {m['torch']}, transformers {m['transformers']}, Python {m['python']}; device {m['device']}"


def checkpoint_line(role: str, c: Found) -> str:
    weights = "random weights" if c["random"] else "its real weights"
    return f"{role}: {c['dimensions']}, {c['parameters'] / 1e6:,.1f} M parameters, {gb(c['bytes'])} GB, {weights}"


def need_line(n: Found) -> str:
    return (
        f"needs: {gb(n['memory'])} GB of memory in {n['dtype']} (weights {gb(n['weights'])}, keys and values "
        f"{gb(n['keys_and_values'])}, the rest {gb(n['work_estimated'])} estimated), {gb(n['memory_free'])} free; "
        f"{gb(n['disk'])} GB of disk, {gb(n['disk_free'])} free"
    )


def load_line(load: Found) -> str:
    on_gpu = f" (peak on the device {gb(load['peak'])})" if load["device"] != "cpu" else ""
    return (
        f"loaded in {seconds(load['seconds'])}: {load['dtype']}, attention {load['attention']}, on {load['device']}; "
        f"weights {gb(load['weights'])} GB{on_gpu}, process {gb(load['anonymous'])} GB of its own and "
        f"{gb(load['mapped'])} GB of mapped files"
    )


def answer_lines(a: Found) -> list[str]:
    rate = f"{a['tokens_per_second']:.1f} tokens/s" if a["tokens_per_second"] else "too short for a rate"
    read = f", {a['token_bytes'] / a['token'] / 1e9:.1f} GB/s of weights (computed)" if a["token"] else ""
    estimates = ", ".join(f"{n} tokens {seconds(s)}" for n, s in a["seconds_estimated"].items())
    return [
        f"first answer: {seconds(a['first_answer'])} for {a['prompt_tokens']} prompt tokens and "
        f"{a['completion_tokens']} written, memory beyond the weights {gb(a['first_answer_memory'])} GB",
        f"warm: square {seconds(a['square'])}, pixels {seconds(a['pixels'])}, vision tower {seconds(a['vision'])}, "
        f"language prefill {seconds(a['prefill'])}: first token after {seconds(a['first_token'])}",
        f"each token {seconds(a['token'])} = {rate}{read}",
        f"answers (estimated): {estimates}",
    ]


def encoding_lines(e: Found) -> list[str]:
    masks = ", ".join(f"{m['objects']} in {seconds(m['seconds'])} ({gb(m['memory'])} GB)" for m in e["masks"])
    return [
        f"SAM {e['width']} x {e['height']}: encode first {seconds(e['first'])}, then {seconds(e['seconds'])}, memory "
        f"{gb(e['memory'])} GB; objects: {masks}"
    ]


def end_lines(ends: list[Found]) -> list[str]:
    *cancels, late = ends
    said = ", ".join(f"{e['where']} {seconds(e['seconds'])} ({e['status']})" for e in cancels)
    return [
        f"ended after a cancel: {said}",
        f"{late['where']}, over within the vision tower: ended {seconds(late['seconds'])} late ({late['status']})",
    ]


def stream_line(s: Found) -> str:
    text = "no text" if s["first_text"] is None else f"first text after {seconds(s['first_text'])}"
    return f"streamed: {s['events']} events, {text}, ended {s['last']}"


def recovery_line(r: Found | None) -> str:
    if r is None:
        return "out of memory: not tried without a GPU that has memory of its own"
    return f"out of memory: with the device full {r['full']}, with room again {r['after']}"


def judge(run: Found) -> Found:
    """A usual answer with one object at 1080p (or the first size that was measured), and what takes most of it."""
    answers, encodings = run["answers"], run["encodings"]
    e = next((e for e in encodings if (e["width"], e["height"]) == (1920, 1080)), encodings[0])
    writing = (USUAL - 1) * answers["token"]
    shares = {
        "vision": answers["vision"],
        "prefill": answers["prefill"],
        "writing": writing,
        "encode": e["seconds"],
        "masks": e["masks"][0]["seconds"],
    }
    total = answers["first_token"] + writing + shares["encode"] + shares["masks"]
    slowest = max(shares, key=lambda name: shares[name])
    return {
        "tokens": USUAL,
        "picture": [e["width"], e["height"]],
        "objects": e["masks"][0]["objects"],
        "seconds_estimated": total,
        "bottleneck": _NAMES.get(slowest, slowest),
        "share": shares[slowest] / total,
    }


def judged_line(j: Found) -> str:
    objects = f"{j['objects']} object{'s' if j['objects'] > 1 else ''}"
    return (
        f"{seconds(j['seconds_estimated'])} (estimated) for an answer of {j['tokens']} tokens and {objects} at "
        f"{j['picture'][0]} x {j['picture'][1]}; most of it is {j['bottleneck']} ({100 * j['share']:.0f} %)"
    )


def verdict(runs: list[Found], lacks: str) -> Found:
    """fits, and the last line. With several settings each has its own part of the line."""
    if lacks:
        return {"fits": False, "verdict": f"does not fit: {lacks} (--anyway tries all the same)"}
    said = []
    for run in runs:
        asked = run["asked"]
        # Of one setting the load's line has said what it is.
        name = f"{asked['dtype']}, {asked['attention']}: " if len(runs) > 1 else ""
        said.append(name + (f"fits: {judged_line(run['judged'])}" if run["fits"] else f"does not fit: {run['fault']}"))
    return {"fits": all(run["fits"] for run in runs), "verdict": "; ".join(said)}
