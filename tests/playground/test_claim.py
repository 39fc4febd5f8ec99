"""The paper's claim, on the models that ship: a bad version keeps what an empty prompt costs."""

import pytest

COUNT = 3000
SEEDS = [0, 1]


@pytest.fixture(scope="module")
def measured(playground, ruler):
    """Outliers and coverage of a method at a scale, for a seed."""
    methods = playground.methods
    cache = {}

    def measured(method, scale, seed):
        key = (method, scale, seed)
        if key not in cache:
            models = methods.models()
            bad_versions = getattr(methods, method)(models, methods.Settings(scale, scale))
            ends = playground.sampling.sample(
                models.main, methods.WANTED, bad_versions, COUNT, seed
            ).ends
            cache[key] = ruler.outliers(ends), ruler.coverage(ends)
        return cache[key]

    return measured


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cfg", [1.5, 2.0, 3.0])
def test_an_empty_prompt_brings_fewer_outliers_and_costs_coverage(measured, cfg, seed):
    outliers, plain = measured("unguided", 1.0, seed)
    fewer, coverage = measured("classifier_free", cfg, seed)
    assert fewer < 0.8 * outliers
    assert plain > 0.97
    assert coverage < plain - 0.08 * (cfg - 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cfg", [1.5, 2.0, 3.0])
def test_a_bad_version_loses_at_most_half_of_it_at_no_more_outliers(measured, cfg, seed):
    _, plain = measured("unguided", 1.0, seed)
    outliers, coverage = measured("classifier_free", cfg, seed)
    for scale in (1.3, 1.5, 2.0):
        fewer, kept = measured("bad_version", scale, seed)
        if fewer <= outliers:
            assert plain - kept <= (plain - coverage) / 2
            break
    else:
        pytest.fail("no scale of the bad version has as few outliers")


@pytest.mark.parametrize("seed", SEEDS)
def test_at_the_scales_of_the_figure_it_has_fewer_outliers_and_more_coverage(measured, seed):
    outliers, coverage = measured("classifier_free", 2.0, seed)
    fewer, kept = measured("bad_version", 2.0, seed)
    assert fewer < 0.75 * outliers and kept > coverage + 0.03


def test_a_dynamic_negative_leaves_alone_what_a_constant_one_drives_away(measured):
    plain, _ = measured("unguided", 1.0, 0)
    driven, _ = measured("negative", 2.0, 0)
    left, coverage = measured("dynamic_negative", 2.0, 0)
    assert driven > 0.9
    assert left < plain + 0.02 and coverage > 0.85
