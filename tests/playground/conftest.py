"""The world that the pack ships, for tests of it and of what samples from it."""

import sys
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def playground(pack) -> ModuleType:
    """The package, which in the pack's own namespace lies below the node's module."""
    return sys.modules[f"{pack.__name__}.playground"]


@pytest.fixture(scope="session")
def world(playground):
    """One of its own: through what nodes have made in inference mode, nothing can be trained."""
    with torch.inference_mode(False):
        return playground.distribution.world.__wrapped__()


@pytest.fixture(scope="session")
def ruler(playground, world):
    return playground.measures.Ruler(world, playground.distribution.POSITIVE)


@pytest.fixture(autouse=True)
def no_gradients():
    """Not inference mode, in which tests of guiders leave torch."""
    with torch.inference_mode(False), torch.no_grad():
        yield
