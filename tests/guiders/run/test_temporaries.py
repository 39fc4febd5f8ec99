"""How many tensors of the latent's size each formula makes: memory is what large videos lack."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SHAPE = (2, 4, 8, 16)


class FullSize(TorchDispatchMode):
    """Counts tensors of at least a latent's size that get memory of their own."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        known = {t.data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.numel() >= torch.Size(SHAPE).numel():
                self.count += tensor.data_ptr() not in known
        return result


# Beside the result: one for each product that is summed up, and one where a sum has two terms.
MOST = {
    "add_push": (1, lambda f, a, b, c, s: f.add_push(a, b, 1.0)),
    "add_push, of each sample": (1, lambda f, a, b, c, s: f.add_push(a, b, s)),
    "projected": (3, lambda f, a, b, c, s: f.projected(a, b, 0.0)),
    "with_momentum": (1, lambda f, a, b, c, s: f.with_momentum(a, b, -0.5)),
    "capped": (1, lambda f, a, b, c, s: f.capped(a, 1.0)),
    "rejected": (3, lambda f, a, b, c, s: f.rejected(a, b)),
    "kept_along": (3, lambda f, a, b, c, s: f.kept_along(a, b)),
    "rescaled": (3, lambda f, a, b, c, s: f.rescaled(a, b, s, 0.7)),
    "zero_star": (5, lambda f, a, b, c, s: f.zero_star(a, b, c)),
    "perp_neg": (6, lambda f, a, b, c, s: f.perp_neg(a, b, c, s, 1.0)),
    "norm": (0, lambda f, a, b, c, s: f.norm(a)),
    "dot": (1, lambda f, a, b, c, s: f.dot(a, b)),
}


@pytest.mark.parametrize("name", MOST)
def test_no_more_than_needed(name, pack):
    most, compute = MOST[name]
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(SHAPE, generator=generator) for _ in range(3)]
    with FullSize() as full_size:
        compute(pack.guiders.push.formulas, *tensors, torch.tensor([1.5, 2.0]))
    assert full_size.count == most
