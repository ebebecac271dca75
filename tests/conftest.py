"""Settings that hold for every test."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

# one thread a process: xdist already has a process a core, and sums are then the same everywhere
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# the first example of a property may import torch machinery, which is no property of the example
settings.register_profile("fxhead", deadline=None)
settings.load_profile("fxhead")
