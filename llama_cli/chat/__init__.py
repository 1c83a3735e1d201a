"""Talking with a model: dialogs, answers, and what is kept of them."""
