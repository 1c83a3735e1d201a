"""What lies beside the weights: params.json or config.json, and the tokenizer."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..chat.template import choose_template
from ..checkpoint.schemes import QUANTIZATION_KEYS
from ..checkpoint.tokenizer_marks import params_of_marks
from ..checkpoint.unsupported import unnested
from ..errors import ModelRejected
from ..files.quoting import quote
from ..model.weights import EMBEDDING
from ..options import Quantization
from ..tokenizer import Tokenizer, TokenizerError, load_tokenizer
from ..tokenizer.base import UNKNOWN
from ..tokenizer.bpe import BPETokenizer
from ..tokenizer.chat import Template, make_template, recognise_template
from ..tokenizer.marks import Cuts, Marks
from ..tokenizer.tokenizer_json import is_metas
from .huggingface import config_of
from .params_json import params_of, with_context, with_scheme
from .source import THEIR_SMALL_FILES, Format, Source, is_sentencepiece
from .their_files import TOKENIZER_JSON, special_ids, token_files, tokenizer_json
from .tiktoken_file import file_of

logger = logging.getLogger(__name__)

TOKENIZERS = ("tokenizer.model", "chars.json", TOKENIZER_JSON)
# A text between ChatML's marks in which nothing is filled in.
OWN_SYSTEM_PROMPT = re.compile(r"<\|im_start\|>system(?:\n|\\n)([^{}<]+)<\|im_end\|>")
RESERVED = "<|reserved_special_token_"
DTYPE_KEYS = ("dtype", "torch_dtype")  # of transformers 5, and before


def write_small_files(
    folder: Path, source: Source, form: Format, dtype: torch.dtype, quantization: Quantization | None = None
) -> None:
    """Write what a folder of such a form has beside its weights: as it is in the source, if it is there."""
    there = source.small_files
    for name in TOKENIZERS:
        if name in there:
            (folder / name).write_bytes(there[name])
    tokenizer = _open_tokenizer(folder, source.marks)
    if form == "hf":
        _write_theirs(folder, source, tokenizer, dtype)
    else:
        marks = source.marks if tokenizer is None else _write_metas(folder, source, tokenizer)
        (folder / "params.json").write_bytes(_params_bytes(source, tokenizer, marks, quantization))


def _write_theirs(folder: Path, source: Source, tokenizer: Tokenizer | None, dtype: torch.dtype) -> None:
    """Hugging Face's files: the source's own, and what it lacks of them."""
    there = {name: data for name, data in source.small_files.items() if name in THEIR_SMALL_FILES}
    written: dict[str, bytes] = {}
    if "config.json" in source.small_files:
        written["config.json"] = _with_dtype(source.small_files["config.json"], dtype)
    else:
        _require_theta(source)
        ids = {} if tokenizer is None else special_ids(tokenizer)
        written["config.json"] = _json_bytes(config_of(source.args, dtype, tied=source.is_tied, special_ids=ids))
    if tokenizer is not None:
        written |= token_files(tokenizer, _template_of(source, tokenizer), source.args)
        name = next(name for name in TOKENIZERS if name in source.small_files)
        if TOKENIZER_JSON not in there and (made := tokenizer_json(tokenizer, source.small_files[name])) is not None:
            written[TOKENIZER_JSON] = made
        if isinstance(tokenizer, BPETokenizer):  # others take a file of this name for SentencePiece's
            (folder / "tokenizer.model").unlink(missing_ok=True)
    for name, data in (written | there).items():
        (folder / name).write_bytes(data)


def _template_of(source: Source, tokenizer: Tokenizer) -> Template:
    """The one that a loading command would choose."""

    def rows(begin: int, end: int) -> torch.Tensor:
        return source.rows(EMBEDDING, begin, min(end, source.args.vocab_size))

    template = choose_template("auto", {"chat_template": source.template}, tokenizer, source.name, rows)
    if source.template is not None and template.warning:
        logger.warning(template.warning)
    return template


def _write_metas(folder: Path, source: Source, tokenizer: Tokenizer) -> Marks:
    """Make the tokenizer Meta's file where its ids allow that; returns what params.json has to say about it."""
    if TOKENIZER_JSON in source.small_files and isinstance(tokenizer, BPETokenizer):
        if is_metas(tokenizer.vocabulary):
            (folder / "tokenizer.model").write_bytes(file_of(tokenizer.vocabulary.ranks))
            (folder / TOKENIZER_JSON).unlink()
        else:
            logger.warning(
                "the tokenizer stays tokenizer.json, which this program reads: its ids are in another order than Meta's"
            )
    path = next(folder / name for name in TOKENIZERS if (folder / name).exists())
    cuts = tokenizer.vocabulary.cuts if isinstance(tokenizer, BPETokenizer) else source.marks.cuts
    return marks_beside(tokenizer, load_tokenizer(path), cuts)


def marks_beside(tokenizer: Tokenizer, plain: Tokenizer, cuts: Cuts) -> Marks:
    """What has to be said so that `plain`, which its file alone makes, becomes `tokenizer`."""
    names = {
        name: number
        for name, number in tokenizer.special_tokens.items()
        if plain.special_tokens.get(name) != number and not name.startswith(RESERVED)
        if number >= plain.vocab_size or plain.token_bytes(number) not in (name.encode(), UNKNOWN)
    }
    begin = next((name for name, number in tokenizer.special_tokens.items() if number == tokenizer.bos_id), None)
    same_begin = tokenizer.bos_id == plain.bos_id
    says_cuts = isinstance(plain, BPETokenizer) and plain.vocabulary.cuts == cuts
    return Marks(
        names,
        tokenizer.stop_tokens - plain.stop_tokens,
        adds_bos=None if same_begin else tokenizer.bos_id is not None,
        bos_token=None if same_begin else begin,
        cuts="llama3" if says_cuts else cuts,
    )


def _params_bytes(
    source: Source, tokenizer: Tokenizer | None, marks: Marks, quantization: Quantization | None
) -> bytes:
    """A params.json for weights that are quantized so: the source's own, unless its weights were of another kind."""
    there = source.small_files.get("params.json")
    if there is None:
        params = params_of(source.args) | params_of_marks(marks) | _template_params(source, tokenizer)
        return _json_bytes(with_scheme(params, quantization))
    written = json.loads(there.decode("utf-8-sig"))
    inner = unnested(written)
    params = {key: value for key, value in inner.items() if key not in QUANTIZATION_KEYS}
    if params.get("n_kv_heads") is not None:
        params["n_kv_heads"] = source.args.n_kv_heads  # the source may hold each twice
    if params == inner and quantization is None:
        return there
    params = with_context(params, source.args, llama2=is_sentencepiece(source.small_files))
    params = with_scheme(params, quantization)
    return _json_bytes(params if inner is written else written | {"model": params})


def _template_params(source: Source, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The name of the chat template that the source writes out."""
    if source.template is None or tokenizer is None:
        return {}
    if (system := OWN_SYSTEM_PROMPT.search(source.template)) is not None:
        logger.warning(
            "the model's chat template begins dialogs without a system prompt with one of its own, which is left out;"
            " --system sends it: %s",
            quote(system[1]),
        )
    name = recognise_template(source.template)
    try:
        if name is not None:
            return {"chat_template": make_template(name, tokenizer).name}
        reason = "it writes none of the formats known here"
    except TokenizerError as error:
        reason = error.message
    logger.warning("the model's chat template is left out (%s); --chat-template chooses one of the known", reason)
    return {}


def _with_dtype(config: bytes, dtype: torch.dtype) -> bytes:
    """A config.json whose weights are now of another dtype."""
    settings = json.loads(config.decode("utf-8-sig"))
    name = str(dtype).removeprefix("torch.")
    keys = [key for key in DTYPE_KEYS if key in settings] or ["torch_dtype"]
    if all(settings.get(key) == name for key in keys):
        return config
    return _json_bytes(settings | dict.fromkeys(keys, name))


def _require_theta(source: Source) -> None:
    """Llama 2's files leave rope_theta out and mean 10000, Llama 3's code means 500000: the tokenizer tells."""
    there = source.small_files
    if "params.json" not in there or any(name in there for name in TOKENIZERS):
        return
    params = json.loads(there["params.json"].decode("utf-8-sig"))
    if not {"rope_theta", "rope_freq_base"} & params.get("model", params).keys():
        raise ModelRejected(
            "params.json has no rope_theta, and there is no tokenizer to tell which family this is",
            "give the model's tokenizer.model with --tokenizer",
        )


def _open_tokenizer(folder: Path, marks: Marks) -> Tokenizer | None:
    """The one that a folder now has. Without, or with one that cannot be read, it is still worth having."""
    path = next((folder / name for name in TOKENIZERS if (folder / name).exists()), None)
    if path is None:
        logger.warning("the source has no %s, so the new folder has none", " or ".join(TOKENIZERS))
        return None
    try:
        return load_tokenizer(path, marks)
    except TokenizerError as error:
        reason = error.message.replace(str(path), path.name)  # the folder's name is not yet what it will be
        logger.warning("the tokenizer is copied as it is, though it cannot be read here: %s", reason)
        return None


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
