"""What a model is, from its headers alone: configuration, parameters, tokenizer, memory. No torch."""

from __future__ import annotations

from tokenizer import TokenizerError
from tokenizer.loader import kind_of

from .checkpoint.headers import Headers
from .model.args import Configuration, read_configuration


def configure(headers: Headers, *, rope_scale_factor: float | None = None) -> Configuration:
    """The effective configuration, as a loading command would have it."""
    return read_configuration(
        headers.params,
        source=headers.params_name,
        vocab_size=headers.vocab_size,
        llama2=_is_sentencepiece(headers),
        rope_scale_factor=rope_scale_factor,
    )


def _is_sentencepiece(headers: Headers) -> bool:
    try:
        return headers.tokenizer is not None and kind_of(headers.tokenizer) == "sentencepiece"
    except TokenizerError:
        return False
