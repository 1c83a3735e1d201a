"""Checks everything about a model folder that can be checked without running it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import LlamaError, ModelRejected
from ..files.quoting import plain
from ..files.regular_file import ensure_unchanged
from ..model.args import ModelArgs
from ..model.weights import n_params, weight_shapes
from ..tokenizer.known import known_tokenizer
from .checklist import CHECKLIST, TOKENIZER_CHECKLIST, Checksum, blob_checksum, read_checklist
from .contents import Contents, Survey, read_contents, survey
from .family import doubt_about
from .folders import expand, find_tokenizer
from .installed import find_model, model_name
from .pth.shards import shard_paths
from .tokenizer_file import check_vocabulary, open_tokenizer

if TYPE_CHECKING:
    from . import Checkpoint

Status = Literal["ok", "warning", "bad", "skipped"]

SHOWN = 3  # names in one finding
WEIGHTS = ("consolidated.[0-9][0-9].pth", "fp8_scales_*.pt", "*.safetensors")
CODE_LLAMA_70B = (8192, 80, 32016)


@dataclass(frozen=True)
class Finding:
    """What one check found about one file, or about the folder."""

    check: str
    file: str
    status: Status
    detail: str


class Verification:
    """The checks of one folder, and what they found."""

    def __init__(self, model: str | Path, *, tokenizer: str | Path | None = None) -> None:
        """ModelRejected if there is no such folder; everything else becomes a finding."""
        self.folder = find_model(model)
        self.findings: list[Finding] = []
        self._tokenizer = expand(tokenizer) if tokenizer is not None else find_tokenizer(self.folder)
        self._args: ModelArgs | None = None
        self._checkpoint: Checkpoint | None = None  # once its names and shapes are right
        self._checksums: dict[Path, Checksum] = {}
        self._surveys: dict[Path, Survey] = {}

    @property
    def is_sound(self) -> bool:
        return not any(finding.status == "bad" for finding in self.findings)

    @property
    def n_bytes(self) -> int:
        """How much `read_everything` is going to read."""
        return sum(promised.identity.size for promised in self._surveys.values())

    def _add(self, check: str, file: Path | str, status: Status, detail: str) -> None:
        name = file if isinstance(file, str) else file.name
        self.findings.append(Finding(check, plain(name), status, detail))

    def check_headers(self) -> None:
        """Everything that needs no weight: milliseconds."""
        self._check_weight_files()
        self._check_model()
        self._check_tokenizer()
        self._collect_checksums()

    def _check_weight_files(self) -> None:
        named = {path for pattern in WEIGHTS for path in self.folder.glob(pattern)}
        for path in sorted(named or self._lone_files()):
            try:
                promised = self._surveys[path] = survey(path)
            except ModelRejected as error:
                self._add("headers", path, "bad", _sentence(error))
            else:
                self._add("headers", path, "ok", f"{len(promised.tensors):,} tensors")
        for path in sorted(self.folder.glob("*.pth")):
            if path not in self._surveys and not any(finding.file == path.name for finding in self.findings):
                self._add("headers", path, "warning", "not a file of Meta's by its name; it is ignored")

    def _lone_files(self) -> list[Path]:
        try:
            return shard_paths(self.folder)
        except ModelRejected:  # said by the check of the model
            return []

    def _check_model(self) -> None:
        """As a loading command does: settings, shards, names, shapes, dtypes, equal norms."""
        from . import open_checkpoint

        try:
            checkpoint = open_checkpoint(self.folder, tokenizer=self._tokenizer)
            args = self._args = checkpoint.headers.configuration().args
            count = n_params(args, tied=checkpoint.is_tied)
            self._add("settings", checkpoint.params_name, "ok", f"{count:,} parameters")
            checkpoint.check(args)
            self._checkpoint = checkpoint
        except ModelRejected as error:
            self._add("weights" if self._args else "settings", self.folder, "bad", _sentence(error))
        else:
            expected = f"{len(weight_shapes(args)):,} names, shapes and dtypes"
            self._add("weights", self.folder, "ok", f"{expected} as expected in {len(checkpoint.shards)} shards")
        if self._args is not None and (doubt := doubt_about(self._args, model_name(self.folder))):
            self._add("settings", "params.json", "warning", doubt)

    def _check_tokenizer(self) -> None:
        file = "tokenizer.model" if self._tokenizer is None else self._tokenizer
        try:
            tokenizer = open_tokenizer(self._tokenizer, self.folder)
            if self._args is not None:
                spare = check_vocabulary(
                    self._args.vocab_size, tokenizer, self._tokenizer, self.folder, self._read_spare_rows
                )
                if spare.warning:
                    self._add("tokenizer", file, "warning", spare.warning)
        except LlamaError as error:
            self._add("tokenizer", file, "bad", _sentence(error))
            return
        assert self._tokenizer is not None, "it has been opened"
        known = known_tokenizer(self._tokenizer)
        whose = known or ("the toy's own" if tokenizer.kind == "char" else "not one of Meta's known files")
        ends = ", ".join(map(str, sorted(tokenizer.stop_tokens))) or "nothing"
        size = f"{tokenizer.vocab_size:,} tokens"
        self._add("tokenizer", file, "ok", f"{tokenizer.kind}, {size}, {whose}; answers end at {ends}")

    def _read_spare_rows(self, begin: int, end: int) -> list[bytes]:
        return [] if self._checkpoint is None else self._checkpoint.spare_rows(begin, end)

    def _collect_checksums(self) -> None:
        lists = [self.folder / CHECKLIST]
        if self._tokenizer is not None:
            lists.append(self._tokenizer.parent / TOKENIZER_CHECKLIST)
        for path in (path for path in lists if path.exists()):
            try:
                found = read_checklist(path)
            except ModelRejected as error:
                self._add("checklist", path, "bad", _sentence(error))
                continue
            lines = f"; {len(found.unreadable)} lines are no sums" if found.unreadable else ""
            self._add("checklist", path, "warning" if lines else "ok", f"{len(found.sums)} MD5 sums{lines}")
            for name, checksum in found.sums.items():
                self._expect(path.parent / name, checksum)
        for path in [*self._surveys, *([self._tokenizer] if self._tokenizer else [])]:
            blob = blob_checksum(path)
            if blob is not None and path not in self._checksums:
                self._expect(path, blob)
        if not self._checksums and not any(finding.check == "checklist" for finding in self.findings):
            self._add("checklist", CHECKLIST, "skipped", "there is none: no checksums to compare with")

    def _expect(self, path: Path, checksum: Checksum) -> None:
        self._checksums[path] = checksum
        if path in self._surveys or any(
            finding.file == path.name and finding.status == "bad" for finding in self.findings
        ):
            return
        try:
            self._surveys[path] = survey(path)
        except ModelRejected as error:
            missing = "listed, but it is not there"
            self._add("checksum", path, "bad", _sentence(error) if path.exists() else missing)

    def read_everything(self, advance: Callable[[int], None]) -> None:
        """Read every byte, several files at a time; `advance` is told how many, from any thread."""
        stopped = threading.Event()
        with ThreadPoolExecutor(max(1, min(len(self._surveys), os.cpu_count() or 1))) as pool:
            futures = {
                path: pool.submit(read_contents, path, promised, self._algorithm(path), advance, stopped.is_set)
                for path, promised in self._surveys.items()
            }
            try:
                for path, future in futures.items():
                    try:
                        contents = future.result()
                        ensure_unchanged(path, self._surveys[path].identity)
                    except ModelRejected as error:
                        self._add("contents", path, "bad", _sentence(error))
                    else:
                        self._judge(path, contents)
            finally:
                stopped.set()  # after Ctrl-C, so that nobody waits for terabytes

    def _algorithm(self, path: Path) -> str | None:
        checksum = self._checksums.get(path)
        return None if checksum is None else checksum.algorithm

    def _judge(self, path: Path, contents: Contents) -> None:
        checksum = self._checksums.get(path)
        promised = self._surveys[path]
        if checksum is not None and contents.digest != checksum.digest:
            self._add("checksum", path, *self._mismatch(checksum, contents))
        elif checksum is not None:
            self._add("checksum", path, "ok", f"{checksum.algorithm.upper()} {checksum.digest}")
        if contents.wrong_entries:
            self._add("archive", path, "bad", f"damaged since it was written: {_list(contents.wrong_entries)}")
        elif promised.entries:
            self._add("archive", path, "ok", f"CRC-32 of {len(promised.entries):,} entries")
        if contents.not_finite:
            named = [f"{name} ({count:,} values)" for name, count in contents.not_finite.items()]
            self._add("values", path, "bad", f"NaN or infinite: {_list(named)}")
        elif contents.all_zero:
            self._add("values", path, "warning", f"nothing but zeros: {_list(contents.all_zero)}")
        elif promised.tensors:
            self._add("values", path, "ok", "all finite")

    def _mismatch(self, checksum: Checksum, contents: Contents) -> tuple[Status, str]:
        sums = f"{checksum.algorithm.upper()} is {contents.digest}, should be {checksum.digest}"
        if self._args is not None and _shape(self._args) == CODE_LLAMA_70B and not contents.wrong_entries:
            return "warning", f"{sums}; early checklists of Code Llama 70B were wrong"
        return "bad", f"{sums}: download it again"


def _shape(args: ModelArgs) -> tuple[int, int, int]:
    return args.dim, args.n_layers, args.vocab_size


def _sentence(error: LlamaError) -> str:
    return error.message if error.hint is None else f"{error.message}; {error.hint}"


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(plain(name) for name in names[:SHOWN]) + more
