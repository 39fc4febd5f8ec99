"""The workflows on ComfyUI's server, without a page."""

import copy
import io

import pytest
import torch
from PIL import Image, ImageChops

import cards
import demo
from comfyui.server import NodeError, Server
from comfyui.workflow import Prompt, WorkflowError, find_node, to_prompt
from digits.classifier import read_digits
from node_pack import EMOJI_CLASSES
from sheet import CELL
from tiny.judge import CLASSES

pytestmark = pytest.mark.server

NAMES = [*cards.CARDS, *cards.SHEETS, *cards.CHAINS]
SAVED = {name: cards.load(name) for name in NAMES}
# The others draw subjects of many kinds at once, or none.
OF_ONE_SUBJECT = [name for name, card in cards.CARDS.items() if card.subjects is not None]
OF_TINY_MODELS = [name for name in NAMES if cards.WORKFLOWS[name].parent == cards.OF_TINY_MODELS]

ASKED_FOR = {
    "DigitConditioning": ("0", "2", "3"),
    "EmojiConditioning": ("face", "vehicle", "heart"),
}
PROMPT_NAMES = {
    "DigitConditioning": "Digit Conditioning",
    "EmojiConditioning": "Emoji Conditioning",
}

each_workflow = pytest.mark.parametrize("name", NAMES)
each_workflow_of_one_subject = pytest.mark.parametrize("name", OF_ONE_SUBJECT)


def first_pictures(server: Server, prompt: Prompt) -> list[Image.Image]:
    """Run a prompt; returns the first image of each node that saves some."""
    return [pictures[0] for pictures in cards.run(server, prompt).values()]


def saved_prompt(name: str) -> tuple[str, str]:
    """The class of the prompts of the tiny models in a workflow, and what the first one says."""
    return next(
        (node["type"], node["widgets_values"][0])
        for node in SAVED[name]["nodes"]
        if node["type"] in cards.SUBJECTS
    )


def read(name: str, pictures: list[Image.Image]) -> list[str]:
    """What a classifier sees in images that a workflow has drawn."""
    if saved_prompt(name)[0] == "EmojiConditioning":
        return demo.read_kinds(pictures, EMOJI_CLASSES)
    return list(map(str, read_digits(demo.as_tensor(pictures))))


def test_every_workflow_is_tested():
    assert sorted(NAMES) == list(cards.WORKFLOWS)


@each_workflow
def test_only_templates_of_the_tiny_models_need_their_node_pack(name):
    kinds = {node["type"] for node in SAVED[name]["nodes"]}
    of_tiny_models = cards.WORKFLOWS[name].parent == cards.OF_TINY_MODELS
    assert bool(kinds & cards.SUBJECTS.keys()) == of_tiny_models


@pytest.mark.parametrize("number", range(3))
@each_workflow_of_one_subject
def test_workflow_draws_what_was_asked_for(server, prompt_of, name, number):
    subject = ASKED_FOR[saved_prompt(name)[0]][number]
    pictures = first_pictures(server, cards.with_subject(prompt_of(name), subject))
    assert {picture.size for picture in pictures} == {(64, 64)}
    assert read(name, pictures) == [subject] * len(pictures)


@each_workflow_of_one_subject
def test_every_push_changes_its_picture(server, prompt_of, name):
    """As it is saved, the workflow shows its subject, and does not show what it would without."""
    prompt = prompt_of(name)
    pushed = first_pictures(server, prompt)
    without = [each.applied(prompt) for each in cards.CARDS[name].without]
    unpushed = cards.set_inputs(prompt, weak_scale=1.0)
    if unpushed not in without:  # Nothing comes of the same prompt twice in a row.
        without.append(unpushed)
    plain = {first_pictures(server, each)[0].tobytes() for each in without}
    drawn = {picture.tobytes() for picture in pushed}
    assert len(drawn) == len(pushed) and not drawn & plain
    assert read(name, pushed) == [saved_prompt(name)[1]] * len(pushed)


def test_interval_of_all_steps_is_none(server, prompt_of):
    prompt = prompt_of("schedule_interval")
    always = cards.set_inputs(prompt, start=0.0, end=1.0)
    (_, every_step) = cards.CARDS["schedule_interval"].without
    pictures = [
        first_pictures(server, each)[0].tobytes()
        for each in (prompt, always, every_step.applied(prompt))
    ]
    assert pictures[0] != pictures[1] == pictures[2]


def test_interval_is_previewed_with_the_steps_and_scale_of_the_guider(server, prompt_of):
    prompt = prompt_of("schedule_interval")
    preview, guider = (
        prompt[find_node(prompt, each)]["inputs"]
        for each in ("BadVersionGuidanceSchedulePreview", "BadVersionGuider")
    )
    assert preview["scale"] == guider["weak_scale"]
    assert preview["schedule"] == guider["weak_schedule"]
    assert preview["model"] == guider["model"]
    sampler = prompt[find_node(prompt, "SamplerCustomAdvanced")]["inputs"]
    assert preview["sigmas"] == sampler["sigmas"]

    def drawn(end):
        # Not the end as saved: of what it has in its cache, the server sends no images.
        outputs = server.wait(server.queue(cards.set_inputs(prompt, end=end)))["outputs"]
        (image,) = outputs[find_node(prompt, "BadVersionGuidanceSchedulePreview")]["images"]
        with Image.open(io.BytesIO(server.image(image))) as picture:
            assert picture.size == (768, 432)
            return picture.tobytes()

    assert drawn(0.4) != drawn(0.6)


def test_apg_takes_away_what_a_high_cfg_adds_to_the_brightness(server, prompt_of):
    prompt = prompt_of("shape_apg")
    (_, unshaped) = cards.CARDS["shape_apg"].without
    shaped, plain = [], []
    for digit in range(10):
        drawn = cards.drawn(prompt, str(digit), digit)
        shaped += first_pictures(server, drawn)
        plain += first_pictures(server, unshaped.applied(drawn))
    shaped, plain = demo.as_tensor(shaped), demo.as_tensor(plain)
    assert shaped.mean() < plain.mean()
    digits = torch.arange(10)
    assert (read_digits(shaped) == digits).sum() >= (read_digits(plain) == digits).sum() >= 9


def test_apg_that_takes_nothing_away_is_no_shape(server, prompt_of):
    prompt = prompt_of("shape_apg")
    (_, unshaped) = cards.CARDS["shape_apg"].without
    neutral = cards.set_inputs(prompt, eta=1.0, norm_threshold=0.0, momentum=0.0)
    pictures = [
        first_pictures(server, each)[0].tobytes()
        for each in (prompt, neutral, unshaped.applied(prompt))
    ]
    assert pictures[0] != pictures[1] == pictures[2]


def test_dynamic_negative_removes_a_digit_and_keeps_the_others(server, prompt_of):
    prompt = prompt_of("dynamic_negative")
    (digit,) = (
        int(node["inputs"]["digit"])
        for node in prompt.values()
        if node["class_type"] == "DigitConditioning" and node["inputs"]["digit"] != "none"
    )
    any_kind, constant = cards.CARDS["dynamic_negative"].without
    (seed,) = (n["inputs"]["seed"] for n in prompt.values() if n["class_type"] == "KSampler")
    drawn: list[list[torch.Tensor]] = [[], [], []]
    # Not every release of ComfyUI draws enough of this digit from the seed of the graph.
    for more in range(4):
        seeded = cards.set_inputs(prompt, seed=seed + more)
        for pictures, each in zip(
            drawn, (seeded, any_kind.applied(seeded), constant.applied(seeded)), strict=True
        ):
            pictures.append(demo.as_tensor(demo.run(server, each)))
        pushed, plain, by_prompt = (read_digits(torch.cat(pictures)) for pictures in drawn)
        assert len(plain) == 16 * len(drawn[0])
        if (plain == digit).sum() >= 3:
            break
    assert (plain == digit).sum() >= 3
    assert (pushed == digit).sum() == 0
    others = plain != digit
    kept, kept_by_prompt = ((each == plain)[others] for each in (pushed, by_prompt))
    assert kept.sum() >= 0.7 * len(kept)
    assert kept_by_prompt.sum() < 0.5 * kept.sum()


def test_dynamic_negative_has_no_weak_push_until_it_is_switched_on(server, prompt_of):
    prompt = prompt_of("dynamic_negative")
    assert prompt[find_node(prompt, "BadVersionPatch")]["inputs"]["weak_scale"] == 1
    drawn = [demo.run(server, each) for each in (prompt, cards.set_inputs(prompt, weak_scale=2.0))]
    one, other = ([picture.tobytes() for picture in pictures] for pictures in drawn)
    assert len(one) == len(other) and not set(one) & set(other)


def test_every_way_of_the_demo_is_another_one(server, prompt_of):
    prompt = prompt_of(demo.WORKFLOW)
    drawn = [demo.run(server, demo.guided(prompt, way, "fruit", seed=1)) for way in demo.WAYS]
    count = demo.PER_KIND * len(demo.WAYS)
    assert [len(pictures) for pictures in drawn] == [demo.PER_KIND] * len(demo.WAYS)
    assert len({picture.tobytes() for pictures in drawn for picture in pictures}) == count


def test_demo_draws_all_kinds_of_emoji_that_its_classifier_knows(object_info):
    kinds = cards.subjects_of(object_info, "EmojiConditioning")
    assert kinds == EMOJI_CLASSES[:-1] and len(kinds) == CLASSES


def test_sheet_of_the_demo_has_every_picture_that_it_counts_as_shown():
    colours = [(200, 30 * i, 20 * j) for j in range(2) for i in range(2)]
    pictures = [Image.new("RGB", (64, 64), colour) for colour in colours]
    rows = [
        demo.Row(way, "", {"face": pictures[:2], "hand": pictures[2:]}, right=3, seconds=0.0)
        for way in demo.WAYS
    ]
    assert {row.count for row in rows} == {4}
    drawn = demo.draw(rows)
    shown = dict((colour, count) for count, colour in drawn.getcolors(drawn.width * drawn.height))
    assert [shown[colour] for colour in colours] == [len(rows) * CELL**2] * len(colours)


def test_same_model_as_weak_model_is_an_error_of_the_guider(server, prompt_of):
    prompt = prompt_of("bad_version_digits")
    guider = find_node(prompt, "BadVersionGuider")
    prompt[guider]["inputs"]["weak_model"] = prompt[guider]["inputs"]["model"]
    with pytest.raises(NodeError, match=r"'model' .*, with nothing changed") as failure:
        server.wait(server.queue(prompt))
    assert (failure.value.node_id, failure.value.node_type) == (guider, "BadVersionGuider")
    assert "Bad-Version Guider, input 'weak_model': got" in failure.value.message


def test_with_nothing_connected_the_model_is_its_own_bad_version(server, prompt_of):
    prompt = prompt_of("one_checkpoint")
    guider = find_node(prompt, "BadVersionGuider")
    widgets = {"cfg", "weak_scale", "weak_every"}
    assert prompt[guider]["inputs"].keys() == {"model", "positive"} | widgets
    (auto,) = first_pictures(server, prompt)
    assert "Bad-Version Guider: pushes away from SD3 without joint " in server.log()

    # The same by hand, as the tooltip says.
    by_hand = copy.deepcopy(prompt)
    model = prompt[guider]["inputs"]["model"]
    by_hand["weak"] = {
        "class_type": "BadVersionWeakenBySkippingBlocks",
        "inputs": {"model": model, "blocks": "auto"},
    }
    by_hand[guider]["inputs"]["weak_model"] = ["weak", 0]
    assert first_pictures(server, by_hand)[0].tobytes() == auto.tobytes()

    # At scale 1 there is no push: what ComfyUI draws alone.
    off = cards.set_inputs(prompt, weak_scale=1.0)
    alone = copy.deepcopy(off)
    alone[guider] = {
        "class_type": "BasicGuider",
        "inputs": {"model": model, "conditioning": prompt[guider]["inputs"]["positive"]},
    }
    ((plain,), (cores,)) = (first_pictures(server, each) for each in (off, alone))
    assert plain.tobytes() == cores.tobytes() != auto.tobytes()


def test_graph_for_a_checkpoint_draws_with_the_loaders_of_the_digits(server, prompt_of):
    prompt = prompt_of("sd15_one_checkpoint")
    sampler = prompt[find_node(prompt, "KSampler")]["inputs"]
    for name, digit in {"positive": "3", "negative": "none"}.items():
        node_id, _ = sampler[name]
        prompt[node_id] = {"class_type": "DigitConditioning", "inputs": {"digit": digit}}
    unet = {"unet_name": "digits_main.safetensors", "weight_dtype": "default"}
    prompt["model"] = {"class_type": "UNETLoader", "inputs": unet}
    prompt["vae"] = {"class_type": "VAELoader", "inputs": {"vae_name": "digits_vae.safetensors"}}
    prompt[find_node(prompt, "BadVersionPatch")]["inputs"]["model"] = ["model", 0]
    prompt[find_node(prompt, "VAEDecode")]["inputs"]["vae"] = ["vae", 0]
    del prompt[find_node(prompt, "CheckpointLoaderSimple")]
    prompt = cards.set_inputs(prompt, width=64, height=64, scheduler="simple", weak_scale=2.0)

    drawn = [
        first_pictures(server, each)[0]
        for each in (prompt, cards.set_inputs(prompt, weak_scale=1.0))
    ]
    assert read_digits(demo.as_tensor(drawn)).tolist() == [3, 3]
    assert drawn[0].tobytes() != drawn[1].tobytes()


@each_workflow
def test_card_has_a_picture_that_is_larger_than_what_is_drawn(name):
    with Image.open(cards.card_path(name)) as card:
        assert card.format == "JPEG"
        assert card.width == card.height >= 512


@each_workflow
def test_top_of_a_card_is_free_for_the_badge_that_the_page_lays_there(name):
    with Image.open(cards.card_path(name)) as card:
        top = card.convert("RGB").crop((0, 0, card.width, round(0.12 * card.height)))
    ground = Image.new("RGB", top.size, cards.GROUND)
    _, brightest = ImageChops.difference(top, ground).convert("L").getextrema()
    assert brightest < cards.FAINT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "NoSuchNode"}, "no such node"),
        ({"mode": 4}, "muted or bypassed"),
        ({"widgets_values": []}, "0 values for the widgets"),
    ],
)
def test_what_cannot_be_converted_is_refused(object_info, change, message):
    workflow = copy.deepcopy(SAVED["bad_version_digits"])
    (node,) = (n for n in workflow["nodes"] if n["type"] == "RandomNoise")
    node.update(change)
    with pytest.raises(WorkflowError, match=rf"node {node['id']} .*{message}"):
        to_prompt(workflow, object_info)


# What is drawn.


@each_workflow
def test_links_run_from_left_to_right(name):
    left = {node["id"]: node["pos"][0] for node in SAVED[name]["nodes"]}
    for _, source, _, target, _, kind in SAVED[name]["links"]:
        assert left[source] < left[target], kind


@pytest.mark.parametrize("name", OF_TINY_MODELS)
def test_note_says_what_to_replace(name):
    (note,) = (node for node in SAVED[name]["nodes"] if node["type"] == "MarkdownNote")
    (text,) = note["widgets_values"]
    assert "bad version" in text
    kinds = {node["type"] for node in SAVED[name]["nodes"]}
    assert all(words in text for words in ("weak_scale", "your own models", "CLIP Text Encode"))
    for class_type, name in PROMPT_NAMES.items():
        if class_type in kinds:
            assert name in text and "may be missing" in text
    if "EmojiConditioning" in kinds:
        assert "OpenMoji" in text and "CC BY-SA 4.0" in text
    assert "`" not in text  # Newer pages draw code in a colour that cannot be read on a note.
