"""Text for the wire: every string that leaves the process passes here."""

from __future__ import annotations


def clean(text: object) -> str:
    """A string that DDS, JSON and loggers can carry: no lone surrogates, no zero bytes.

    Names of files that are not UTF-8 reach Python with lone surrogates, and a model may write anything.
    """
    return str(text).encode("utf-8", "replace").decode("utf-8").replace("\0", " ")
