"""Readers: annotation files of others to a `Source` of samples, one module per format.

Each docstring gives the format's origin. A reader raises ValueError only for a file that it cannot read at all; what is
wrong with a single row becomes a named `Problem`.
"""
