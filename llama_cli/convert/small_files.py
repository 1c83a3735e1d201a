"""What lies beside the weights: params.json or config.json, and the tokenizer."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tokenizer import Tokenizer, TokenizerError, load_tokenizer

from ..errors import ModelRejected
from ..model.args import QUANTIZATION_KEYS, Quantization, unnested
from .huggingface import config_of
from .params_json import params_of, with_context, with_scheme
from .source import Format, Source, is_sentencepiece

logger = logging.getLogger(__name__)

TOKENIZERS = ("tokenizer.model", "chars.json")
DTYPE_KEYS = ("dtype", "torch_dtype")  # of transformers 5, and before


def write_small_files(
    folder: Path, source: Source, form: Format, dtype: torch.dtype, quantization: Quantization | None = None
) -> None:
    """Write what a folder of such a form has beside its weights: as it is in the source, if it is there."""
    there = source.small_files
    for name in TOKENIZERS:
        if name in there:
            (folder / name).write_bytes(there[name])
    tokenizer = _open_tokenizer(folder)
    if form != "hf":
        (folder / "params.json").write_bytes(_params_bytes(source, quantization))
    elif "config.json" in there:
        for name, data in there.items():
            (folder / name).write_bytes(_with_dtype(data, dtype) if name == "config.json" else data)
    else:
        _require_theta(source)
        special_ids = {} if tokenizer is None else _special_ids(tokenizer)
        config = config_of(source.args, dtype, tied=source.is_tied, special_ids=special_ids)
        (folder / "config.json").write_bytes(_json_bytes(config))


def _params_bytes(source: Source, quantization: Quantization | None) -> bytes:
    """A params.json for weights that are rounded so: the source's own, unless its weights were of another kind."""
    there = source.small_files.get("params.json")
    if there is None:
        return _json_bytes(with_scheme(params_of(source.args), quantization))
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


def _open_tokenizer(folder: Path) -> Tokenizer | None:
    """The one that a folder now has. Without, or with one that cannot be read, it is still worth having."""
    path = next((folder / name for name in TOKENIZERS if (folder / name).exists()), None)
    if path is None:
        logger.warning("the source has no tokenizer.model or chars.json, so the new folder has none")
        return None
    try:
        return load_tokenizer(path)
    except TokenizerError as error:
        reason = error.message.replace(str(path), path.name)  # the folder's name is not yet what it will be
        logger.warning("the tokenizer is copied as it is, though it cannot be read here: %s", reason)
        return None


def _special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """Where transformers begins and ends. Llama 2's ids are its defaults."""
    stops = sorted(tokenizer.stop_tokens)
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": stops[0] if len(stops) == 1 else stops or None}


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
