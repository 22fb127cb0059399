"""Seg-Zero's claims in small: `make reproduce`. tabletop.md says what is asked and how it is decided."""
