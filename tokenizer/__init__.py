"""Text to ids and back. Knows nothing of models."""

from .base import EncodeError, StreamDecoder, Tokenizer, TokenizerError
from .char import CharTokenizer
from .loader import load_tokenizer

__all__ = ["CharTokenizer", "EncodeError", "StreamDecoder", "Tokenizer", "TokenizerError", "load_tokenizer"]
