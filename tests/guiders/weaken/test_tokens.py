"""Shuffled tokens of a U-Net; where those of a transformer are is in ``test_passes``."""

from support.small_models import BY_NAME
from support.weakening import UNETS, predict


def test_shuffled_tokens_are_all_of_a_unets_transformer(weaken, seen):
    for name in UNETS:
        architecture = BY_NAME[name]
        seen.clear()
        predict(architecture, weaken("tokens", architecture.build(0), "all"))
        assert all((span.start, span.stop) == (0, x.shape[1]) for x, span, _ in seen)
        assert len({x.shape[1] for x, _, _ in seen}) >= 2
