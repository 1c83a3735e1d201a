"""Opens one consolidated.NN.pth: the safety gate before, around and after torch.load.

`weights_only=True` is needed and not enough: it accepts archives with wrong byte order, wrong record
sizes, duplicate entries, quantised or sparse tensors, and unpacks compressed entries of any size. So the
zip directory and the pickle are checked first, and every tensor afterwards. Nothing is unpacked, executed
or, apart from the names, read here.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import DoesNotFit, ModelRejected, explained
from ...files.foreign import DOWNLOAD_AGAIN, foreign
from ...files.quoting import plain, quote
from ...files.regular_file import Identity, identify, read_head
from .headers import is_unused
from .pickle_program import check_pickle
from .state_dict import resave, weights_of
from .zip_directory import Record, read_directory

DTYPES = ("bfloat16", "float16", "float32")
ZIP_MAGIC = b"PK\x03\x04"
SPREAD = "not contiguous"
JOINED = "{n: t.contiguous().clone() for n, t in w.items()}"


@dataclass(frozen=True)
class Archive:
    """The tensors of one file, mapped from disk and not yet read."""

    path: Path
    identity: Identity
    tensors: dict[str, Tensor]

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]


def plain_dtypes(name: str) -> tuple[str, ...]:
    """The dtypes that any tensor may have."""
    return DTYPES


def open_archive(path: Path, dtypes_of: Callable[[str], tuple[str, ...]] = plain_dtypes) -> Archive:
    """Open a .pth behind the gate; ModelRejected says what is wrong with it.

    `dtypes_of` says which dtypes a tensor of a name may have, for Meta's quantised formats.
    """
    identity = identify(path)
    if read_head(path, len(ZIP_MAGIC)) != ZIP_MAGIC:
        raise foreign(path, identity.size)
    contents = read_directory(path, identity.size)
    check_pickle(path, contents.pickle)
    _check_with_torch(path)
    tensors = _plain_tensors(path, _load(path), dtypes_of)
    _check_records(path, tensors.values(), contents.records)
    # Detached, a parameter is a tensor like the others.
    return Archive(path, identity, {name: tensor.detach() for name, tensor in tensors.items() if not is_unused(name)})


def _check_with_torch(path: Path) -> None:
    """The same question put to torch's own reader of archives and pickles."""
    try:
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # it meets damaged pickles with exceptions of many kinds
        raise ModelRejected(f"{plain(path.name)}: its list of tensors is damaged", DOWNLOAD_AGAIN) from None
    if wanted:
        raise ModelRejected(
            f"{plain(path.name)} asks to run {quote(wanted[0])}; refusing: not a plain Llama checkpoint",
            "do not trust the place it came from; get the file from Meta",
        )


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # weights_only is spelt out: without it, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 would run the pickle.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch's own texts advise to turn the protection off
        if os.strerror(errno.ENOMEM) in str(error):  # a file larger than memory and swap, on many systems
            raise DoesNotFit(
                f"{plain(path.name)} has {path.stat().st_size / 2**30:,.1f} GiB, more than this machine's memory",
                "use a smaller model, or a machine with more memory: llama-cli info says how much it takes",
            ) from None
        damaged = ModelRejected(f"{plain(path.name)} is damaged: torch cannot read it", DOWNLOAD_AGAIN)
        raise explained(error) or damaged from None


def _plain_tensors(path: Path, loaded: Any, dtypes_of: Callable[[str], tuple[str, ...]]) -> dict[str, Tensor]:
    """Dense tensors under text names; nothing is done with a tensor before it passed."""
    found = weights_of(path, loaded, lambda value: isinstance(value, Tensor), Tensor)
    for name, tensor in found.items():
        flaw = flaw_of(tensor, dtypes_of(name))
        if flaw:
            hint = "use the bf16 checkpoint of the same model"
            raise ModelRejected(
                f"{plain(path.name)}: {quote(name)} is {flaw}", resave(path, JOINED) if flaw == SPREAD else hint
            )
    return found


def flaw_of(tensor: object, dtypes: tuple[str, ...] = DTYPES) -> str | None:
    """What keeps an object from being a plain tensor whose data lie in the file; None if nothing does."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return f"of type {type(tensor).__name__}, not a tensor"
    assert isinstance(tensor, Tensor), "one of both"
    if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_nested:
        return "quantised, sparse or nested; only plain tensors are read"
    if tensor.device.type != "cpu":
        return f"on the device {tensor.device.type!r}, without data"
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in dtypes:
        return f"of dtype {dtype}; {_are_read(dtypes)}"
    if tensor.is_neg() or tensor.__dict__:
        return "no plain tensor: it has attributes"
    if not _is_in_one_run(tensor):
        return SPREAD
    end = (tensor.storage_offset() + tensor.numel()) * tensor.element_size()
    if end > tensor.untyped_storage().nbytes():
        return "larger than its data"
    return None


def _is_in_one_run(tensor: Tensor) -> bool:
    """Whether a tensor's values follow each other without a gap, though its dimensions may be turned round."""
    if tensor.is_contiguous():
        return True
    expected = 1
    dimensions = zip(tensor.stride(), tensor.shape, strict=True)
    for stride, size in sorted((stride, size) for stride, size in dimensions if size != 1):
        if stride != expected:
            return False
        expected *= size
    return str(tensor.dtype).removeprefix("torch.") in DTYPES


def _are_read(dtypes: tuple[str, ...]) -> str:
    *others, last = dtypes
    return f"{', '.join(others)} and {last} are read" if others else f"it must be {last}"


def _check_records(path: Path, tensors: Iterable[Tensor], records: list[Record]) -> None:
    """The storages must be the records of the archive, each at its place with its size.

    torch trusts the sizes in the pickle when it maps a file; a wrong one reads a neighbour's weights.
    """
    storages = [tensor.untyped_storage() for tensor in tensors]
    places = {(storage.data_ptr(), storage.nbytes()) for storage in storages if storage.nbytes()}
    found = _relative((address, size) for address, size in places)
    if found != _relative(records):
        raise ModelRejected(f"{plain(path.name)}: the sizes of its tensors and of its data disagree", DOWNLOAD_AGAIN)


def _relative(places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Places counted from the first of them."""
    ordered = sorted(places)
    return [(start - ordered[0][0], size) for start, size in ordered]
