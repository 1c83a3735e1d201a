"""Answers as text: chunks as they are made, and whole."""
