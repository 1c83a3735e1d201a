"""The bundled character-level model, and the program that trains such models."""

from pathlib import Path

FOLDER = Path(__file__).parent
