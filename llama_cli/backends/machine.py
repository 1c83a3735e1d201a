"""What the processor of this machine can: the one place that asks, so that a new one is a line here. No torch."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
TARGET = "-march=native"  # what a compiler is told; native/target.h says what becomes of it

# How torch calls what the kernel of Linux calls so, for where there is no /proc.
TORCHS_NAMES = {
    "avx2": "_is_avx2_supported",
    "avx512_vnni": "_is_vnni_supported",
    "avx512_bf16": "_is_avx512_bf16_supported",
    "amx_tile": "_is_amx_tile_supported",
}


@dataclass(frozen=True)
class Processor:
    """A processor as Linux describes it."""

    architecture: str  # x86_64, aarch64
    maker: str = ""  # GenuineIntel, AuthenticAMD
    features: frozenset[str] = frozenset()

    @property
    def is_x86(self) -> bool:
        return self.architecture in ("x86_64", "AMD64")

    @property
    def has_avx2(self) -> bool:
        return self.is_x86 and "avx2" in self.features

    @property
    def multiplies_bytes(self) -> bool:
        """Whether torch multiplies bytes in one instruction that cannot overflow."""
        return "avx512_vnni" in self.features

    @property
    def has_byte_kernels(self) -> bool:
        """Whether our own kernels multiply bytes: HAS_BYTE_PRODUCTS of native/target.h."""
        return not self.features.isdisjoint({"avx512_vnni", "avx_vnni"})

    @property
    def packs_bfloat16(self) -> bool:
        """Whether oneDNN has a faster layout for bfloat16."""
        return (self.is_x86 and self.features >= {"avx512bw", "avx512vl", "avx512dq"}) or "bf16" in self.features

    @property
    def lacks_bfloat16(self) -> bool:
        """Whether an x86 has no instructions for bfloat16."""
        return self.is_x86 and self.features.isdisjoint({"amx_tile", "avx512_bf16"})

    @property
    def is_slow_in_bfloat16(self) -> bool:
        """Whether it has vdpbf16ps at half the speed of float32, as Intel's processors do; AMD's have it at twice."""
        return self.is_x86 and self.maker == "GenuineIntel" and "amx_tile" not in self.features

    @property
    def defines(self) -> tuple[str, ...]:
        """What native/target.h cannot see by itself."""
        return ("-DSLOW_BFLOAT16_PRODUCTS",) if self.is_slow_in_bfloat16 else ()

    @property
    def identity(self) -> str:
        """What code that is compiled for it depends on."""
        return f"{self.architecture} {' '.join(sorted(self.features))}"


@cache
def processor() -> Processor:
    """That of this machine."""
    try:
        described = CPUINFO.read_text()
    except OSError:  # another system, or no /proc in a container
        return Processor(platform.machine(), features=_features_by_torch())
    facts: dict[str, str] = {}
    for name, _, value in (line.partition(":") for line in described.splitlines()):
        facts.setdefault(name.strip().lower(), value.strip())  # of the first core
    features = facts.get("flags") or facts.get("features", "")  # on x86, on ARM
    return Processor(platform.machine(), facts.get("vendor_id", ""), frozenset(features.split()))


def _features_by_torch() -> frozenset[str]:
    import torch  # takes seconds, and only where nothing else tells

    return frozenset(name for name, asked in TORCHS_NAMES.items() if getattr(torch.cpu, asked)())
