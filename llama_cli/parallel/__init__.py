"""Several processes that share a model or its prompts."""
