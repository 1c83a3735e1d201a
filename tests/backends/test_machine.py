"""What a processor can, from what Linux says of it, or torch where there is no /proc."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import llama_cli
from llama_cli.backends import machine
from llama_cli.backends.machine import TORCHS_NAMES, Processor, processor

AMD = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC
flags\t\t: fpu avx2 avx_vnni avx512_vnni avx512_bf16
bugs\t\t: flags

processor\t: 1
vendor_id\t: Other
flags\t\t: fpu
"""
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp i8mm\nCPU implementer\t: 0x41\n"


def described(text, architecture, monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine.platform, "machine", lambda: architecture)
    return processor.__wrapped__()


def test_an_x86(monkeypatch, tmp_path):
    here = described(AMD, "x86_64", monkeypatch, tmp_path)
    assert here == Processor(
        "x86_64", "AuthenticAMD", frozenset({"fpu", "avx2", "avx_vnni", "avx512_vnni", "avx512_bf16"})
    )
    assert here.has_avx2
    assert here.multiplies_bytes
    assert here.has_byte_kernels
    assert not here.lacks_bfloat16
    assert not here.is_slow_in_bfloat16


def test_an_arm(monkeypatch, tmp_path):
    here = described(ARM, "aarch64", monkeypatch, tmp_path)
    assert here.features == {"fp", "asimd", "asimddp", "i8mm"}
    assert not any((here.is_x86, here.has_avx2, here.lacks_bfloat16, here.is_slow_in_bfloat16, here.has_byte_kernels))


def test_linux_and_torch_say_the_same_here():
    features = processor().features
    for name, asked in TORCHS_NAMES.items():
        assert (name in features) == getattr(torch.cpu, asked)(), name


def test_without_proc_torch_is_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    here = processor.__wrapped__()
    assert here.features == processor().features & TORCHS_NAMES.keys()
    assert not here.is_slow_in_bfloat16, "nobody tells who made it"


@pytest.mark.parametrize("text", ["", "\n\n", "flags", "flags:", ":", "flags\t: \nvendor_id\t:"])
def test_a_description_that_says_nothing(text, monkeypatch, tmp_path):
    assert described(text, "riscv64", monkeypatch, tmp_path) == Processor("riscv64")


def test_it_needs_no_torch():
    asked = "import sys; from llama_cli.backends.machine import processor; processor(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_nothing_else_asks_what_a_processor_is():
    """Python asks machine.py; C++ asks in target.h."""
    package = Path(llama_cli.__file__).parent
    asking = re.compile(r"cpuinfo|torch\.cpu\._is_|__(AVX|AMX|SSE|x86|ARM|aarch|riscv)|march=")
    asks = {
        path.name
        for path in package.rglob("*")
        if path.suffix in (".py", ".h", ".cpp") and asking.search(path.read_text())
    }
    assert asks == {"machine.py", "target.h"}
