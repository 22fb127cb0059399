"""`segzero rehearse PROFILE`: random weights of the real dimensions, loaded and timed as the real ones would be."""

from pathlib import Path

ARCHITECTURES = Path(__file__).with_name("architectures")  # reasoners/NAME.json, segmenters/NAME.json
