"""How much is computed at a time, on which the memory of a step depends. No torch."""

from __future__ import annotations

CHUNK = 512  # tokens of a prompt that one step computes at most

# Of a weight that is upcast: the heap keeps such blocks for the next step (files/pages.keep_heap). More parts than
# needed cost an answer up to 7 % of its speed.
PART_BYTES = 64 << 20
