"""Text to ids and back. Knows nothing of models."""

from .base import EncodeError, StreamDecoder, Tokenizer, TokenizerError, decode_text, names_of
from .char import CharTokenizer
from .loader import load_tokenizer

__all__ = [
    "CharTokenizer",
    "EncodeError",
    "StreamDecoder",
    "Tokenizer",
    "TokenizerError",
    "decode_text",
    "load_tokenizer",
    "names_of",
]
