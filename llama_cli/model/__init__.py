"""The transformer: pure torch, no files, no text."""
