"""What ComfyUI is told about the nodes."""

import inspect

import pytest

SCHEDULE, SHAPE, PROBE = "BadVersionSchedule", "BadVersionShape", "BadVersionProbe"
PUSHES = "BadVersionPush"
PUSH = {
    "weak_schedule": SCHEDULE,
    "weak_shape": SHAPE,
    "negative_schedule": SCHEDULE,
    "negative_shape": SHAPE,
}

OTHER_PROBES = {
    f"{name}_{number}": kind
    for number in (2, 3, 4)
    for name, kind in (("probe", PROBE), ("latent", "LATENT"))
}
SWEPT = {
    f"{name}_{number}": kind
    for name, kind in (("weak_model", "MODEL"), ("schedule", SCHEDULE))
    for number in (1, 2, 3, 4)
}

# Types of the inputs, then of the output or outputs, by which saved workflows find their way.
WORKFLOWS_RELY_ON = {
    "BadVersionGuider": (
        {
            "model": "MODEL",
            "positive": "CONDITIONING",
            "cfg": "FLOAT",
            "weak_scale": "FLOAT",
            "weak_every": "INT",
            "negative": "CONDITIONING",
            "weak_model": "MODEL",
            "weak_positive": "CONDITIONING",
            **PUSH,
            "probe": PROBE,
            "more_pushes": PUSHES,
        },
        "GUIDER",
    ),
    "BadVersionPatch": (
        {
            "model": "MODEL",
            "weak_scale": "FLOAT",
            "weak_every": "INT",
            "weak_model": "MODEL",
            "weak_positive": "CONDITIONING",
            **PUSH,
            "probe": PROBE,
            "more_pushes": PUSHES,
        },
        "MODEL",
    ),
    "BadVersionAnotherPush": (
        {
            "scale": "FLOAT",
            "every": "INT",
            "weak_model": "MODEL",
            "prompt": "CONDITIONING",
            "schedule": SCHEDULE,
            "shape": SHAPE,
            "more_pushes": PUSHES,
        },
        PUSHES,
    ),
    "BadVersionHistoryPush": (
        {
            "mode": "COMBO",
            "scale": "FLOAT",
            "memory": "FLOAT",
            "schedule": SCHEDULE,
            "shape": SHAPE,
            "more_pushes": PUSHES,
        },
        PUSHES,
    ),
    "BadVersionRecipe": (
        {"model": "MODEL", "language": "COMBO"},
        ("MODEL", "FLOAT", SCHEDULE, "STRING"),
    ),
    "BadVersionWeakenAgainstBase": (
        {"model": "MODEL", "base_model": "MODEL", "amount": "FLOAT"},
        "MODEL",
    ),
    "BadVersionWeakenLora": ({"model": "MODEL", "keep": "FLOAT"}, "MODEL"),
    "BadVersionWeakenWithNoise": (
        {"model": "MODEL", "amount": "FLOAT", "seed": "INT", "blocks": "STRING"},
        "MODEL",
    ),
    "BadVersionWeakenWithFewerBits": (
        {"model": "MODEL", "bits": "INT", "blocks": "STRING"},
        "MODEL",
    ),
    "BadVersionWeakenWithLowRank": (
        {"model": "MODEL", "keep": "FLOAT", "blocks": "STRING"},
        "MODEL",
    ),
    "BadVersionWeakenWithDropout": (
        {"model": "MODEL", "rate": "FLOAT", "seed": "INT", "blocks": "STRING"},
        "MODEL",
    ),
    "BadVersionWeakenAttention": (
        {"model": "MODEL", "mode": "COMBO", "strength": "FLOAT", "blocks": "STRING"},
        "MODEL",
    ),
    "BadVersionWeakenBySkippingBlocks": (
        {"model": "MODEL", "blocks": "STRING", "draw": "FLOAT", "seed": "INT"},
        "MODEL",
    ),
    "BadVersionWeakenTokens": (
        {
            "model": "MODEL",
            "strength": "FLOAT",
            "seed": "INT",
            "blocks": "STRING",
            "mode": "COMBO",
        },
        "MODEL",
    ),
    "BadVersionWeakenByNoisyClock": (
        {"model": "MODEL", "strength": "FLOAT", "power": "FLOAT", "seed": "INT"},
        "MODEL",
    ),
    "BadVersionWeakenPrompt": (
        {
            "conditioning": "CONDITIONING",
            "mode": "COMBO",
            "amount": "FLOAT",
            "seed": "INT",
            "empty": "CONDITIONING",
            "clip": "CLIP",
            "text": "STRING",
        },
        "CONDITIONING",
    ),
    "BadVersionGuidanceInterval": (
        {"unit": "COMBO", "start": "FLOAT", "end": "FLOAT", "schedule": SCHEDULE},
        SCHEDULE,
    ),
    "BadVersionGuidanceRamp": (
        {
            "direction": "COMBO",
            "curve": "COMBO",
            "low": "FLOAT",
            "high": "FLOAT",
            "start": "FLOAT",
            "end": "FLOAT",
            "power": "FLOAT",
            "schedule": SCHEDULE,
        },
        SCHEDULE,
    ),
    "BadVersionGuidanceCurve": (
        {"points": "STRING", "unit": "COMBO", "interpolation": "COMBO", "schedule": SCHEDULE},
        SCHEDULE,
    ),
    "BadVersionDynamicNegative": (
        {
            "prior": "FLOAT",
            "temperature": "FLOAT",
            "per_dimension": "BOOLEAN",
            "offset": "FLOAT",
            "floor": "FLOAT",
            "ceiling": "FLOAT",
            "schedule": SCHEDULE,
        },
        SCHEDULE,
    ),
    "BadVersionDistanceCalibrated": (
        {"share": "FLOAT", "cap": "FLOAT", "deviation": "FLOAT", "schedule": SCHEDULE},
        SCHEDULE,
    ),
    "BadVersionStopWhenSettled": (
        {"cosine": "FLOAT", "start": "FLOAT", "schedule": SCHEDULE},
        SCHEDULE,
    ),
    "BadVersionGuidanceSchedulePreview": (
        {
            "schedule": SCHEDULE,
            "model": "MODEL",
            "sigmas": "SIGMAS",
            "scale": "FLOAT",
            "language": "COMBO",
        },
        "IMAGE",
    ),
    "BadVersionProjectedShape": (
        {"eta": "FLOAT", "norm_threshold": "FLOAT", "momentum": "FLOAT", "shape": SHAPE},
        SHAPE,
    ),
    "BadVersionRejectShape": ({"keep": "COMBO", "shape": SHAPE}, SHAPE),
    "BadVersionCapShape": ({"relative_to": "COMBO", "limit": "FLOAT", "shape": SHAPE}, SHAPE),
    "BadVersionRescaleShape": ({"phi": "FLOAT", "shape": SHAPE}, SHAPE),
    "BadVersionZeroStarShape": ({"shape": SHAPE}, SHAPE),
    "BadVersionPerpNegShape": ({"empty": "CONDITIONING", "weight": "FLOAT", "shape": SHAPE}, SHAPE),
    "BadVersionFrequencyShape": (
        {"low": "FLOAT", "high": "FLOAT", "levels": "INT", "shape": SHAPE},
        SHAPE,
    ),
    "BadVersionRegionShape": (
        {"mask": "MASK", "feather": "INT", "outside": "FLOAT", "shape": SHAPE},
        SHAPE,
    ),
    "BadVersionGuidanceProbe": ({"name": "STRING"}, PROBE),
    "BadVersionGuidancePlot": (
        {
            "latent": "LATENT",
            "probe": PROBE,
            "view": "COMBO",
            "language": "COMBO",
            "vae": "VAE",
            **OTHER_PROBES,
        },
        ("IMAGE", "LATENT"),
    ),
    "BadVersionGuidanceRecord": (
        {"latent": "LATENT", "probe": PROBE, "filename_prefix": "STRING"},
        "LATENT",
    ),
    "BadVersionGuidanceSweep": (
        {
            "scales": "STRING",
            "seeds": "STRING",
            "columns": "COMBO",
            "weak_model_names": "STRING",
            "schedule_names": "STRING",
            "language": "COMBO",
            **SWEPT,
        },
        ("FLOAT", "INT", "MODEL", SCHEDULE, "BadVersionSweep"),
    ),
    "BadVersionLabelledGrid": (
        {
            "images": "IMAGE",
            "sweep": "BadVersionSweep",
            "title": "STRING",
            "column_captions": "STRING",
            "row_captions": "STRING",
            "columns": "INT",
            "cell_size": "INT",
        },
        "IMAGE",
    ),
    "BadVersionGuidancePlayground": (
        {
            "page": "COMBO",
            "cfg": "FLOAT",
            "weak_scale": "FLOAT",
            "samples": "INT",
            "seed": "INT",
            "animation": "INT",
            "language": "COMBO",
            "schedule": SCHEDULE,
            "shape": SHAPE,
        },
        ("IMAGE", "IMAGE"),
    ),
}
OPTIONAL = {"negative", "weak_model", "weak_positive", "schedule", "shape", *PUSH, "probe", "vae"}
OPTIONAL |= {*OTHER_PROBES, *SWEPT, "sweep", "weak_every", "more_pushes", "prompt"}
# Newer than their node: saved prompts run without them.
LATER = {
    "BadVersionWeakenTokens": {"mode"},
    "BadVersionWeakenBySkippingBlocks": {"draw", "seed"},
    "BadVersionWeakenPrompt": {"empty", "clip", "text"},
}
NEEDED = {
    "BadVersionGuidanceSchedulePreview": {"schedule"},
    "BadVersionGuidancePlot": {"probe"},
    "BadVersionGuidanceRecord": {"probe"},
}
CATEGORIES = {
    "BadVersionGuidanceSchedulePreview": "/schedule",
    **dict.fromkeys(
        ("BadVersionGuidanceProbe", "BadVersionGuidancePlot", "BadVersionGuidanceRecord"), "/probe"
    ),
    **dict.fromkeys(("BadVersionGuidanceSweep", "BadVersionLabelledGrid"), "/compare"),
    "BadVersionGuidancePlayground": "/playground",
}
UNITS = ["percent", "sigma"]
LANGUAGES = {"language": ["English", "中文"]}
VIEWS = ["everything", "scale", "push", "cosine", "along", "shift", "posterior", "thumbnails"]
CHOICES = {
    "BadVersionGuidanceSchedulePreview": LANGUAGES,
    "BadVersionGuidancePlot": {"view": VIEWS, **LANGUAGES},
    "BadVersionGuidanceSweep": {
        "columns": ["scale", "seed", "weak model", "schedule"],
        **LANGUAGES,
    },
    "BadVersionRecipe": LANGUAGES,
    "BadVersionGuidancePlayground": {"page": ["methods", "how it works"], **LANGUAGES},
    "BadVersionGuidanceInterval": {"unit": UNITS},
    "BadVersionGuidanceRamp": {
        "direction": ["rising", "falling", "peak"],
        "curve": ["linear", "cosine", "power"],
    },
    "BadVersionGuidanceCurve": {"unit": UNITS, "interpolation": ["linear", "smooth", "steps"]},
    "BadVersionRejectShape": {"keep": ["different", "common"]},
    "BadVersionCapShape": {"relative_to": ["other push", "number"]},
    "BadVersionHistoryPush": {"mode": ["momentum", "average"]},
    "BadVersionWeakenAttention": {"mode": ["identity", "blur", "window"]},
    "BadVersionWeakenTokens": {"mode": ["shuffle", "swap"]},
    "BadVersionWeakenPrompt": {"mode": ["drop", "noise", "blur", "content"]},
}


@pytest.fixture(params=WORKFLOWS_RELY_ON)
def schema(request, comfy_nodes):
    return comfy_nodes[request.param].GET_SCHEMA()


def numbers(schema):
    return [i for i in schema.inputs if i.io_type in ("FLOAT", "INT")]


def test_knows_every_node_of_the_pack(pack):
    assert {node.define_schema().node_id for node in pack.NODES} == WORKFLOWS_RELY_ON.keys()


def test_inputs_have_the_names_and_types_that_workflows_rely_on(schema):
    inputs, _ = WORKFLOWS_RELY_ON[schema.node_id]
    # The order too: a workflow saves the values of widgets without their names.
    assert [(i.id, i.io_type) for i in schema.inputs] == list(inputs.items())
    assert {i.id for i in schema.inputs if i.optional} == (
        OPTIONAL - NEEDED.get(schema.node_id, set()) | LATER.get(schema.node_id, set())
    ) & inputs.keys()


def test_output_has_the_type_that_workflows_rely_on(schema):
    _, output = WORKFLOWS_RELY_ON[schema.node_id]
    outputs = [output] if isinstance(output, str) else list(output)
    assert [o.io_type for o in schema.outputs] == outputs


def test_choices_are_those_that_workflows_rely_on(schema):
    choices = {i.id: i.options for i in schema.inputs if i.io_type == "COMBO"}
    assert choices == CHOICES.get(schema.node_id, {})


def test_everything_has_words_for_the_artist(schema):
    _, output = WORKFLOWS_RELY_ON[schema.node_id]
    category = CATEGORIES.get(
        schema.node_id, {SCHEDULE: "/schedule", SHAPE: "/shape", PUSHES: "/push"}.get(output, "")
    )
    if schema.node_id.startswith("BadVersionWeaken"):
        category = "/weaken"
    assert schema.category == f"bad version{category}"
    assert schema.display_name and len(schema.description) > 50
    for part in [*schema.inputs, *schema.outputs]:
        assert part.tooltip and len(part.tooltip) > 20, part.id


def test_numbers_have_bounds_with_the_default_inside(schema):
    for number in numbers(schema):
        assert number.min is not None and number.max is not None, number.id
        assert number.min <= number.default <= number.max, number.id
        assert number.min < number.max, number.id


def test_scales_can_be_switched_off_and_are_on_at_first(schema):
    for scale in (i for i in numbers(schema) if i.id in ("cfg", "weak_scale")):
        assert scale.min <= 1.0 < scale.default


def test_weak_model_works_in_every_step_at_first(schema):
    for every in (i for i in schema.inputs if i.id == "weak_every"):
        assert (every.min, every.default, every.optional) == (1, 1, True)


def test_blocks_are_chosen_by_the_node_until_the_artist_does(schema):
    for blocks in (i for i in schema.inputs if i.id == "blocks"):
        assert blocks.default == "auto"


def test_execute_takes_what_the_schema_declares(schema, comfy_nodes):
    parameters = inspect.signature(comfy_nodes[schema.node_id].execute).parameters.values()
    named = {each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD}
    # Inputs that have a number are taken all together.
    numbered = set() if len(named) == len(parameters) else {*OTHER_PROBES, *SWEPT}
    assert named == {i.id for i in schema.inputs} - numbered
