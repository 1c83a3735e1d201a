"""Kernels in C++, compiled where they run."""
