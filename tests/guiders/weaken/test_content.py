"""Which tokens of a prompt are its words, with the tokenizers of ComfyUI."""

import importlib

import pytest
import torch
from safetensors.torch import save_file

from support.text_encoders import ENCODERS, text_encoder

NODE = "Some Weaken Node"
TEXT = "red house"
# Of this text, counted by hand: rows of its embedding that are words, and how many rows there are.
ROWS = {
    "sd1": ([1, 2], 77),
    "sdxl": ([1, 2], 77),
    "sd3": ([1, 2, 77, 78], 154),
    "sd3_without_t5": ([1, 2], 77),
    "sd3_with_t5_alone": ([0, 1], 77),
    "flux": ([0, 1], 256),
    # Behind: <|im_end|> \n <|im_start|> assistant \n
    "qwen_image": ([0, 1], 7),
    # In front: <|end_header_id|>, behind: <|eot_id|>
    "hunyuan_video": ([1, 2], 4),
    # In front: <|im_start|> user \n, behind as in Qwen-Image
    "z_image": ([3, 4], 10),
    "klein": ([3, 4], 512),
    # In front: padding and <|im_start|>, behind: <|im_end|>
    "pads_in_front": ([61, 62], 64),
}
# Rows of the empty prompt where it has less than that.
EMPTY_ROWS = {"qwen_image": 5, "hunyuan_video": 2, "z_image": 8}
SOURCES = {"hunyuan_video": [1, 1]}


@pytest.fixture(scope="module")
def encoders():
    """Small text encoders, each made once."""
    made = {}

    def encoder(name):
        if name not in made:
            made[name] = text_encoder(name)
        return made[name]

    return encoder


@pytest.fixture(scope="module")
def content(pack):
    return importlib.import_module(".guiders.weaken.content", pack.__name__)


@pytest.fixture(scope="module")
def prompts(pack):
    return importlib.import_module(".guiders.weaken.prompts", pack.__name__)


@pytest.fixture(scope="module")
def encode(encoders):
    """What core's node makes of a text."""

    def encode(name, text):
        clip = encoders(name) if isinstance(name, str) else name
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    return encode


@pytest.fixture(scope="module")
def weaken(encoders, encode, content, prompts):
    """A prompt without its words, and what was told of it."""

    def weaken(name, text, conditioning=None, amount=1.0, seed=0, empty=None):
        clip = encoders(name) if isinstance(name, str) else name
        empty = encode(name, "") if empty is None else empty
        found = content.find_content(NODE, clip, text, empty[0][0].shape[1])
        conditioning = encode(name, text) if conditioning is None else conditioning
        return prompts.without_content(NODE, conditioning, empty, found, amount, seed)

    return weaken


class Wrapped:
    """A text encoder of which something is done to the embedding."""

    def __init__(self, clip, change):
        self.clip, self.change, self.tokenizer = clip, change, clip.tokenizer

    def tokenize(self, text):
        return self.clip.tokenize(text)

    def encode_from_tokens_scheduled(self, tokens):
        return [[self.change(e), x] for e, x in self.clip.encode_from_tokens_scheduled(tokens)]


def replaced(positive, empty, rows, sources):
    expected = positive[0][0].clone()
    expected[:, rows] = empty[0][0][:, sources]
    return expected


@pytest.mark.parametrize("name", ENCODERS)
def test_words_become_those_of_the_empty_prompt(name, encode, weaken):
    positive, empty = encode(name, TEXT), encode(name, "")
    rows, length = ROWS[name]
    if name == "hunyuan_video" and positive[0][0].shape[1] == 3:
        pytest.skip("the line breaks in front of the words are tokens with this transformers")
    assert positive[0][0].shape[1] == length
    assert empty[0][0].shape[1] == EMPTY_ROWS.get(name, length)
    [[embedding, extras]], told = weaken(name, TEXT)
    expected = replaced(positive, empty, rows, SOURCES.get(name, rows))
    assert torch.equal(embedding, expected)
    assert not torch.equal(embedding, positive[0][0])
    pooled = positive[0][1]["pooled_output"]
    assert extras["pooled_output"] is pooled or torch.equal(extras["pooled_output"], pooled)
    assert told == f'replaced {len(rows)} of {length} tokens: "red", "house"'


@pytest.mark.parametrize(("name", "behind"), [("sd1", []), ("sdxl", []), ("sd3", [0])])
def test_long_prompts_of_several_chunks(name, behind, encode, weaken):
    text = " ".join(["house"] * 80)
    [[embedding, _]], _ = weaken(name, text)
    rows, sources = [*range(1, 76), *range(78, 83)], [*range(1, 76), *range(1, 6)]
    if behind:
        # T5's rows, 80 words and its end, of an empty prompt with 77 of them
        rows += range(154, 234)
        sources += [77 + min(i, 76) for i in range(80)]
    expected = replaced(encode(name, text), encode(name, ""), rows, sources)
    assert torch.equal(embedding, expected)


@pytest.mark.parametrize("name", ["sd1", "sd3"])
def test_weights_in_a_text(name, encode, weaken):
    text = "(red:1.3) house"
    [[embedding, _]], told = weaken(name, text)
    rows, _ = ROWS[name]
    assert torch.equal(embedding, replaced(encode(name, text), encode(name, ""), rows, rows))
    assert told.endswith('tokens: "red", "house"')


def test_words_in_other_alphabets_can_be_read(weaken):
    _, told = weaken("qwen_image", "红色的狐狸")
    assert "红色" in told
    assert "狐狸" in told


def test_a_newline_that_grows_together_with_the_template(encode, weaken):
    """So that the encoder cuts less of the template off than of the empty prompt's."""
    text = "\nred house"
    [[embedding, _]], _ = weaken("qwen_image", text)
    # <|im_start|> user \n\n red house
    positive, empty = encode("qwen_image", text), encode("qwen_image", "")
    assert torch.equal(embedding, replaced(positive, empty, [2, 3, 4], [0, 0, 1]))


def test_textual_inversions(tmp_path, encode, weaken):
    clip = text_encoder("sd1")
    vectors = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    save_file({"emb_params": vectors}, tmp_path / "mine.safetensors")
    clip.tokenizer.clip_l.embedding_directory = str(tmp_path)
    text = "embedding:mine fox"
    [[embedding, _]], told = weaken(clip, text)
    rows = [1, 2, 3]
    assert torch.equal(embedding, replaced(encode(clip, text), encode(clip, ""), rows, rows))
    assert told == 'replaced 3 of 77 tokens: "embedding", "fox"'


def test_a_share_of_the_words(encode, weaken):
    text = "one two three four five six"
    positive = encode("sd1", text)[0][0]

    def changed(**rest):
        [[embedding, _]], told = weaken("sd1", text, **rest)
        return (embedding != positive).any(-1)[0].nonzero().flatten().tolist(), told

    some, told = changed(amount=0.5, seed=1)
    assert len(some) == 3
    assert set(some) < set(range(1, 7))
    assert told.startswith("replaced 3 of 77 tokens: ")
    assert changed(amount=0.5, seed=1)[0] == some
    assert any(changed(amount=0.5, seed=seed)[0] != some for seed in (2, 3, 4))
    assert len(changed(amount=0.01)[0]) == 1


def test_many_words_are_not_all_told_of(weaken):
    _, told = weaken("sd1", " ".join("abcdefghijklmnopqrstuvwxyz"))
    assert told.startswith("replaced 26 of 77 tokens: ")
    assert told.endswith('"t", …')


def test_prompts_of_another_text_stay(encode, weaken):
    """As where two conditionings are combined; a control net, mask or time range is carried."""
    control = object()
    [[mine, extras]], other = encode("sd1", TEXT), encode("sd1", "a fox")
    both = [[mine, {**extras, "control": control}], *other]
    [[embedding, carried], [untouched, _]], told = weaken("sd1", TEXT, conditioning=both)
    assert torch.equal(embedding, weaken("sd1", TEXT)[0][0][0])
    assert carried["control"] is control
    assert torch.equal(untouched, other[0][0])
    assert told.endswith("; 1 of 2 prompts are of another text and stay")


def test_each_image_of_a_batch(encode, weaken):
    [[one, extras]] = encode("sd1", TEXT)
    [[embedding, _]], _ = weaken("sd1", TEXT, conditioning=[[one.repeat(3, 1, 1), extras]])
    assert torch.equal(embedding, weaken("sd1", TEXT)[0][0][0].repeat(3, 1, 1))


@pytest.mark.parametrize("encoded", ["red houses", "red", "red house.", "", "a red house"])
def test_another_text_is_refused(error, encode, weaken, encoded):
    with pytest.raises(error, match=r"'text'.*very text"):
        weaken("sd1", TEXT, conditioning=encode("sd1", encoded))


def test_another_text_encoder_is_refused(error, encode, weaken):
    other = text_encoder("sd1")
    with torch.no_grad():
        for weight in other.cond_stage_model.parameters():
            weight.mul_(1.5)
    with pytest.raises(error, match=r"'text'.*very text"):
        weaken("sd1", TEXT, conditioning=encode(other, TEXT))


def test_rounding_is_no_other_text(encode, weaken):
    [[embedding, extras]] = encode("sd1", TEXT)
    weaken("sd1", TEXT, conditioning=[[embedding.half(), extras]])


def test_a_text_without_words(error, weaken):
    with pytest.raises(error, match=r"'conditioning'.*takes nothing away"):
        weaken("sd1", "")


@pytest.mark.parametrize(
    ("name", "of"), [("sd3", "sd3_without_t5"), ("qwen_image", "z_image"), ("sd1", "sdxl")]
)
def test_an_empty_prompt_of_another_encoder(error, encode, weaken, name, of):
    with pytest.raises(error, match="'empty'"):
        weaken(name, TEXT, empty=encode(of, ""))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sd1", lambda e: e[:, :5]),
        ("sd1", lambda e: torch.cat((e, e), dim=1)),
        # At the front and at the end of a template, so that the words are one row further on.
        ("qwen_image", lambda e: e[:, :-1]),
        ("sd1", lambda e: e[None]),
    ],
)
def test_an_encoder_that_does_not_show_its_words(error, encoders, weaken, name, change):
    with pytest.raises(error, match="'clip'"):
        weaken(Wrapped(encoders(name), change), TEXT)


# Start, end, padding; words are above 9.
@pytest.mark.parametrize(
    ("frame", "tokens", "span"),
    [
        ([1, 2, 2, 2, 2], [1, 11, 12, 2, 2], (1, 3)),  # CLIP-L
        ([1, 2, 0, 0, 0], [1, 11, 12, 2, 0], (1, 3)),  # CLIP-G
        ([1, 2, 0, 0, 0], [1, 11, 12, 13, 2], (1, 4)),
        ([1, 2, 2, 2, 2], [1, 11, 12, 13, 2], (1, 4)),
        ([2, 0, 0, 0], [11, 2, 0, 0], (0, 1)),  # T5
        ([2, 0, 0, 0], [11, 12, 13, 14, 15, 2], (0, 5)),
        ([1], [1, 11, 12], (1, 3)),  # Gemma
        ([0, 0, 0], [11, 12, 0], (0, 2)),
        ([5, 6, 7, 8, 7], [5, 6, 11, 7, 8, 7], (2, 3)),  # a template
        ([5, 6, 7, 8, 7, 0, 0, 0], [5, 6, 11, 7, 8, 7, 0, 0], (2, 3)),
        ([5, 6, 7, 8, 9], [5, 66, 11, 7, 8, 9], (1, 3)),  # grown together with what is before
        ([5, 10, 7, 8], [5, 11, 12, 7, 8], (1, 3)),  # empty texts that are a space
        ([0, 0, 0, 5, 6, 8], [0, 5, 6, 11, 12, 8], (3, 5)),  # padding in front
        ([0, 0, 5, 8], [5, 11, 12, 13, 14, 8], (1, 5)),
        ([1, 2, 2, 2], [1, 2, 2, 2], (4, 4)),
        ([1, 2, 0, 0], [1, None, None, 2], (1, 3)),
    ],
)
def test_where_the_words_of_a_chunk_are(content, frame, tokens, span):
    assert content.content_span(tokens, frame) == span


def entry(length, width=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, length, width, generator=generator), {"pooled_output": None}]]


@pytest.mark.parametrize(
    ("length", "there", "sources"),
    [
        (77, 77, range(77)),
        (154, 77, [*range(77), *range(77)]),
        (9, 5, [0, 1, 2, 3, 4, 4, 4, 4, 4]),
        (5, 9, range(5)),
    ],
)
def test_every_token_is_a_word_without_an_encoder(prompts, length, there, sources):
    positive, empty = entry(length), entry(there, seed=2)
    [[embedding, _]], told = prompts.without_content(NODE, positive, empty, None, 1.0, 0)
    assert torch.equal(embedding, empty[0][0][:, list(sources)])
    assert (
        told == f"replaced {length} of {length} tokens; without clip every token counts as a word"
    )


@pytest.mark.parametrize(
    ("empty", "told"),
    [
        (None, "nothing"),
        ([], "nothing"),
        ([[None, {}]], "nothing in the place"),
        ([[torch.ones(3, 4), {}]], "shape"),
        (entry(0), r"shape \[1, 0, 4\]"),
        (entry(5, width=3), "width 3"),
    ],
    ids=["None", "[]", "no embedding", "two dimensions", "no tokens", "width"],
)
def test_no_empty_prompt(prompts, error, empty, told):
    with pytest.raises(error, match=f"'empty': got.*{told}"):
        prompts.without_content(NODE, entry(5), empty, None, 1.0, 0)


@pytest.mark.parametrize("amount", [0.0, -1.0, 1.1, float("nan")])
def test_amounts_out_of_range(prompts, error, amount):
    with pytest.raises(error, match="'amount'"):
        prompts.without_content(NODE, entry(5), entry(5, seed=2), None, amount, 0)


def test_nothing_but_prompts_without_an_embedding(prompts, error):
    with pytest.raises(error, match="'conditioning'"):
        prompts.without_content(NODE, [[None, {}]], entry(5), None, 1.0, 0)
    with pytest.raises(error, match=r"'conditioning'.*takes nothing"):
        prompts.without_content(NODE, [], entry(5), None, 1.0, 0)
    with pytest.raises(error, match=r"'conditioning'.*takes nothing"):
        prompts.without_content(NODE, entry(5), entry(5), None, 1.0, 0)
