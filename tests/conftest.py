"""Fixtures for every test."""

import torch

# Tiny matrices: a second thread costs more than it saves, and tests run side by side.
torch.set_num_threads(1)
