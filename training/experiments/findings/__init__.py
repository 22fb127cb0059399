"""What the experiment's runs say: read, paired with the start and with each other, held against the article's claims.

Everything is computed from the files that runs leave (run_files.py) and rounded to DIGITS, so that the
same files give the same findings. Accuracies and IoU are shares from 0 to 1, KL is nats per answer.

Two intervals, both 95 %, that answer two questions. Over seeds: Student's t on the paired differences, one per seed:
would another training run say the same? Over items: percentile bootstrap of the mean over seeds, scenes drawn with
replacement, since items of one scene are no independent items: would another test set say the same of these runs?
"""
