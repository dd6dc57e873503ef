"""Judging results: comparisons, ranks, and what a study found. Needs no torch."""
