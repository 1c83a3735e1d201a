"""Says what a file or a folder is that is not a model folder, and the one command that makes one of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..errors import ModelRejected
from ..files.foreign import HEAD_BYTES, TAR_MAGIC
from ..files.json_file import read_object
from ..files.quoting import hint_path, plain, quote
from ..files.regular_file import read_head

WANTED = "give the folder with params.json and consolidated.00.pth: -m FOLDER"
ZIP_MAGIC = b"PK\x03\x04"
COMPRESSED = {
    b"\x1f\x8b": "tar -xzf",
    b"BZh": "tar -xjf",
    b"\xfd7zXZ": "tar -xJf",
    b"\x28\xb5\x2f\xfd": "tar --zstd -xf",
}
UNFINISHED = ("*.incomplete", "*.part", "*.crdownload", "*.aria2", "*.tmp")
MODELS_SHOWN = 4


class Stranger(NamedTuple):
    """What something is, and what to type."""

    what: str
    hint: str


def strange_file(path: Path) -> ModelRejected:
    """The refusal of a file that is none of a model folder."""
    head = read_head(path, HEAD_BYTES)
    packed = next((command for magic, command in COMPRESSED.items() if head.startswith(magic)), None)
    shown = hint_path(path)
    if head.startswith(b"GGUF"):  # ollama's blobs have no suffix
        name = path.stem if path.suffix == ".gguf" else "FOLDER"
        stranger = Stranger("a GGUF file", f"llama-cli convert {shown} {hint_path(Path(name))}")
    elif head[TAR_MAGIC] == b"ustar":
        stranger = Stranger("a tar archive", f"tar -xf {shown}, then -m its folder")
    elif packed is not None:
        stranger = Stranger("a compressed archive", f"{packed} {shown}, then -m its folder")
    elif head.startswith(ZIP_MAGIC) and path.suffix == ".zip":
        stranger = Stranger("a zip archive", f"unzip {shown}, then -m its folder")
    elif path.suffix == ".bin" and head.startswith((ZIP_MAGIC, b"\x80")):
        stranger = _pickled(path.parent, path.name)
    elif path.name.startswith("tokenizer"):
        stranger = Stranger("a tokenizer", "it goes with --tokenizer FILE, beside -m FOLDER")
    elif path.suffix == ".pte":
        stranger = Stranger("a program for ExecuTorch, not weights", "use the bf16 checkpoint instead")
    else:
        return ModelRejected(f"{plain(path)} is no file of a model folder", WANTED)
    return ModelRejected(f"{plain(path)} is no file of a model folder: it is {stranger.what}", stranger.hint)


def strange_folder(folder: Path) -> ModelRejected | None:
    """The refusal of a folder that holds something else than a model; None if it holds nothing known."""
    if not folder.is_dir():  # to look into a name with a NUL is a ValueError on Python 3.13
        return None
    for look in (
        _adapter,
        _executorch,
        _huggingface_pickle,
        _gguf,
        _distributed,
        _unfinished,
        _packed,
        _models,
        _tokenizer,
    ):
        stranger = look(folder)
        if stranger is not None:
            return ModelRejected(f"{plain(folder)} {stranger.what}", stranger.hint)
    return None


def _first(folder: Path, *patterns: str) -> Path | None:
    return next((path for pattern in patterns for path in sorted(folder.glob(pattern))), None)


def _adapter(folder: Path) -> Stranger | None:
    if not (folder / "adapter_config.json").exists():
        return None
    try:
        base = str(read_object(folder / "adapter_config.json").get("base_model_name_or_path") or "another model")
    except ModelRejected:
        base = "another model"
    merged = (
        "from peft import AutoPeftModelForCausalLM as M; "
        f"M.from_pretrained('{plain(folder)}').merge_and_unload().save_pretrained('{plain(folder)}-merged')"
    )
    return Stranger(
        f"holds adapters (LoRA) for {quote(base)}, not a model of its own",
        f'add them to it, with the package peft: python -c "{merged}"',
    )


def _executorch(folder: Path) -> Stranger | None:
    if _first(folder, "*.pte") is None:
        return None
    return Stranger("holds a program for ExecuTorch (.pte), not weights", "use the bf16 checkpoint instead")


def _huggingface_pickle(folder: Path) -> Stranger | None:
    found = _first(folder, "pytorch_model*.bin", "hf_model_*.pt", "*.bin", "*.pth", "*.pt")
    is_theirs = found is not None and found.name.startswith(("pytorch_model", "hf_model"))
    if found is None or not (is_theirs or (folder / "config.json").exists()):
        return None
    return Stranger(f"holds {_pickled(folder, found.name).what}", _pickled(folder, found.name).hint)


def _pickled(folder: Path, name: str) -> Stranger:
    safe = plain(folder) + "-safe"
    code = (
        "from transformers import AutoModelForCausalLM as M; "
        f"M.from_pretrained('{plain(folder)}', dtype='auto').save_pretrained('{safe}')"
    )
    what = f"Hugging Face's weights in {plain(name)}, which is not read: .safetensors are"
    return Stranger(what, f'python -c "{code}", then its tokenizer.model beside them')


def _gguf(folder: Path) -> Stranger | None:
    found = _first(folder, "*.gguf")
    if found is None:
        return None
    return Stranger("holds a GGUF file", f"llama-cli convert {hint_path(found)} {hint_path(Path(found.stem))}")


def _distributed(folder: Path) -> Stranger | None:
    if _first(folder, "*.distcp") is None:
        return None
    module = "torch.distributed.checkpoint.format_utils"
    return Stranger(
        "holds torch's distributed checkpoint (.distcp)",
        f"python -m {module} dcp_to_torch {hint_path(folder)} {hint_path(folder / 'consolidated.00.pth')}",
    )


def _unfinished(folder: Path) -> Stranger | None:
    found = _first(folder, *UNFINISHED)
    if found is None:
        return None
    return Stranger(f"holds a download that is not finished ({plain(found.name)})", "start the download again")


def _packed(folder: Path) -> Stranger | None:
    found = _first(folder, "*.tar", "*.tar.*", "*.tgz", "*.zip")
    if found is None:
        return None
    command = "unzip" if found.suffix == ".zip" else "tar -xf"
    return Stranger(f"holds an archive, {plain(found.name)}", f"{command} {hint_path(found)}, then -m its folder")


def _models(folder: Path) -> Stranger | None:
    """A folder of model folders, as downloaders make them; Hugging Face's cache has its own below snapshots."""
    depths = ("*", "snapshots/*", "snapshots/*/original")
    below = [path.parent for depth in depths for path in sorted(folder.glob(f"{depth}/params.json"))]
    below += [path.parent for depth in depths[:2] for path in sorted(folder.glob(f"{depth}/config.json"))]
    if not below:
        return None
    names = ", ".join(plain(path.name) for path in below[:MODELS_SHOWN])
    more = f" and {len(below) - MODELS_SHOWN} more" if len(below) > MODELS_SHOWN else ""
    return Stranger(f"holds model folders, and is none: {names}{more}", f"-m {hint_path(below[0])}")


def _tokenizer(folder: Path) -> Stranger | None:
    found = _first(folder, "tokenizer.model", "tokenizer.json", "chars.json")
    if found is None or _first(folder, "params.json", "config.json", "*.pth", "*.pt", "*.safetensors") is not None:
        return None
    return Stranger(
        f"holds a tokenizer ({plain(found.name)}) and no model",
        "finish the download; the tokenizer alone: --tokenizer FILE",
    )
