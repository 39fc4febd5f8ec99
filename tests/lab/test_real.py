"""`make real`: what it makes of a template, and all of it on the tiny models."""

import io
import json

import av
import numpy as np
import pytest
import torch
from PIL import Image

import cards
from comfyui.install import comfyui_path
from comfyui.library import ASSETS
from comfyui.workflow import WorkflowError, find_node, to_prompt
from real import checkpoint, measuring, templates
from real.__main__ import main
from real.report import HEADER

# As a template for artists has them; ComfyUI knows a network by what is in its file.
UNET, VAE = "flux1-dev.safetensors", "ae.safetensors"
STEPS, SEEDS = 4, 2


def workflow(unet=UNET, guidance="BadVersionPatch"):
    """A saved workflow on the tiny models, which have no text encoder."""
    models = [{"name": unet, "url": "https://example.org", "directory": "diffusion_models"}]
    nodes = {
        1: ("UNETLoader", {}, [unet, "default"]),
        2: ("DigitConditioning", {}, ["3"]),
        3: ("DigitConditioning", {}, ["none"]),
        4: ("EmptySD3LatentImage", {}, [64, 64, 2]),
        5: (guidance, {"model": (1, 0, "MODEL")}, [3.0, 1]),
        6: (
            "KSampler",
            {
                "model": (5, 0, "MODEL"),
                "positive": (2, 0, "CONDITIONING"),
                "negative": (3, 0, "CONDITIONING"),
                "latent_image": (4, 0, "LATENT"),
            },
            [11, "fixed", STEPS, 2.0, "euler", "simple", 1.0],
        ),
        7: ("VAELoader", {}, [VAE]),
        8: ("VAEDecode", {"samples": (6, 0, "LATENT"), "vae": (7, 0, "VAE")}, []),
        9: ("SaveImage", {"images": (8, 0, "IMAGE")}, ["tiny"]),
    }
    links, saved = [], []
    for node_id, (kind, inputs, values) in nodes.items():
        slots = []
        for name, (source, output, of_type) in inputs.items():
            links.append([len(links) + 1, source, output, node_id, len(slots), of_type])
            slots.append({"name": name, "type": of_type, "link": len(links)})
        properties = {"models": models} if kind == "UNETLoader" else {}
        saved.append(
            {
                "id": node_id,
                "type": kind,
                "mode": 0,
                "inputs": slots,
                "widgets_values": values,
                "properties": properties,
            }
        )
    return {"nodes": saved, "links": links, "version": 0.4}


@pytest.fixture
def folders(tmp_path):
    """Templates, and models to run some of them, one of these in a subfolder."""
    for name, content in {
        "tiny": workflow(),
        "lacking": workflow(unet="sd_xl_base_1.0.safetensors"),
        "from_tomorrow": workflow(guidance="BadVersionOfTomorrow"),
        "failing": workflow(unet="no_model.safetensors"),
        "unguided": workflow(guidance="ModelSamplingAuraFlow"),
    }.items():
        if name == "unguided":
            content["nodes"][4]["widgets_values"] = [1.73]
        path = tmp_path / "templates" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    for file, link in (
        ("digits_main.safetensors", f"diffusion_models/some/{UNET}"),
        ("digits_judge.safetensors", "diffusion_models/no_model.safetensors"),
        ("digits_vae.safetensors", f"vae/{VAE}"),
    ):
        path = tmp_path / "models" / link
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(ASSETS / file)
    return tmp_path


def picture(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.server
def test_tiny_models_by_the_names_of_real_ones(folders, server, monkeypatch, capsys):
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui_path()))
    out = folders / "out"
    wrong = main(
        [
            *("--templates", str(folders / "templates"), "--models", str(folders / "models")),
            *("--out", str(out), "--seeds", str(SEEDS)),
        ]
    )
    assert wrong == "These failed: failing.", capsys.readouterr().out
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    (result,) = report["results"]
    assert result["template"] == "tiny"
    assert result["files"] == [f"some/{UNET}", VAE]
    assert result["push"].keys() == {"weak", "negative"}
    assert all(0.001 < share < 10 for share in result["push"].values())
    assert len(result["time_ratios"]) == len(result["pairs"]) == SEEDS
    for without, pushed in result["pairs"]:
        # Two prompts of two images each in one batch; the bad version sees one prompt.
        for ran, rows in ((without, [4]), (pushed, [4, 2])):
            (run,) = ran["runs"]
            assert run["rows"] == [rows] * (STEPS - 1)
            assert len(run["seconds"]) == len(run["work"]) == len(run["passes"]) == STEPS - 1
            assert all(seconds > 0 for seconds in run["seconds"])
            assert ran["over_passes"] >= 1
    assert all(memory > 2**20 for memory in result["memory"])
    assert report["left_out"]["lacking"] == (
        "this ComfyUI lacks sd_xl_base_1.0.safetensors (in diffusion_models)"
    )
    assert "BadVersionOfTomorrow" in report["left_out"]["from_tomorrow"]
    assert "neither" in report["left_out"]["unguided"]
    assert report["failed"]["failing"].startswith("node 1 (UNETLoader): ")

    page = (out / "report.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(HEADER)} |" in page and "| `tiny` | CPU" in page
    assert "- `lacking`: this ComfyUI lacks" in page
    ours = page.partition("## Failed")[0]
    assert str(folders) not in ours and str(comfyui_path()) not in ours
    sheet = Image.open(out / "sheet.jpg")
    assert sheet.width > 2 * 320 and sheet.height > SEEDS * 320

    files = {path.name for path in (out / "tiny").iterdir()}
    kinds = ("without", "push")
    assert files == {f"seed{seed}_0_{kind}.png" for seed in range(SEEDS) for kind in kinds}
    drawn = {file: picture(out / "tiny" / file) for file in files}
    assert len({each.tobytes() for each in drawn.values()}) == len(files)
    core = to_prompt(workflow(), server.object_info())
    for node in core.values():
        names = {UNET: "digits_main.safetensors", VAE: "digits_vae.safetensors"}
        for name, value in node["inputs"].items():
            if isinstance(value, str):
                node["inputs"][name] = names.get(value, value)
    core[find_node(core, "KSampler")]["inputs"]["model"] = [find_node(core, "UNETLoader"), 0]
    ((expected, *_),) = cards.run(server, core).values()
    difference = drawn["seed0_0_without.png"] - np.asarray(expected).astype(int)
    assert abs(difference).max() <= 2, "without the push it is ComfyUI alone"


def test_of_a_video_the_frame_in_the_middle_is_shown():
    file = io.BytesIO()
    with av.open(file, "w", "mp4") as video:
        stream = video.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for grey in (0, 60, 120, 180, 240):
            image = Image.new("RGB", (32, 16), (grey,) * 3)
            video.mux(stream.encode(av.VideoFrame.from_image(image)))
        video.mux(stream.encode())
    shown = measuring.picture_of("clip.mp4", file.getvalue())
    assert shown.size == (32, 16) and abs(np.asarray(shown).mean() - 120) < 5


def test_without_a_comfyui(monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert "COMFYUI_PATH" in main([])


def test_folder_of_something_else_is_not_deleted(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui_path()))
    (tmp_path / "diary.txt").touch()
    assert "not from an earlier run" in main(["--out", str(tmp_path)])
    assert (tmp_path / "diary.txt").exists()


@pytest.fixture(scope="module")
def prompts(server):
    """Those of all templates that have a guider or a patch, and that this release knows."""
    found = {}
    for name in cards.WORKFLOWS:
        try:
            prompt = to_prompt(cards.load(name), server.object_info())
        except WorkflowError:
            continue
        if any(node["class_type"] in templates.GUIDANCE for node in prompt.values()):
            found[name] = prompt
    assert len(found) > 5
    return found


def inputs_of(prompt, *kinds):
    return [node["inputs"] for node in prompt.values() if node["class_type"] in kinds]


@pytest.mark.server
def test_without_the_push_every_template_is_off(prompts):
    for name, prompt in prompts.items():
        without = templates.without_push(prompt)
        for before, after in zip(
            inputs_of(prompt, *templates.GUIDANCE),
            inputs_of(without, *templates.GUIDANCE),
            strict=True,
        ):
            assert after["weak_scale"] == 1 and not after.keys() & set(templates.OF_A_PUSH), name
            kept = before.keys() - {"weak_scale", *templates.OF_A_PUSH}
            assert {each: before[each] for each in kept} == {each: after[each] for each in kept}
        assert without != prompt, name
        # What was there before is as it was.
        assert inputs_of(without, "KSampler") == inputs_of(prompt, "KSampler"), name


@pytest.mark.server
def test_a_seed_is_one_of_noise(prompts):
    for name, prompt in prompts.items():
        other = templates.with_seed(prompt, 3)
        for node_id, node in prompt.items():
            changed = {
                key
                for key in node["inputs"]
                if other[node_id]["inputs"][key] != node["inputs"][key]
            }
            assert changed <= {"seed", "noise_seed"}, name
            assert not (changed and node["class_type"].startswith("BadVersion")), name


@pytest.mark.server
def test_each_guided_sampler_is_recorded(prompts, server):
    info = server.object_info()
    for name, prompt in prompts.items():
        recorded = templates.with_record(prompt, info)
        guidance = inputs_of(recorded, *templates.GUIDANCE)
        assert all(inputs["probe"][0] in recorded for inputs in guidance), name
        records = inputs_of(recorded, "BadVersionGuidanceRecord")
        ours = [each for each in records if each["filename_prefix"] == templates.RECORD_PREFIX]
        sampled = {inputs["latent"][0] for inputs in ours}
        samplers = {
            i for i, n in prompt.items() if n["class_type"].startswith(("KSampler", "Samp"))
        }
        samplers = {i for i in samplers if "LATENT" in info[prompt[i]["class_type"]]["output"]}
        # A template may show beside it what is not guided.
        assert sampled and sampled <= samplers and len(ours) >= len(guidance), name


def test_checkpoint_is_a_whole_one_as_comfyui_knows_it():
    from comfy import model_detection

    tensors = checkpoint.shapes()
    prefix = model_detection.unet_prefix_from_state_dict(tensors)
    config = model_detection.model_config_from_unet(tensors, prefix)
    assert type(config).__name__ == "SD15"
    assert sum(each.numel() for each in tensors.values()) == pytest.approx(1.066e9, rel=1e-3)
    parts = {name.split(".")[0] for name in tensors}
    assert parts == {"model", "cond_stage_model", "first_stage_model"}
    for name, shape, spread in (
        ("model.diffusion_model.out.2.weight", (4, 320, 3, 3), 2880**-0.5),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", (768,), 0.0),
        ("first_stage_model.decoder.conv_in.bias", (512,), 0.0),
    ):
        assert tensors[name].shape == shape
        (weight,) = checkpoint.filled({name: tensors[name]}).values()
        assert weight.dtype == torch.float16 and weight.shape == shape
        assert float(weight.float().std()) == pytest.approx(spread, rel=0.05, abs=1e-6)
