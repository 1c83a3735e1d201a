"""Run Meta's native Llama checkpoints.

    import llama_cli

    llm = llama_cli.load("~/.llama/checkpoints/Llama3.2-1B")
    for chunk in llm.stream(["Once upon a time"], llama_cli.Sampling(max_tokens=64)):
        print(chunk.text, end="", flush=True)
    answers = llm.complete(["Hello", "Bonjour"])  # the same, whole
    answer = llm.chat([{"role": "user", "content": "Hello"}])  # chunks as they come; llm.submit takes a prompt

`Session` is the old name of `LLM`. The names below are imported when they are first used, since torch takes seconds to
load.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answers.completion import Chunk, Completion, Prompt
    from .answers.stream import Stream
    from .engine.request import Sampling
    from .errors import LlamaError
    from .llm import LLM, Session
    from .loader import load

__version__ = "0.1.0"

__all__ = ["LLM", "Chunk", "Completion", "LlamaError", "Prompt", "Sampling", "Session", "Stream", "load"]

_HOMES = {
    "load": "loader",
    "LLM": "llm",
    "Session": "llm",
    "Sampling": "engine.request",
    "LlamaError": "errors",
    "Stream": "answers.stream",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES.get(name, 'answers.completion')}", __name__), name)
