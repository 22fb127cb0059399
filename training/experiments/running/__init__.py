"""One run: its rows, its training, what it is asked, and the files that it leaves."""
