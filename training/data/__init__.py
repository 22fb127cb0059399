"""From annotated images to rows that a reasoner is trained on: read, check, filter, write, look."""
