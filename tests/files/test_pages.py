"""Memory that mapped files give back."""

import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from llama_cli.files.pages import drop_pages

MIB = 1 << 20


def resident(path):
    """Bytes of a file that this process has in memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        int(next(line for line in lines if line.startswith("Rss:")).split()[1]) * 1024
        for line in lines
        if line.endswith(str(path))
    )


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
def test_pages_are_dropped_and_read_again(tmp_path):
    ours, other = tmp_path / "a", tmp_path / "b"
    content = os.urandom(4 * MIB)
    maps = []
    for path in (ours, other):
        path.write_bytes(content)
        with path.open("rb") as file:
            maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        assert maps[-1][:] == content
    assert resident(ours) == resident(other) == 4 * MIB
    drop_pages([ours])
    assert resident(ours) == 0
    assert resident(other) == 4 * MIB
    assert maps[0][:] == content


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
def test_a_small_file_stays(tmp_path):
    """Loading a toy spent a quarter of its time on giving back its few pages."""
    path = tmp_path / "small"
    path.write_bytes(bytes(MIB - 1))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as kept:
        assert kept[:1] == b"\0"
        before = resident(path)
        drop_pages([path])
        assert resident(path) == before > 0


FAULTS = """
import resource, sys, torch
from llama_cli.files.pages import keep_heap

if sys.argv[1] == "kept":
    keep_heap()

def faults_of_a_block():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(10 << 20).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(sum([faults_of_a_block() for _ in range(20)][10:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heap")
def test_what_a_step_frees_serves_the_next():
    """40 MiB are 10,240 pages of 4 KiB; after some of such blocks, the next need hardly any from the system."""
    counts = [
        int(subprocess.run([sys.executable, "-c", FAULTS, kept], capture_output=True, check=True).stdout)
        for kept in ("returned", "kept")
    ]
    assert counts[0] > 10 * counts[1], counts
