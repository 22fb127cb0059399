"""From annotated images to rows that a reasoner is trained on: read, check, filter, write, look.

The way of the data: a reader (`readers/`) -> `Sample` or named problems (`samples`) -> box and points (`objects`) ->
segmenter's agreement (`quality`) -> the published columns (`rows`) -> shards and the dataset on disk (`store`) -> a
page to look at (`page`). `prepare` is the command that does all of it.
"""
