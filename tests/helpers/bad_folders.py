"""Bad model folders, every kind there is a name for: what makes one of a good folder, the exit code, part of the error.

The tables of the parts lie beside the tests of these parts; here they become whole folders, for the command line.
"""

import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from helpers import bad_archives, bad_json, bad_safetensors
from helpers.bad_archives import hide_in, payloads
from helpers.bad_tensors import CHANGES, spoil
from helpers.bad_tokenizers import BAD_CHARACTERS, BAD_LINES, FOREIGN, lines
from helpers.folders import (
    ARGS,
    PARAMS,
    SHARD,
    random_weights,
    shards_of,
    to_hugging_face,
    write_hf,
    write_meta,
    write_params,
)
from safetensors.torch import save_file

from llama_cli.model.weights import weight_shapes

WEIGHTS = random_weights()
MODEL = "model.safetensors"


class BadFolder(NamedTuple):
    """One case: `build` spoils what `base` has written."""

    name: str
    build: Callable[[Path], object]
    fragment: str  # a pattern
    base: Callable[[Path], object] = write_meta
    code: int = 3
    kind: str = ""


def write_symbols(n_symbols: int) -> Callable[[Path], object]:
    symbols = [chr(ord("0") + place) for place in range(n_symbols)]
    return lambda folder: (folder / "chars.json").write_text(json.dumps(symbols))


def write_good(folder: Path, base: Callable[[Path], object] = write_meta) -> Path:
    """The folder that the cases spoil; `complete` runs on it."""
    base(folder)
    write_symbols(ARGS.vocab_size)(folder)  # every case is about something else, or replaces it
    return folder


def in_shards(n_shards: int) -> Callable[[Path], Path]:
    return lambda folder: write_meta(folder, WEIGHTS, n_shards)


def in_two_files(folder: Path) -> Path:
    return write_hf(folder, WEIGHTS, 2)


def content(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def without(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return build


# What lies where a file should.
PLACES = {
    "a pipe": (os.mkfifo, "not a regular file|no regular file"),
    "a folder": (Path.mkdir, "is a folder"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file|no regular file"),
    "a link to its folder": (lambda path: path.symlink_to("."), "is a folder"),
    "a link to nowhere": (lambda path: path.symlink_to("nowhere"), "(?i)no such file|no params.json|no weights"),
    "a link to itself": (lambda path: path.symlink_to(path), "(?i)symbolic links|no params.json|no weights"),
}


def places() -> Iterator[BadFolder]:
    for name in (SHARD, "params.json"):
        for what, (make, fragment) in PLACES.items():
            yield BadFolder(f"{name} is {what}", instead(name, make), fragment)
    for what in ("a pipe", "a folder", "a device", "a link to its folder"):
        make, fragment = PLACES[what]
        yield BadFolder(f"chars.json is {what}", instead("chars.json", make), fragment)
    yield BadFolder("no params.json", without("params.json"), "weights, but no params.json")
    yield BadFolder("no weights", without(SHARD), "has no weights")
    yield BadFolder("no tokenizer", without("chars.json"), "no tokenizer.model or chars.json")
    yield BadFolder("nothing", without(SHARD, "params.json", "chars.json"), "holds no model")
    yield BadFolder("another suffix", renamed("model.ckpt"), "has no weights")
    yield BadFolder("a part of a download", renamed(SHARD + ".part"), "a download that is not finished")
    yield BadFolder("two files of other names", renamed("one.pth", "two.pth"), "one.pth, two.pth")


def renamed(*names: str) -> Callable[[Path], object]:
    """A single .pth may have any name."""

    def build(folder: Path) -> None:
        data = (folder / SHARD).read_bytes()
        (folder / SHARD).unlink()
        for name in names:
            (folder / name).write_bytes(data)

    return build


def archives() -> Iterator[BadFolder]:
    for case in bad_archives.CASES:
        yield BadFolder(f"archive: {case.name}", case.build, re.escape(case.message))
    size = 20_000  # a shard has some more bytes
    for place in [0, 1, 3, 4, 29, 30, 63, 64, 1000, *range(1500, size, 1900)]:
        yield BadFolder(f"cut at {place}", cut_at(place), "cut short or damaged|is empty|begins with")
    for back in (1, 2, 21, 22, 23, 42, 97, 98, 99, 400, 1200):
        yield BadFolder(f"cut {back} before its end", cut_at(-back), "cut short or damaged")
    for container in ("zip", "raw", "legacy"):
        for name in payloads(Path("canary")):
            fragment = "asks to run" if container == "zip" else "old pickle|unknown kind"
            yield BadFolder(f"{name} in {container}", hidden(container, name), fragment)


def cut_at(place: int) -> Callable[[Path], object]:
    return lambda folder: (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:place])


def hidden(container: str, name: str) -> Callable[[Path], object]:
    """A program that would make a file beside the folder."""
    return lambda folder: hide_in(container, folder, payloads(folder.parent / "canary")[name])


def tensors() -> Iterator[BadFolder]:
    """Each tensor of the model, wrong in each way; of some the second shard of two."""
    for name in weight_shapes(ARGS):
        for how, change in CHANGES.items():
            if ("norm" in name and how in ("transposed", "flat")) or (name, how) == ("output.weight", "missing"):
                continue  # a norm has one dimension; without an output matrix the embedding is used
            build = spoiled(0, name, change)
            yield BadFolder(f"{name} is {how}", build, re.escape(name) + "|, the rest |tok_embeddings.weight")
            if name.startswith("layers.1.") and name.endswith(("wk.weight", "w2.weight", "ffn_norm.weight")):
                yield BadFolder(
                    f"{name} of shard 1 is {how}", spoiled(1, name, change), r"shard 01|consolidated\.01", in_shards(2)
                )
    more = WEIGHTS | {"vision.x": torch.ones(1, dtype=torch.bfloat16)}
    yield BadFolder("one tensor more", lambda folder: torch.save(more, folder / SHARD), "unexpected: 'vision.x'")


def spoiled(rank: int, name: str, change: Callable[[dict, str], object]) -> Callable[[Path], object]:
    return lambda folder: spoil(folder, rank, lambda weights: change(weights, name))


def shards() -> Iterator[BadFolder]:
    for lost in range(1, 15):
        ranks = [rank for rank in range(4) if lost >> rank & 1]
        names = [f"consolidated.{rank:02d}.pth" for rank in ranks]
        yield BadFolder(f"without shards {ranks}", without(*names), f"shard {min(ranks):02d} of", in_shards(4))
    yield BadFolder("without shard 3 of 8", without("consolidated.03.pth"), "shard 03 of 8 is missing", in_shards(8))
    for rank in (0, 1):
        name = f"consolidated.{rank:02d}.pth"
        for what, data in {"empty": b"", "a web page": b"<html>", "full of zeros": bytes(999)}.items():
            yield BadFolder(f"shard {rank} is {what}", content(name, data), f"{name}.*{what}", in_shards(2))
    other = shards_of(random_weights(seed=5), 2)[1]
    yield BadFolder(
        "two models",
        lambda folder: torch.save(other, folder / "consolidated.01.pth"),
        "parts of two models",
        in_shards(2),
    )
    yield BadFolder(
        "the whole twice", lambda folder: torch.save(WEIGHTS, folder / "consolidated.01.pth"), "must be a part"
    )


def settings() -> Iterator[BadFolder]:
    for what, table in {"params.json": bad_json.TEXTS, "field of params.json": bad_json.FIELDS}.items():
        for name, (data, message) in table.items():
            yield BadFolder(f"{what}: {name}", content("params.json", data), re.escape(message))
    for key in PARAMS:
        for what, value in {"text": '"8"', "a list": "[8]", "-7": "-7", "2 ** 63": str(2**63), "0.5": "0.5"}.items():
            data = bad_json.raw(key, value).replace(f'"{key}": {PARAMS[key]}, '.encode(), b"", 1)
            yield BadFolder(f"params.json: {key} is {what}", content("params.json", data), key)
    yield BadFolder("params.json of a larger model", changed(dim=64), r"must be \(|dim")
    yield BadFolder("params.json with more layers", changed(n_layers=3), "missing: 'layers.2")
    yield BadFolder("params.json with fewer layers", changed(n_layers=1), "unexpected: 'layers.1")
    yield BadFolder("params.json with fewer kv heads", changed(n_kv_heads=4), r"must be \(16, 32\)")
    yield BadFolder("params.json with another vocabulary", changed(vocab_size=49), r"must be \(49, 32\)|vocab_size")


def changed(**values: object) -> Callable[[Path], object]:
    return lambda folder: write_params(folder, PARAMS | values)


def configurations() -> Iterator[BadFolder]:
    for name, (values, message) in bad_safetensors.BAD_CONFIGS.items():
        yield BadFolder(f"config.json: {name}", with_config(values), re.escape(message), write_hf)
    for values in bad_safetensors.BAD_VALUES:
        yield BadFolder(f"config.json: {values}", with_config(values), r"config.json: |must be|a part", write_hf)
    for name, (data, message) in bad_json.TEXTS.items():
        yield BadFolder(f"config.json: {name}", content("config.json", data), re.escape(message), write_hf)


def with_config(values: dict) -> Callable[[Path], object]:
    return lambda folder: write_hf(folder, **values)


def safetensors() -> Iterator[BadFolder]:
    for name, (data, message) in bad_safetensors.BAD_FILES.items():
        yield BadFolder(f"safetensors: {name}", content(MODEL, data), re.escape(message), write_hf)
    for place in (1, 7, 8, 9, 100, 1000, 2500, 9000, -1):
        yield BadFolder(f"safetensors cut at {place}", cut_safetensors(place), "cut short|damaged|JSON|kind", write_hf)
    for name, (index, message) in bad_safetensors.BAD_INDEXES.items():
        data = json.dumps(index).encode()
        build = content("model.safetensors.index.json", data)
        yield BadFolder(f"index: {name}", build, re.escape(message), in_two_files)
    for name in (bad_safetensors.FIRST, "model-00002-of-00002.safetensors"):
        yield BadFolder(f"without {name}", without(name), re.escape(f"{name} is missing"), in_two_files)
    yield BadFolder("without an index", without("model.safetensors.index.json"), "no index", in_two_files)
    for name in to_hugging_face(WEIGHTS):
        yield BadFolder(f"safetensors without {name}", lose(name), "is missing|missing:", write_hf)
    extra = struct.pack("<Q", 10) + b"{}        "
    yield BadFolder("safetensors of nothing", content(MODEL, extra), "lists 0 tensors", write_hf)


def cut_safetensors(place: int) -> Callable[[Path], object]:
    return lambda folder: (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:place])


def lose(name: str) -> Callable[[Path], object]:
    kept = {key: tensor for key, tensor in to_hugging_face(WEIGHTS).items() if key != name}
    return lambda folder: save_file(kept, folder / MODEL)


def tokenizers() -> Iterator[BadFolder]:
    """tokenizer.model goes before the chars.json that lies beside it."""
    for data, fragment in FOREIGN:
        yield BadFolder(f"tokenizer.model: {fragment}", content("tokenizer.model", data), fragment)
    for number, (change, fragment) in enumerate(BAD_LINES):
        data = b"\n".join(change(lines())) + b"\n"
        yield BadFolder(f"tokenizer.model {number}: {fragment}", content("tokenizer.model", data), fragment)
    good = b"\n".join(lines()) + b"\n"
    yield BadFolder(
        "tokenizer.model of another model", content("tokenizer.model", good), "has 512 tokens, the model 48"
    )
    yield BadFolder("half a tokenizer.model", content("tokenizer.model", good[:1500]), "line|no token for")
    yield BadFolder("a bit of tokenizer.model", content("tokenizer.model", b"?" + good[1:]), "kind|knows|base64")
    for number, (text, fragment) in enumerate(BAD_CHARACTERS):
        yield BadFolder(f"chars.json {number}: {fragment}", content("chars.json", text.encode()), fragment)
    yield BadFolder("chars.json of another model", write_symbols(ARGS.vocab_size + 1), "has 49 tokens, the model 48")
    yield BadFolder("chars.json is not UTF-8", content("chars.json", b'["\xff"]'), "is not JSON")


CASES = [
    case._replace(kind=group.__name__)
    for group in (places, archives, tensors, shards, settings, configurations, safetensors, tokenizers)
    for case in group()
]
