"""The door of `accelerate launch -m training.train`; the run is in finetune/run.py."""

import sys

from training.finetune.run import main

if __name__ == "__main__":
    sys.exit(main())
