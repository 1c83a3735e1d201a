"""What the files of a model folder say about it: no torch, and not one weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..backends.offers import BYTES, Dtype
from ..errors import ModelRejected
from ..files.json_file import read_object
from ..files.quoting import plain
from ..files.regular_file import Identity
from ..model.weights import EMBEDDING, LAST_NORM, OUTPUT
from ..tokenizer import TokenizerError
from ..tokenizer.loader import kind_of
from .folders import expand, find_tokenizer
from .header import TensorHeader, is_extra
from .installed import find_model, model_name
from .params import Configuration, read_configuration
from .pth.archive import DTYPES, Archive, open_archives
from .pth.shards import shard_paths
from .safetensors_folder import StoredWeights, open_safetensors_folder
from .spare_rows import stored_rows
from .stored.doubled_heads import has_copies, is_doubled, once
from .stored.quantized import QuantizedWeights
from .unsupported import refuse_unsupported, unnested

if TYPE_CHECKING:
    from ..options import Quantization


Format = Literal["pth", "safetensors", "huggingface"]
FLOATS: Mapping[str, Dtype] = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}


@dataclass(frozen=True)
class Headers:
    """A model folder as its headers describe it, in Meta's names."""

    folder: Path
    format: Format
    params: Mapping[str, Any]
    params_name: str
    tokenizer: Path | None
    files: Sequence[Archive] | StoredWeights  # Meta's shards, or all of a folder of safetensors
    shards: Sequence[Mapping[str, TensorHeader]]
    identities: Mapping[Path, Identity]  # of the files with the weights
    has_doubled_heads: bool = False  # the files hold each key/value head twice, `params` counts it once
    quantization: Quantization | None = None  # to which `convert` has quantized the linear layers
    embedding_files: Sequence[Path] = ()  # that hold the embedding, in the order of the shards

    @cached_property
    def is_sentencepiece(self) -> bool:
        """Whether the tokenizer is Llama 2's: what settings leave out then means another thing."""
        try:
            return self.tokenizer is not None and kind_of(self.tokenizer) == "sentencepiece"
        except TokenizerError:
            return False

    def configuration(self, *, rope_scale_factor: float | None = None) -> Configuration:
        """The model's shape, as every command has it, and where each value came from."""
        return read_configuration(
            self.params,
            source=self.params_name,
            vocab_size=self.vocab_size,
            llama2=self.is_sentencepiece,
            rope_scale_factor=rope_scale_factor,
            name=model_name(self.folder),
        )

    @cached_property
    def dtype(self) -> Dtype:
        """The dtype that most of the weights have as they are read; some programs keep norms in float32."""
        found: Counter[Dtype] = Counter()
        for tensor in self._weights():
            found[self._dtype_read(tensor)] += int(prod(tensor.shape) * BYTES[self._dtype_read(tensor)])
        return found.most_common(1)[0][0]

    @property
    def n_bytes(self) -> int:
        """Bytes of all weights as they are read; a shared output matrix counts once."""
        return int(sum(prod(tensor.shape) * BYTES[self._dtype_read(tensor)] for tensor in self._weights()))

    @property
    def is_quantized(self) -> bool:
        """Whether the weights are in one of Meta's formats, to be computed from what is stored."""
        return self.quantization is None and any(t.dtype not in FLOATS for shard in self.shards for t in shard.values())

    def _weights(self) -> Iterator[TensorHeader]:
        for shard in self.shards:
            for name, tensor in shard.items():
                if not is_extra(name) and (name != OUTPUT or not self.is_tied):
                    yield tensor

    def _dtype_read(self, tensor: TensorHeader) -> Dtype:
        """The dtype in which a weight is read.

        A quantized one is read in the embedding's dtype, which `convert` leaves as it is, or else in bfloat16.
        """
        stored = tensor.dtype if tensor.dtype in FLOATS else self.shards[0][EMBEDDING].dtype
        return FLOATS.get(stored, "bfloat16")

    @property
    def file_bytes(self) -> int:
        return sum(identity.size for identity in self.identities.values())

    @cached_property
    def dtypes(self) -> dict[str, int]:
        """Bytes stored in each dtype, most first."""
        found: dict[str, int] = {}
        for shard in self.shards:
            for tensor in shard.values():
                found[tensor.dtype] = found.get(tensor.dtype, 0) + tensor.n_bytes
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, whichever way it is split; the last norm tells the model's width."""
        (rows, columns), (dim,) = self.require(EMBEDDING, 2), self.require(LAST_NORM, 1)
        if len(self.shards) == 1 or columns != dim:
            return rows
        return sum(prod(shard[EMBEDDING].shape[:1]) for shard in self.shards if EMBEDDING in shard)

    def require(self, name: str, n_dims: int) -> tuple[int, ...]:
        """The shape of a tensor of shard 0 that no Llama checkpoint lacks."""
        wrong = f"{name} is missing"
        if name in self.shards[0]:
            shape = self.shards[0][name].shape
            if len(shape) == n_dims:
                return shape
            wrong = f"{name} has shape {shape}, must have {n_dims} dimensions"
        raise ModelRejected(f"{plain(self.folder)}: {wrong}", "this is no Llama checkpoint, or a damaged one")

    def spare_rows(self, begin: int, end: int) -> list[bytes]:
        """Rows of the embedding behind the tokenizer's, as they are stored."""
        (dim,) = self.require(LAST_NORM, 1)
        parts = [shard[EMBEDDING] for shard in self.shards]
        return stored_rows(dict(zip(self.embedding_files, parts, strict=True)), begin, end, dim)

    @property
    def is_tied(self) -> bool:
        """Whether the output matrix is the embedding: left out of the files, or in the same place."""
        if OUTPUT not in self.shards[0]:
            return True
        if self.format != "pth":  # there no two tensors share bytes, though each may be the first of its file
            return False
        pairs = [(shard.get(EMBEDDING), shard.get(OUTPUT)) for shard in self.shards]
        return all(a is not None and a == b and a.dtype in DTYPES for a, b in pairs)

    @property
    def n_stored(self) -> int:
        """Values of all weights; what every shard has, and a shared output matrix, count once."""
        first, *others = self.shards
        counted = {name: t for name, t in first.items() if not is_extra(name)}
        counted = {name: t for name, t in counted.items() if name != OUTPUT or not self.is_tied}
        once_each = sum(self._n_values(name, t) for name, t in counted.items())
        return once_each + sum(
            self._n_values(name, t)
            for shard in others
            for name, t in shard.items()
            if len(t.shape) > 1 and (name != OUTPUT or not self.is_tied)
        )

    def _n_values(self, name: str, tensor: TensorHeader) -> int:
        return prod(tensor.shape) // (2 if self.has_doubled_heads and is_doubled(name) else 1)


def read_headers(path: str | Path, *, tokenizer: str | Path | None = None) -> Headers:
    """The headers of the model in a folder, or of a name; ModelRejected says what is wrong with them.

    Reads a file's directory and list of tensors only: milliseconds, whatever the size of the model. Where the shape is
    that of a model whose heads may be there twice, one layer's are compared.
    """
    folder = find_model(path)
    tokenizer_path = expand(tokenizer) if tokenizer is not None else find_tokenizer(folder)
    paths = shard_paths(folder) if (folder / "params.json").exists() else []
    if paths:
        params = read_object(folder / "params.json")
        refuse_unsupported(params, "params.json", of_shards=True)
        archives = open_archives(paths)
        with_heads_once = once(params)
        has_each_twice = with_heads_once is not None and has_copies(archives, unnested(params)["n_kv_heads"])
        return Headers(
            folder,
            "pth",
            with_heads_once if with_heads_once is not None and has_each_twice else params,
            "params.json",
            tokenizer_path,
            archives,
            [{name: archive.headers[name] for name in archive.names()} for archive in archives],
            {archive.path: archive.identity for archive in archives},
            has_doubled_heads=has_each_twice,
            embedding_files=paths,
        )
    found = open_safetensors_folder(folder)
    weights = found.weights
    if isinstance(weights, QuantizedWeights):
        tensors = weights.describe_all()
    else:
        tensors = {name: weights.describe(name) for name in weights.names()}
    kind: Format = "huggingface" if found.is_huggingface else "safetensors"
    return Headers(
        folder,
        kind,
        found.params,
        found.params_name,
        tokenizer_path,
        weights,
        [tensors],
        found.identities,
        quantization=found.quantization,
        embedding_files=[weights.path(EMBEDDING)] if EMBEDDING in tensors else [],
    )
