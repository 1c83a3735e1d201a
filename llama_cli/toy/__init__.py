"""The bundled character-level model, and the program that trains such models."""
