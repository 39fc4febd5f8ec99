"""Tokens in another order; where those of a transformer are is in ``test_passes``."""

import dataclasses

import pytest
import torch

from support.rare_models import EVERY_BY_NAME
from support.rig import assert_as_alone, core_guider, record
from support.small_models import BY_NAME, TEXT_TOKENS
from support.weakening import UNETS, distance, one_step, predict

SHARE, SEED = 0.5, 3  # as support.weakening has them


def test_shuffled_tokens_are_all_of_a_unets_transformer(weaken, seen):
    for name in UNETS:
        architecture = BY_NAME[name]
        seen.clear()
        predict(architecture, weaken("tokens", architecture.build(0), "all"))
        assert all((span.start, span.stop) == (0, x.shape[1]) for x, span, _ in seen)
        assert len({x.shape[1] for x, _, _ in seen}) >= 2


class Reordering:
    """What the node does to one block, by hooks on it: written once more.

    Args:
        block: module of the network.
        order_of: where each of the image's tokens comes from, by the image's tokens.
        at: name or place of the argument that has the image; it comes back alone, or first.
        first: where the image starts in it.
        tokens: how many it has.
        back: whether they go back behind the block.
    """

    def __init__(self, block, order_of, at=0, first=0, tokens=24, back=True):
        self.order_of, self.at, self.back = order_of, at, back
        self.rows = slice(first, first + tokens or None)
        before = block.register_forward_pre_hook(self.before, with_kwargs=True)
        self.handles = [before, block.register_forward_hook(self.behind)]

    def before(self, _, args, kwargs):
        given = {**dict(enumerate(args)), **kwargs}
        x = given[self.at]
        self.order = self.order_of(x[..., self.rows, :])
        moved = x.clone()
        moved[..., self.rows, :] = x[..., self.rows, :].index_select(-2, self.order)
        given[self.at] = moved
        return tuple(given[i] for i in range(len(args))), {k: given[k] for k in kwargs}

    def behind(self, _, __, out):
        if not self.back:
            return None
        image = (out if isinstance(out, torch.Tensor) else out[0]).clone()
        rows = image[..., self.rows, :].clone()
        image[..., self.rows, :] = rows.index_select(-2, self.order.argsort())
        return image if isinstance(out, torch.Tensor) else (image, *out[1:])


def shuffled(pack, path, sigma):
    """The order of the seed: a cycle through the first half of what is drawn."""

    def order_of(image):
        generator = pack.guiders.weaken.perturbations.generator_for("cpu", SEED, sigma, path)
        drawn = torch.randperm(image.shape[-2], generator=generator).tolist()
        drawn = drawn[: round(SHARE * len(drawn))]
        order = torch.arange(image.shape[-2])
        for i, place in enumerate(drawn):
            order[place] = drawn[i - 1]
        return order

    return order_of


CASES = {
    "image beside text": ("flux", "double 1", "double_blocks.1", {"at": "img"}),
    "image behind text": ("flux", "single 2", "single_blocks.2", {"first": TEXT_TOKENS}),
    "image alone": ("wan", "1", "blocks.1", {"tokens": 48}),
    "several streams handed on": ("boogu", "double 0", "double_stream_layers.0", {}),
    "no dimension for the batch": ("minimax_h3", "1", "blocks.1", {"first": -48, "tokens": 48}),
    "blocks that know no places": ("sd3", "1", "joint_blocks.1", {"at": 1, "back": False}),
}


@pytest.mark.parametrize(
    ("name", "blocks", "path", "where"),
    [case for case in CASES.values() if case[0] in EVERY_BY_NAME],
    ids=[title for title, case in CASES.items() if case[0] in EVERY_BY_NAME],
)
def test_shuffled_tokens_go_back_behind_the_block(name, blocks, path, where, weaken, models, pack):
    architecture = EVERY_BY_NAME[name]
    model = models(architecture)
    sigma = float(one_step(architecture, model).sigmas[0])
    block = model.model.diffusion_model.get_submodule(path)
    reordering = Reordering(block, shuffled(pack, path, sigma), **where)
    expected = predict(architecture, model)
    for handle in reordering.handles:
        handle.remove()
    assert distance(expected, predict(architecture, model)) > 1e-4
    assert distance(predict(architecture, weaken("tokens", model, blocks)), expected) < 1e-6


KNOW_NO_PLACES = ("sd3", "aura_flow", "pixart", "hunyuan_3d", "hunyuan_3d_2_1")


@pytest.mark.parametrize("name", [name for name in KNOW_NO_PLACES if name in EVERY_BY_NAME])
def test_putting_back_would_undo_all_where_blocks_know_no_places(
    name, weaken, models, pack, monkeypatch
):
    architecture = EVERY_BY_NAME[name]
    model = models(architecture)
    table = pack.guiders.weaken.network
    row = table.architecture_of(model.model.diffusion_model)
    assert not row.know_places
    plain = predict(architecture, model)
    knowing = dataclasses.replace(row, know_places=True)
    monkeypatch.setattr(table, "architecture_of", lambda _: knowing)
    assert distance(predict(architecture, weaken("tokens", model)), plain) < 1e-5


# The most unlike swapped


SWAPPED = ["sd15", "sd3", "flux", "wan"]


@pytest.mark.parametrize("name", SWAPPED)
def test_swapped_tokens(name, weaken, models):
    """Another weak version than shuffled ones; more of it with a larger share; no seed."""
    architecture = BY_NAME[name]
    model = models(architecture)
    plain = predict(architecture, model)

    def swapped(**changed):
        return predict(architecture, weaken("tokens", model, mode="swap", **changed))

    expected = swapped()
    assert distance(expected, plain) > 1e-3
    assert distance(expected, predict(architecture, weaken("tokens", model))) > 1e-3
    assert torch.equal(swapped(seed=4), expected)
    assert distance(swapped(strength=0.01), plain) < distance(swapped(strength=1.0), plain)


def test_swapped_tokens_are_those_that_enter_the_block(weaken, models, pack):
    architecture = BY_NAME["flux"]
    model = models(architecture)
    perturbations = pack.guiders.weaken.perturbations
    run = one_step(architecture, model)
    run = run.with_(latent=run.latent[:1])

    def order_of(image):
        return perturbations.swapped_order(image, slice(0, 24), SHARE)[0]

    block = model.model.diffusion_model.double_blocks[1]
    reordering = Reordering(block, order_of, at="img")
    expected = predict(architecture, model, run)
    for handle in reordering.handles:
        handle.remove()
    weak = predict(architecture, weaken("tokens", model, "double 1", mode="swap"), run)
    assert distance(weak, expected) < 1e-6


@pytest.mark.parametrize("name", SWAPPED)
def test_batch_of_swapped_tokens_is_its_pictures_one_by_one(name, weaken, models):
    architecture = BY_NAME[name]
    model = models(architecture)
    weak = weaken("tokens", model, mode="swap")
    run = one_step(architecture, model)
    recorded, recording = record(weak)
    run.sample(core_guider(recorded, architecture.conditioning(1)))
    assert_as_alone(run, core_guider(weak, architecture.conditioning(1)), recording)
