"""The devices that a test of numbers runs on: a GPU is one more where this machine has it."""

import pytest
import torch

_NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="found no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=_NO_GPU)]
