"""All figures of a run, from its records alone:

* parse_ok: share of answers that the parser accepts ("nothing matches" is an answer).
* box_acc, point_acc: over items with a target; an item's value is hits / max(objects predicted, objects true)
  under the best assignment; a box hits with IoU > 0.5, a point inside the mask of the object matched to it.
* giou, ciou: over items with a target, union of predicted masks against union of true masks; mean of the items'
  IoU, and sum of intersections over sum of unions (notation of the Seg-Zero paper).
* no_target_acc: share of items without a target that are answered by "nothing matches" (N-acc of gRefCOCO).
* t_acc: share of items with a target that are answered by an object (T-acc; an unreadable answer is none).
* n_acc_published: N-acc as VisionReasoner counts it, where an unreadable answer passes for "nothing matches".
* box_acc_lenient: box accuracy as VisionReasoner publishes it, over all items (training/measures/metrics.py).
* protocols: giou and ciou over all items, by each way of scoring that a published script has
  (training/measures/protocols.py). published: with `--parser published` those of the script that made the published
  figure, its own omissions made, by its name; of records from before scripts had names there is none.
* counting, detection: of the objects in answers (training/measures/metrics.py). counting_published: as VisionReasoner's
  library, where an unreadable answer has 0 objects (in records of the first form it counts 1, as in their time).
* sam_iou: the segmenter alone, from the true box and point, per object.
* sampled_*, best_of_n_*: with --samples, over single samples, and for the best sample of each item.
* left_out: rows that are right and no item, such as a category that is but a crowd in an image; in no figure.
* failed: items at which a model failed; wrong in all figures.
* unread: items whose image or truth could not be read, with the reason in their record. No model was asked, so figures
  are over the items read; if_unread_wrong has each as it is if the others were answered wrongly, the least that it can
  be. There an item whose truth is not known counts in every mean, and leaves ciou without a value.
* *_ci: 95 % bootstrap interval over items.

Where a published figure and ours are not the same thing:

* point_acc and Seg-Zero's table 11: no script of that figure is published. Ours looks at the first of an answer's two
  points, and counts it only inside the mask of the object whose box is matched.
* box_acc_lenient: where a published set has a column `bbox`, VisionReasoner's script compares with that box; here it is
  always the hull of the mask. Seg-Zero's evaluation_visionreasoner.py does not try the hull of all predicted boxes.
* detection: the published truth is COCO's own file, in which a box over a crowd is neither right nor wrong, and every
  image and category of the file counts. Here crowds are no objects, a box over one is wrong, and items asked count.
* voting: a sample at whose masks the segmenter fails has no vote here; StAR's counts it, with those made until then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from segzero_ros.core.published import SCRIPTS
from training.data.tabletop.instructions import KINDS
from training.evaluation.item_records import ANSWERED, READABLE
from training.measures import protocols
from training.measures.metrics import counting, detection_ap, interval, ratio_interval
from training.measures.records import Record

SIMPLE = ("category", "color", "color_category", "function")


def _series(records: Sequence[Record]) -> dict[str, list[float]]:
    """Of each accuracy the values of the items that are in it."""
    present = [r for r in records if not r["absent"]]
    return {
        "parse_ok": [float(r["status"] in ANSWERED) for r in records],
        "box_acc": [r["box_acc"] for r in present],
        "point_acc": [r["point_acc"] for r in present],
        "giou": [r["intersection"] / r["union"] if r["union"] else 0.0 for r in present if r["union"] is not None],
        "no_target_acc": [float(r["status"] == "NO_OBJECT") for r in records if r["absent"]],
    }


def _areas(records: Sequence[Record]) -> tuple[list[int], list[int]]:
    """Intersections and unions of the items with a target."""
    masked = [r for r in records if not r["absent"] and r["union"] is not None]
    return [r["intersection"] for r in masked], [r["union"] for r in masked]


def figures(records: Sequence[Record]) -> dict[str, Any]:
    """The accuracies of some records, with intervals."""
    out: dict[str, Any] = {"n": len(records)}
    for name, values in _series(records).items():
        out |= _mean(name, values)
    above, below = _areas(records)
    out["ciou"] = round(sum(above) / sum(below), 4) if sum(below) else None
    out["ciou_ci"] = ratio_interval(above, below) if sum(below) else None
    return out


def if_unread_wrong(records: Sequence[Record]) -> dict[str, Any]:
    """The accuracies, every unread item counted as a wrong answer; None where there is nothing to count."""
    known = [r for r in records if "absent" in r]
    lost = [0.0] * (len(records) - len(known))
    masked = [r for r in known if r["protocols"] is not None]
    series = _series(known) | {"t_acc": [float(r["status"] == "OK") for r in known if not r["absent"]]}
    areas = {"ciou": _areas(known)}
    for name in protocols.known_to([r["protocols"] for r in masked]):
        scored = [r["protocols"][name] for r in masked]
        series[f"giou {name}"] = [s["iou"] for s in scored]
        areas[f"ciou {name}"] = [s["intersection"] for s in scored], [s["union"] for s in scored]
    out = {name: round(float(np.mean(values + lost)), 4) if values else None for name, values in series.items()}
    for name, (above, below) in areas.items():
        out[name] = round(sum(above) / sum(below), 4) if sum(below) and not lost else None
    return out


def _mean(name: str, values: Sequence[float]) -> dict[str, Any]:
    return {
        name: round(float(np.mean(values)), 4) if values else None,
        f"{name}_ci": interval(values) if values else None,
    }


def summarise(settings: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """All figures of a run from its records alone."""
    every, records = records, [r for r in records if r["status"] != "LEFT_OUT"]
    read = [r for r in records if r["status"] != "UNREAD"]
    present, absent = [r for r in read if not r["absent"]], [r for r in read if r["absent"]]
    masked = [r for r in read if r["protocols"] is not None]
    failed = [r for r in read if r["status"] not in READABLE]
    tabletop = str(settings.get("data", "")).startswith("tabletop:")
    out = {
        key: settings[key]
        for key in ("profile", "data", "split", "seed", "parser", "script")
        if settings.get(key) is not None
    }
    out |= figures(read)
    out |= _mean("sam_iou", [v for r in read for v in r.get("sam_ious", ())])
    seconds = [r["seconds"] for r in read if "seconds" in r]
    out["latency_p50_ms"] = round(1000 * float(np.median(seconds)), 1) if seconds else None
    out["batch"] = settings.get("batch")
    out["failed"] = len(failed)
    out |= {"items": len(records), "read": len(read), "unread": len(records) - len(read)}
    out["left_out"] = len(every) - len(records)
    reasons = Counter(r["message"] for r in records if r["status"] == "UNREAD")
    out |= {"unread_reasons": dict(reasons.most_common(3)), "if_unread_wrong": if_unread_wrong(records)}
    out["statuses"] = dict(sorted(Counter(r["status"] for r in records).items()))
    known = protocols.known_to([r["protocols"] for r in masked])
    out["protocols"] = {p: protocols.summary([r["protocols"][p] for r in masked]) for p in known}
    own = protocols.of_script(settings.get("script", ""))
    if own in out["protocols"]:
        out["published"] = _published(settings["script"], own, out["protocols"][own])
    out["mended"] = dict(Counter(why for r in read for why in r.get("mended", ())).most_common(10))
    out["with_ignored_pixels"] = sum(r["ignored"] > 0 for r in read)
    out |= _mean("box_acc_lenient", [r["box_acc_lenient"] for r in masked])
    out |= _mean("t_acc", [float(r["status"] == "OK") for r in present])
    out |= _mean("n_acc_published", [float(r["status"] in ("NO_OBJECT", "PARSE_ERROR")) for r in absent])
    if read:
        true, said = [len(r["true_boxes"]) for r in read], [len(r["boxes"]) for r in read]
        out["counting"] = counting(said, true)
        unreadable = 0 if settings.get("form", 1) >= 2 else 1
        out["counting_published"] = counting(
            [n if r["status"] in ANSWERED else unreadable for n, r in zip(said, read, strict=True)], true
        )
    if present:
        items = [r | {"category": r["instruction"] if settings.get("categories") else "object"} for r in read]
        out["detection"] = detection_ap(items)
        out["detection_published"] = detection_ap(items, zero_without_target=True)
    sampled = [r["samples"] for r in present if "samples" in r]
    if sampled:
        out |= _mean("sampled_box_acc", [float(np.mean([s["box_acc"] for s in some])) for some in sampled])
        out |= _mean("best_of_n_box_acc", [max(s["box_acc"] for s in some) for some in sampled])
        valid = [s["status"] in ANSWERED for r in read for s in r.get("samples", ())]
        out["samples_readable"] = round(float(np.mean(valid)), 4)
    if tabletop:
        out["simple_box_acc"] = figures([r for r in read if r["kind"] in SIMPLE])["box_acc"]
    kinds = KINDS if tabletop else sorted({r["kind"] for r in read})
    out["kinds"] = {kind: figures([r for r in read if r["kind"] == kind]) for kind in kinds}
    return out


def _published(script: str, protocol: str, found: dict[str, Any]) -> dict[str, Any]:
    """The published script's own gIoU and cIoU."""
    values = {key.removeprefix("published_"): v for key, v in found.items() if key.startswith("published_")}
    return {"script": script, "source": SCRIPTS[script].source, "protocol": protocol, **values}


def table(summary: dict[str, Any]) -> str:
    """The figures for a terminal, a line for each protocol."""

    def shown(some: dict[str, Any], name: str) -> str:
        low_high = some.get(f"{name}_ci")
        return f"{some[name]} {list(low_high)}" if low_high else str(some[name])

    lines = []
    for name in ("parse_ok", "box_acc", "point_acc", "giou", "ciou", "no_target_acc", "t_acc", "sam_iou"):
        lines.append(f"{name:16} {shown(summary, name)}")
    lines.append(f"{'box_acc_lenient':16} {shown(summary, 'box_acc_lenient')}  (as VisionReasoner publishes it)")
    for name in ("sampled_box_acc", "best_of_n_box_acc"):
        if name in summary:
            lines.append(f"{name:16} {shown(summary, name)}")
    names = ("giou", "ciou", "published_giou", "published_ciou")
    lines.append(f"\n{'protocol':22} " + " ".join(f"{name:24}" for name in names) + " n, dropped")
    for protocol, some in summary["protocols"].items():
        values = " ".join(f"{shown(some, name):24}" for name in names)
        lines.append(f"{protocol:22} {values} {some['n']}, {some['dropped']}")
    if own := summary.get("published"):
        lines.append(f"as {own['source']}: giou {shown(own, 'giou')}, ciou {shown(own, 'ciou')}")
    lines.append(f"\nread {summary['read']} of {summary['items']} items, in batches of {summary['batch']}")
    if summary.get("left_out"):
        lines.append(f"left out: {summary['left_out']} rows that are right and no item (their records say why)")
    lines += [f"  {count} mended: {reason[:200]}" for reason, count in summary.get("mended", {}).items()]
    if summary["unread"]:
        lines += [f"  {count} unread: {reason[:200]}" for reason, count in summary["unread_reasons"].items()]
        lines.append(f"all figures are over those; if the other {summary['unread']} were wrong:")
        lines += [
            f"  {name:16} {'not known' if value is None else value}"
            for name, value in summary["if_unread_wrong"].items()
            if value is not None or name.startswith("ciou")
        ]
    lines.append("answers: " + ", ".join(f"{k} {v}" for k, v in summary["statuses"].items()))
    lines += [
        f"  {kind:14} box_acc {f['box_acc']} no_target {f['no_target_acc']}" for kind, f in summary["kinds"].items()
    ]
    return "\n".join(lines)
