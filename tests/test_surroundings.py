"""What the system lacks is told as that; "internal error" is left for faults of this program."""

import errno
import os

import pytest

from llama_cli.errors import DoesNotFit, LlamaError, OutputFailed, UsageError, explained

# In the words of Python, safetensors and torch.
NO_TEMPORARY = "No usable temporary directory found in ['/tmp']"
OPENED_TOO_MANY = "unable to open file </m/x> in read-only mode: Too many open files (24)"
TORCH_HAS_NONE = "DefaultCPUAllocator: can't allocate memory: Error code 12 (Cannot allocate memory)"
NO_ADDRESSES = "libtorch_cpu.so: failed to map segment from shared object"
NO_TORCH = "No module named 'torch'"

BROKEN = "a library of this installation cannot be loaded"


def of(number, name=None):
    return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(
    ("error", "kind", "message", "hint"),
    [
        (of(errno.EMFILE, "a/b"), DoesNotFit, "too many open files", "ulimit -n"),
        (of(errno.ENFILE), DoesNotFit, "too many open files in system", "ulimit -n"),
        (of(errno.ENOSPC, b"a"), OutputFailed, "a: no space left on device", "free some space"),
        (of(errno.EFBIG, "a"), OutputFailed, "a: file too large", "ulimit -f unlimited"),
        (of(errno.EROFS, "a"), OutputFailed, "a: read-only file system", "who may write there"),
        (of(errno.EACCES, "a"), OutputFailed, "a: permission denied", "who may write there"),
        (of(errno.ENAMETOOLONG, "a"), UsageError, "a: file name too long", "a shorter name"),
        (of(errno.ELOOP, "a"), UsageError, "a: too many levels of symbolic links", "the file itself"),
        (of(errno.EIO, "a"), OutputFailed, "a: input/output error", "look at the disk"),
        (of(errno.ENOMEM), DoesNotFit, "memory ran out", "use less"),
        (MemoryError(), DoesNotFit, "memory ran out", "use less"),
        (of(errno.EAGAIN), DoesNotFit, "the system starts no more processes or threads", "ulimit -u"),
        (RuntimeError("can't start new thread"), DoesNotFit, "the system starts no more", "ulimit -u"),
        (FileNotFoundError(2, NO_TEMPORARY), OutputFailed, "there is no folder for temporary files", "TMPDIR="),
        (RuntimeError(OPENED_TOO_MANY), DoesNotFit, "too many open files", "ulimit -n"),
        (RuntimeError(TORCH_HAS_NONE), DoesNotFit, "memory ran out", "use less"),
        (ImportError(NO_ADDRESSES), DoesNotFit, "memory ran out for a library: libtorch_cpu.so", "ulimit -v"),
        (ModuleNotFoundError(NO_TORCH, name="torch"), LlamaError, f"{BROKEN}: {NO_TORCH}", "--force-reinstall torch"),
        (ImportError("libgomp.so.1: cannot open shared object file"), LlamaError, BROKEN, "install it again"),
    ],
    ids=str,
)
def test_of_the_surroundings(error, kind, message, hint):
    told = explained(error)
    assert type(told) is kind
    assert told.message.startswith(message)
    assert hint in told.hint


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "<stdin>"),
        IndexError("list index out of range"),
        RuntimeError("shapes do not match"),
        ImportError("cannot import name 'x'", name="llama_cli.engine"),
        ModuleNotFoundError("No module named 'llama_cli.tokenizer.x'", name="llama_cli.tokenizer.x"),
        KeyError("a"),
        of(errno.EBADF),
    ],
    ids=str,
)
def test_faults_of_ours_stay_ours(error):
    assert explained(error) is None


def test_a_checkpoint_is_not_called_damaged_for_it(monkeypatch):
    """Where no more files may be opened, a sound file was to be downloaded again."""
    from helpers.models import DATA

    from llama_cli.checkpoint import mapped_file
    from llama_cli.checkpoint.pth.archive import open_archive

    def map_it(*arguments, **named):
        raise of(errno.EMFILE, "somewhere")

    archive = open_archive(DATA / "tiny/bpe1024/consolidated.00.pth")
    monkeypatch.setattr(mapped_file, "mmap", map_it)
    with pytest.raises(DoesNotFit, match="too many open files"):
        archive.tensor("norm.weight")
