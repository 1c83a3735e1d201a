"""One model folder, or GGUF file, becomes another."""
