"""Conditionings with something taken away."""

import importlib
import math

import pytest
import torch

from support.rig import Pushes, Run, record

NODE = "Some Weaken Node"
MODES = ["drop", "noise", "blur"]


@pytest.fixture(scope="module")
def degradations(pack):
    return importlib.import_module(".guiders.weaken.degradations", pack.__name__)


@pytest.fixture(scope="module")
def weaken(pack):
    weak_prompts = importlib.import_module(".guiders.weaken.prompts", pack.__name__)

    def weaken(conditioning, mode, amount=0.4, seed=5):
        return weak_prompts.weaken_prompt(NODE, conditioning, mode, amount, seed)

    return weaken


def entry(tokens=12, width=6, seed=1, dtype=torch.float32, **extras):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(2, tokens, width, generator=generator)
    pooled = torch.randn(2, 4, generator=generator)
    return [embedding.to(dtype), {"pooled_output": pooled.to(dtype), **extras}]


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


def test_drop(weaken, degradations):
    given = entry()
    [[embedding, extras]] = weaken([given], "drop")
    assert torch.equal(embedding, degradations.drop_tokens(given[0], 0.4, generator()))
    assert extras["pooled_output"] is given[1]["pooled_output"]


def test_noise(weaken, degradations):
    given = entry()
    [[embedding, extras]] = weaken([given], "noise", amount=1.7)
    source = generator()
    assert torch.equal(embedding, degradations.add_prompt_noise(given[0], 1.7, source))
    pooled = degradations.add_prompt_noise(given[1]["pooled_output"], 1.7, source)
    assert torch.equal(extras["pooled_output"], pooled)


def test_blur(weaken, degradations):
    given = entry()
    [[embedding, extras]] = weaken([given], "blur")
    assert torch.equal(embedding, degradations.blur_prompt(given[0], 0.4))
    torch.testing.assert_close(extras["pooled_output"], 0.6 * given[1]["pooled_output"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtype_is_kept_and_the_input_untouched(weaken, mode, dtype):
    given = [entry(dtype=dtype, start_percent=0.2), entry(tokens=3, dtype=dtype)]
    before = [
        [e.clone(), {k: v.clone() for k, v in x.items() if k != "start_percent"}] for e, x in given
    ]
    weaker = weaken(given, mode)
    for (old, extras), (saved, saved_extras), (new, new_extras) in zip(
        given, before, weaker, strict=True
    ):
        assert torch.equal(old, saved)
        assert torch.equal(extras["pooled_output"], saved_extras["pooled_output"])
        assert new.dtype == new_extras["pooled_output"].dtype == dtype
        assert not torch.equal(new, old)
    assert given[0][1].keys() == weaker[0][1].keys()


@pytest.mark.parametrize("mode", MODES)
def test_all_else_is_handed_on(weaken, mode):
    extras = {
        "control": object(),
        "mask": torch.ones(1, 8, 8),
        "hooks": object(),
        "area": (4, 4, 0, 0),
        "start_percent": 0.1,
        "conditioning_llama3": torch.ones(1, 1, 5, 4),
        "attention_mask": torch.ones(1, 12),
    }
    [[_, weaker]] = weaken([entry(**extras)], mode)
    assert weaker.keys() == extras.keys() | {"pooled_output"}
    assert all(weaker[key] is value for key, value in extras.items())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("extras", [{}, {"pooled_output": None}], ids=str)
def test_without_a_pooled_output(weaken, mode, extras):
    [[embedding, weaker]] = weaken([[entry()[0], extras]], mode)
    assert not torch.equal(embedding, entry()[0])
    assert weaker == extras


@pytest.mark.parametrize("mode", MODES)
def test_entries_of_different_sizes(weaken, mode):
    given = [entry(tokens=77), entry(tokens=1, width=3), entry(tokens=154, seed=2)]
    weaker = weaken(given, mode)
    assert [new.shape for new, _ in weaker] == [old.shape for old, _ in given]


def test_a_prompt_over_time_ranges_is_one_prompt(weaken):
    """Two entries of the same words lose the same of them."""
    for mode in MODES:
        one, two = weaken([entry(end_percent=0.5), entry(start_percent=0.5)], mode)
        assert torch.equal(one[0], two[0])


@pytest.mark.parametrize("mode", ["drop", "noise"])
def test_seeds(weaken, mode):
    one, again, other = (weaken([entry()], mode, seed=seed)[0][0] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("mode", MODES)
def test_each_image_of_a_batch_has_the_prompt_that_it_has_alone(weaken, mode):
    generator = torch.Generator().manual_seed(1)
    embedding = torch.randn(3, 12, 6, generator=generator)
    pooled = torch.randn(3, 4, generator=generator)
    [[together, extras]] = weaken([[embedding, {"pooled_output": pooled}]], mode)
    for i in range(3):
        rows = slice(i, i + 1)
        [[alone, its]] = weaken([[embedding[rows], {"pooled_output": pooled[rows]}]], mode)
        torch.testing.assert_close(together[rows], alone)
        torch.testing.assert_close(extras["pooled_output"][rows], its["pooled_output"])


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_every_seed_of_the_widget(weaken, seed):
    weaken([entry()], "noise", seed=seed)


@pytest.mark.parametrize("mode", MODES)
def test_as_the_weak_models_prompt(weaken, mode, main, positive, guide):
    """In the guider it gives the closed form, like any other conditioning."""
    weaker = weaken(positive, mode, amount=0.8)
    run = Run.of(main)
    recorded, recording = record(main)
    run.sample(guide(model=recorded, positive=positive, weak_positive=weaker))
    Pushes(main, positive, weak=main, weak_scale=1.7, weak_positive=weaker).assert_hold(
        run, recording
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("amount", [0.0, -0.1, math.nan, math.inf, -math.inf])
def test_amounts_that_weaken_nothing(pack, weaken, mode, amount):
    with pytest.raises(pack.guiders.errors.GuidanceError, match=f"^{NODE}, input 'amount'"):
        weaken([entry()], mode, amount)


@pytest.mark.parametrize("mode", ["drop", "blur"])
def test_more_than_all_of_the_prompt(pack, weaken, mode):
    weaken([entry()], mode, 1.0)
    with pytest.raises(pack.guiders.errors.GuidanceError, match=r"'amount': got 1\.1.*at most 1"):
        weaken([entry()], mode, 1.1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("embedding", "told"),
    [(None, "nothing"), (torch.ones(2, 4), r"shape \[2, 4\]"), ([], "nothing")],
    ids=["None", "two dimensions", "a list"],
)
def test_no_text_embedding(pack, weaken, mode, embedding, told):
    with pytest.raises(pack.guiders.errors.GuidanceError, match=f"'conditioning'.*{told}"):
        weaken([entry(), [embedding, {}]], mode)


@pytest.mark.parametrize(
    ("mode", "conditioning"),
    [
        ("drop", []),
        ("drop", [[torch.zeros(1, 1, 4), {"pooled_output": torch.ones(1, 4)}]]),
        ("drop", [[torch.ones(1, 9, 4), {}]]),
        ("blur", [[torch.rand(1, 1, 4), {}]]),
        ("noise", [[torch.zeros(1, 9, 4), {"pooled_output": torch.zeros(1, 4)}]]),
    ],
)
def test_nothing_to_take_away(pack, weaken, mode, conditioning):
    with pytest.raises(pack.guiders.errors.GuidanceError, match=f"'conditioning'.*'{mode}' takes"):
        weaken(conditioning, mode)


def test_one_entry_that_changes_is_enough(weaken):
    weaken([[torch.ones(1, 9, 4), {}], entry()], "drop")
