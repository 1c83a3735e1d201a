"""GGUF files of Llama models: the only file that imports the package gguf, the extra of that name.

Rows of wq and wk are taken as they lie: llama.cpp's converter has put them back into Meta's order for this
architecture, whatever Hugging Face's was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor

from ..checkpoint.naming import Naming
from ..checkpoint.params import read_params
from ..errors import ModelRejected
from ..files.foreign import DOWNLOAD_AGAIN
from ..files.pages import drop_pages
from ..files.quoting import plain, quote
from ..files.regular_file import Identity, ensure_unchanged, identify, read_head, read_small
from ..model.args import ModelArgs
from ..model.weights import EMBEDDING, OUTPUT, weight_shapes, weights_of
from ..tokenizer.distribution import install_line
from ..tokenizer.marks import Marks
from .gguf_metadata import GIVE_LLAMA, TokenizerFiles, ends_of, params_from, template_of, tokenizer_from
from .source import MAX_TOKENIZER_BYTES, is_sentencepiece, tokenizer_name

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

MAGIC = b"GGUF"
NAMES = Naming(
    "blk.",
    {
        "tok_embeddings": "token_embd",
        "attention.wq": "attn_q",
        "attention.wk": "attn_k",
        "attention.wv": "attn_v",
        "attention.wo": "attn_output",
        "feed_forward.w1": "ffn_gate",
        "feed_forward.w2": "ffn_down",
        "feed_forward.w3": "ffn_up",
        "attention_norm": "attn_norm",
        "ffn_norm": "ffn_norm",
        "norm": "output_norm",
        "output": "output",
    },
)
ROPE_FACTORS = "rope_freqs.weight"
DTYPES = {"F32": torch.float32, "F16": torch.float16}  # all others become bfloat16

MEAN_ROWS = 4096  # of a matrix at a time


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF does."""
    return path.is_file() and read_head(path, len(MAGIC)) == MAGIC


@dataclass(frozen=True)
class GgufSource:
    """One GGUF file, read row by row and dequantized; with rows in a new order if tokens got other ids."""

    path: Path
    identity: Identity
    args: ModelArgs
    dtype: torch.dtype
    tensors: Mapping[str, ReaderTensor]  # by Meta's name
    name: str
    tokenizer: TokenizerFiles

    @property
    def is_tied(self) -> bool:
        """Whether the output matrix is the embedding: not where tokens got new ids.

        A token with two of them is read under both and predicted under one, so the matrices differ.
        """
        return OUTPUT not in self.tensors and self.tokenizer.vocabulary is None

    @property
    def small_files(self) -> Mapping[str, bytes]:
        return self.tokenizer.small_files

    @property
    def marks(self) -> Marks:
        return self.tokenizer.marks

    @property
    def template(self) -> str | None:
        return self.tokenizer.template

    @property
    def quantization(self) -> None:
        return None

    @property
    def embedding_dim(self) -> int:
        return int(is_sentencepiece(self.small_files))

    def rows(self, name: str, begin: int, end: int) -> Tensor:
        vocabulary = self.tokenizer.vocabulary
        if vocabulary is None or name not in (EMBEDDING, OUTPUT):
            return self._stored(name, slice(begin, end))
        wanted = vocabulary.input_rows if name == EMBEDDING else vocabulary.output_rows
        stored_name = name if name in self.tensors else EMBEDDING
        numbers = wanted[begin:end]
        rows = self._stored(stored_name, [number or 0 for number in numbers])
        absent = torch.tensor([number is None for number in numbers])
        rows[absent] = self._mean_rows[stored_name]
        return rows

    def ensure_unchanged(self) -> None:
        ensure_unchanged(self.path, self.identity)

    def _stored(self, name: str, which: slice | Sequence[int]) -> Tensor:
        """Rows as the file has them, in float32."""
        from gguf import dequantize

        tensor = self.tensors[name]
        values = numpy.array(dequantize(tensor.data[which], tensor.tensor_type), dtype=numpy.float32)
        drop_pages([self.path])
        return torch.from_numpy(values)

    @cached_property
    def _mean_rows(self) -> dict[str, Tensor]:
        """The row (dim,) for a token that the source does not have, of each matrix: the mean of its rows.

        In the output matrix it gives such a token the mean of all logits, which is never the largest.
        """
        means = {}
        for name in {EMBEDDING, OUTPUT} & self.tensors.keys():
            n_rows = len(self.tensors[name].data)
            starts = range(0, n_rows, MEAN_ROWS)
            sums = [self._stored(name, slice(start, start + MEAN_ROWS)).double().sum(0) for start in starts]
            means[name] = (torch.stack(sums).sum(0) / n_rows).float()
        return means


def open_gguf(path: Path, tokenizer: Path | None = None, *, keep_ids: bool = False) -> GgufSource:
    """Open a GGUF file and check it; ModelRejected says what is wrong with it.

    `keep_ids`: tokens keep their ids, in whatever order they are, as Hugging Face's folders can have them.
    """
    identity = identify(path)
    reader = _read(path)
    try:
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except Exception:  # texts that are no UTF-8, arrays of arrays
        raise _damaged(path) from None
    tensors, factors = _by_metas_names(path, reader.tensors)
    _check_types(path, reader.tensors)
    n_rows = int(tensors[EMBEDDING].shape[-1]) if EMBEDDING in tensors else 0
    params = params_from(plain(path.name), fields, factors)
    if tokenizer is not None:
        given = {tokenizer_name(tokenizer): read_small(tokenizer, MAX_TOKENIZER_BYTES)}
        files = TokenizerFiles(given, Marks(stop_ids=ends_of(fields)), template_of(fields))
    else:
        files = tokenizer_from(plain(path.name), fields, n_rows, keep_ids=keep_ids)
    vocab_size = len(files.vocabulary.input_rows) if files.vocabulary else n_rows
    args = read_params(params | {"vocab_size": vocab_size}, source=plain(path.name))
    _check_shapes(path, tensors, args, n_rows)
    matrices = [name for name, spec in weights_of(args).items() if spec.role != "norm" and name in tensors]
    kinds = {tensors[name].tensor_type.name for name in matrices}
    dtype = DTYPES.get(kinds.pop(), torch.bfloat16) if len(kinds) == 1 else torch.bfloat16
    return GgufSource(path, identity, args, dtype, tensors, path.stem, files)


def _read(path: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ModelRejected(
            f"{plain(path.name)} is a GGUF file, and the package that reads it is not installed",
            install_line("gguf"),
        ) from None

    class BoundedReader(GGUFReader):
        """Stops at the file's end: the library takes a count for what it says, and reads on in nothing."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            if int(offset) + int(count) * numpy.dtype(dtype).itemsize > len(self.data):
                raise ValueError("cut short")
            # Plain arrays: pieces of numpy's memmap class take four times as long.
            self.data = numpy.asarray(self.data)  # type: ignore[assignment]
            return super()._get(offset, dtype, count, override_order)

    try:
        return BoundedReader(path)
    except Exception:  # the library meets damaged files with exceptions of many kinds
        raise _damaged(path) from None


def _damaged(path: Path) -> ModelRejected:
    return ModelRejected(f"{plain(path.name)} is cut short or damaged: it is no sound GGUF file", DOWNLOAD_AGAIN)


def _by_metas_names(path: Path, stored: Sequence[ReaderTensor]) -> tuple[dict[str, ReaderTensor], Tensor | None]:
    """Tensors by Meta's name, and the RoPE factors if there are any."""
    found, factors, unknown = {}, None, []
    for tensor in stored:
        name = NAMES.metas_of(tensor.name)
        if tensor.name == ROPE_FACTORS:
            factors = torch.tensor(tensor.data.reshape(-1), dtype=torch.float32)
        elif name is None:
            unknown.append(tensor.name)
        else:
            found[name] = tensor
    if unknown:
        shown = ", ".join(quote(name) for name in unknown[:3])
        raise ModelRejected(f"{plain(path.name)} has tensors that no Llama text model has: {shown}", GIVE_LLAMA)
    return found, factors


def _check_types(path: Path, stored: Sequence[ReaderTensor]) -> None:
    """Dequantize one row of each kind, to find out now whether the library can."""
    from gguf import dequantize

    for kind, tensor in {tensor.tensor_type: tensor for tensor in stored}.items():
        try:
            dequantize(tensor.data[:1], kind)
        except Exception:
            raise ModelRejected(
                f"{plain(path.name)}: {quote(tensor.name)} is stored as {kind.name}, which cannot be dequantized",
                "use another quantization of the same model, such as Q8_0 or F16",
            ) from None


def _check_shapes(path: Path, tensors: Mapping[str, ReaderTensor], args: ModelArgs, n_rows: int) -> None:
    """Every tensor is there with the shape that the metadata promise; GGUF writes shapes from the end."""
    expected = weight_shapes(args) | dict.fromkeys((EMBEDDING, OUTPUT), (n_rows, args.dim))
    missing = [name for name in expected if name not in tensors and name != OUTPUT]
    unexpected = [tensors[name].name for name in tensors if name not in expected]
    if missing or unexpected:
        what = f"{missing[0]} is missing" if missing else f"{quote(unexpected[0])} is one too many"
        raise ModelRejected(f"{plain(path.name)}: {what}", DOWNLOAD_AGAIN)
    for name, tensor in tensors.items():
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if shape != expected[name]:
            raise ModelRejected(
                f"{plain(path.name)}: {quote(tensor.name)} has shape {shape}, must be {expected[name]}", DOWNLOAD_AGAIN
            )
