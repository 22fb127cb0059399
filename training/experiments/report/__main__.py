"""The experiment's report from what its runs left: tabletop.md, its numbers in report.json, and pictures.

    python -m training.experiments.report                             # reads results/tabletop/runs, writes results
    python -m training.experiments.report ... --root build/tabletop   # also writes down what was asked, draws items
    python -m training.experiments.report ... --check                 # recomputes every number; 1 if one differs

Written are OUT/tabletop.md and OUT/tabletop/{report.json,*.png}. With --root also OUT/tabletop/asked.json.gz: every
test item's instruction and true boxes, taken from the scenes only if they give the sets' sha256 again, and how many
images the splits share. Where that file is, --check also judges every recorded text anew by the truth.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training.experiments.plan import PLAN, RESULTS, plan_of
from training.experiments.report.check import check
from training.experiments.report.write import write


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m training.experiments.report", description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="what the runs left")
    parser.add_argument("--out", type=Path, default=Path("training/experiments/results"))
    parser.add_argument("--plan", type=Path, default=PLAN, help="JSON; which runs there should be")
    parser.add_argument("--smoke", action="store_true", help="the runs are those of `reproduce --smoke`")
    parser.add_argument("--root", type=Path, help="scenes: for the items that were asked and their pictures")
    parser.add_argument("--check", action="store_true", help="write nothing; recompute every number")
    a = parser.parse_args(argv)
    try:
        plan = plan_of(a.plan, a.smoke)
        if not a.check:
            print(write(a.results, a.out, plan, a.root))
            return 0
        wrong = check(a.results, a.out, plan)
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    for line in wrong[:50]:
        print(line, file=sys.stderr)
    again = "and every text judged anew" if (a.out / "tabletop" / "asked.json.gz").exists() else "texts not judged anew"
    print(f"{len(wrong)} differences" if wrong else f"every number is that of the records, {again}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
