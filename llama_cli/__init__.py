"""Run Meta's native Llama checkpoints."""

__version__ = "0.1.0"
