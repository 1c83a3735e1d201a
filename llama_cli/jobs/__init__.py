"""Rows in, rows out, resumable: batch and score on one runner."""
