"""What tests of training need."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def gradients() -> Iterator[None]:
    """Not inference mode, in which tests of guiders leave torch."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
