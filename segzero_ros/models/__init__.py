"""From a checkpoint's name to a loaded model behind the core's `Reasoner` and `Segmenter`. Needs torch."""
