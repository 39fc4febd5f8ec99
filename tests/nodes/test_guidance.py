"""What ComfyUI is told about the nodes."""

import inspect

import pytest

from engine.install import ROOT

INPUTS = {
    "BadVersionGuider": {
        "model": "MODEL",
        "positive": "CONDITIONING",
        "cfg": "FLOAT",
        "weak_scale": "FLOAT",
        "negative": "CONDITIONING",
        "weak_model": "MODEL",
        "weak_positive": "CONDITIONING",
    },
    "BadVersionPatch": {
        "model": "MODEL",
        "weak_scale": "FLOAT",
        "weak_model": "MODEL",
        "weak_positive": "CONDITIONING",
    },
}
OPTIONAL = {"negative", "weak_model", "weak_positive"}


@pytest.fixture(params=INPUTS)
def schema(request, comfy_nodes):
    return comfy_nodes[request.param].GET_SCHEMA()


def test_inputs_have_the_names_and_types_that_workflows_rely_on(schema):
    assert {i.id: i.io_type for i in schema.inputs} == INPUTS[schema.node_id]
    assert {i.id for i in schema.inputs if i.optional} == OPTIONAL & INPUTS[schema.node_id].keys()


def test_output_has_the_type_that_workflows_rely_on(schema):
    wanted = {"BadVersionGuider": "GUIDER", "BadVersionPatch": "MODEL"}
    assert [o.io_type for o in schema.outputs] == [wanted[schema.node_id]]


def test_everything_has_words_for_the_artist(schema):
    assert schema.display_name and schema.description and schema.category == "bad version"
    for part in [*schema.inputs, *schema.outputs]:
        assert part.tooltip and len(part.tooltip) > 20, part.id


def test_numbers_have_bounds_with_off_and_default_inside(schema):
    numbers = [i for i in schema.inputs if i.io_type == "FLOAT"]
    assert numbers
    for number in numbers:
        assert number.min <= 1.0 < number.default <= number.max


def test_execute_takes_what_the_schema_declares(schema, comfy_nodes):
    parameters = inspect.signature(comfy_nodes[schema.node_id].execute).parameters
    assert list(parameters) == [i.id for i in schema.inputs]


@pytest.mark.parametrize("page", ["{}.md", "{}/zh.md"])
def test_help_page_explains_every_input(page, schema):
    text = (ROOT / "web" / "docs" / page.format(schema.node_id)).read_text(encoding="utf-8")
    assert [i.id for i in schema.inputs if f"`{i.id}`" not in text and i.id not in text] == []
