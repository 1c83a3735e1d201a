"""What a rank has of its machine: a device, threads and memory."""

from __future__ import annotations

import torch

from ..errors import DoesNotFit, UsageError
from ..memory import usable_memory
from .ranks import Place


def choose_device(name: str, place: Place) -> torch.device:
    """The device of that name, or the fastest; a GPU of its own for each rank. DoesNotFit if there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and place.world_size > 1:
        if torch.cuda.device_count() < place.local_size:
            raise DoesNotFit(
                f"{place.local_size} ranks here need as many GPUs; there are {torch.cuda.device_count()}",
                "--device cpu, or fewer ranks",
            )
        torch.cuda.set_device(place.local_rank)
        return torch.device("cuda", place.local_rank)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name!r} is no device", "use auto, cpu, cuda, cuda:0 or mps") from None
    present = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise DoesNotFit(f"there is no device {name!r} here", "--device cpu")
    return device


def choose_threads(asked: int | None, place: Place, *, is_small: bool) -> int:
    """How many threads of a CPU compute, where none were asked for: the cores of a machine, shared by its ranks.

    The matrices of a small model are done before a second thread has woken up; on a busy machine it waits for it.
    """
    if asked is not None or is_small:
        return asked or 1
    return max(torch.get_num_threads() // place.local_size, 1)


def free_memory(device: torch.device, place: Place) -> int:
    """Bytes that a rank may use: those of a GPU of its own, or its part of the memory of its machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return usable_memory() // place.local_size
