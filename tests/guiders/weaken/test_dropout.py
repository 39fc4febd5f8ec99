"""Dropped activations."""

import torch

from support.small_models import BY_NAME, TEXT_TOKENS, sd3
from support.weakening import predict


def test_dropped_activations_are_those_before_weight_matrices(weaken, monkeypatch, pack):
    """Each once, at the rate that was asked for, and not the embedding of the noise level."""
    architecture, model = BY_NAME["sd3"], sd3(0)
    rates, shapes = set(), []

    def drop_activations(x, rate, generator):
        rates.add(rate)
        shapes.append(tuple(x.shape))
        return x

    monkeypatch.setattr(pack.guiders.weaken.perturbations, "drop_activations", drop_activations)
    plain = predict(architecture, model)
    assert torch.equal(predict(architecture, weaken("dropout", model, "1")), plain)
    picture, text = (2, 24, 64), (2, TEXT_TOKENS, 64)
    wide = [(*shape[:2], 256) for shape in (picture, text)]
    assert rates == {0.2}
    # Queries with keys and values, their projection, and a network of two layers, in each stream.
    assert sorted(shapes) == sorted([picture] * 3 + [text] * 3 + wide)
