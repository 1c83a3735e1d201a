"""JSONL in, JSONL out, resumable. No torch."""
