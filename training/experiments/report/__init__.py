"""The report: tables, sentences and pictures from the findings, and the check that recomputes every number."""
