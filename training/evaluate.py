"""The door of `python -m training.evaluate`; the evaluation is in evaluation/."""

import sys

from training.evaluation.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
