"""What the guider says of its pushes while sampling goes on."""

import re

import pytest
import torch

from support.rig import Run, alone, call, in_graph, record

STEPS = 4


@pytest.fixture
def clock(pack, monkeypatch):
    """A clock that goes on by as many seconds as a test wants, each time it is asked."""
    seconds = [0.0]

    class Clock:
        step = 1.0

        def monotonic(self):
            seconds[0] += self.step
            return seconds[0]

    clock = Clock()
    monkeypatch.setattr(pack.guiders.record.live_text, "time", clock)
    return clock


@pytest.fixture
def sampled(main, pack, clock):
    """Sample with both pushes, as they are or changed; the texts, and what each call predicted."""
    Guidance, sampling = pack.guiders.run.settings.Guidance, pack.guiders.run.attach

    def sampled(weak_push, positive, negative, cfg=3.0, run=None, push=None):
        texts = []
        recorded, recording = record(main)
        push = push or pack.guiders.push.push.Push()
        weak_pushes = () if weak_push is None else (weak_push,)
        guidance = Guidance("Test", weak_pushes, push, show=texts.append)
        guider = sampling.make_guider(
            sampling.with_guidance(recorded, guidance), positive, negative, cfg
        )
        (run or Run.of(main, steps=STEPS)).sample(guider)
        return texts, recording

    return sampled


@pytest.fixture
def weak_push(pack, weak):
    def weak_push(*schedules):
        push = pack.guiders.push.push.Push(0.7, schedules)
        settings = pack.guiders.run.settings
        return settings.WeakPush("weak", settings.Names("Test"), weak, push, "a worse model")

    return weak_push


def shares(recording, C):
    """The push in percent of the prediction, ``[batch]`` at each call."""
    pairs = zip(recording.denoised, C, strict=True)
    return [
        100 * (guided - c).flatten(1).norm(dim=1) / c.flatten(1).norm(dim=1) for guided, c in pairs
    ]


def test_says_sigma_scales_and_push(sampled, weak_push, main, positive, negative):
    run = Run.of(main, steps=STEPS)
    texts, recording = sampled(weak_push(), positive, negative)
    (C,) = alone(run, recording, main, positive)
    assert len(texts) == STEPS
    for text, sigma, push in zip(texts, recording.sigma, shares(recording, C), strict=True):
        found = re.fullmatch(
            r"sigma (\S+) · cfg 3 · weak_scale 1.7 · push ([\d.]+)–([\d.]+) % "
            "· away from a worse model",
            text,
        )
        assert found, text
        values = torch.tensor([float(each) for each in found.groups()])
        expected = torch.stack([sigma[0], push.min(), push.max()])
        torch.testing.assert_close(values, expected, rtol=6e-3, atol=0.05)


def test_speaks_at_most_five_times_a_second_and_at_the_end(
    sampled, weak_push, positive, negative, clock
):
    clock.step = 0.075
    often, _ = sampled(weak_push(), positive, negative)
    assert len(often) == 2  # At 0.075 and 0.3, which is the fourth and last call.
    clock.step = 0.0
    texts, recording = sampled(weak_push(), positive, negative)
    assert len(texts) <= 2
    assert texts[-1].startswith(f"sigma {float(recording.sigma[-1][0]):.3g} ")


def test_tells_of_a_push_that_is_off(sampled, weak_push, main, positive, negative, only):
    run = Run.of(main, steps=STEPS)
    texts, _ = sampled(weak_push(*only(run, 1)), positive, None, run=run)
    assert [re.search(r"weak_scale (\S+)", text)[1] for text in texts] == ["1", "1.7", "1", "1"]
    assert all("cfg" not in text for text in texts)
    assert " · push 0 % · " in texts[0]


def test_says_the_range_of_a_scale_that_differs_between_pictures(
    sampled, positive, negative, pack, dynamic
):
    push = pack.guiders.push.push.Push(None, dynamic())
    texts, _ = sampled(None, positive, negative, cfg=5.0, push=push)
    assert "cfg 1.44 " in texts[0]
    assert re.search(r"cfg [\d.]+–[\d.]+ ", texts[1])


@pytest.fixture
def shown(pack, comfy_nodes, monkeypatch):
    """A guider of a node that is executed in a graph, and what its page is told."""

    class Server:
        client_id = "a page"

        def __init__(self):
            self.told = []

        def send_progress_text(self, text, node_id, sid=None):
            self.told.append((text, node_id, sid))

    from server import PromptServer

    server = Server()
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)

    def shown(node_id, **inputs):
        return call(in_graph(comfy_nodes[node_id], "17"), **inputs)[0], server

    return shown


def test_text_goes_to_the_node_in_the_page_that_has_queued(shown, main, weak, positive):
    guider, server = shown(
        "BadVersionGuider", model=main, positive=positive, cfg=1.0, weak_scale=2.0, weak_model=weak
    )
    Run.of(main, steps=2).sample(guider)
    assert server.told
    assert {(node_id, page) for _, node_id, page in server.told} == {("17", "a page")}
    # A prompt that no page has queued has no node to show it.
    told, server.client_id = len(server.told), None
    Run.of(main, steps=2).sample(guider)
    assert len(server.told) == told


def test_guider_without_any_push_says_nothing(shown, main, positive, negative):
    guider, server = shown(
        "BadVersionGuider",
        model=main,
        positive=positive,
        negative=negative,
        cfg=1.0,
        weak_scale=1.0,
    )
    Run.of(main, steps=2).sample(guider)
    assert server.told == []


def test_negative_prompt_alone_is_told_of(shown, main, positive, negative):
    guider, server = shown(
        "BadVersionGuider",
        model=main,
        positive=positive,
        negative=negative,
        cfg=4.0,
        weak_scale=1.0,
    )
    Run.of(main, steps=2).sample(guider)
    assert " · cfg 4 · push " in server.told[-1][0]
