"""What a template needs of a ComfyUI, and its prompt: with the push and without, for any seed."""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from comfyui.workflow import Prompt, WorkflowError, to_prompt

GUIDANCE = {"BadVersionGuider", "BadVersionPatch"}
OURS = "BadVersion"
# What a push is made of; without these inputs, and at this scale, there is none.
OF_A_PUSH = (
    "weak_model",
    "weak_positive",
    "weak_schedule",
    "weak_shape",
    "negative_schedule",
    "negative_shape",
)
OFF = 1.0
SEEDS = ("seed", "noise_seed")
SIZES = ("width", "height")
MODEL_FILES = {".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf"}
RECORD_PREFIX = "guidance/real"


class LeftOut(Exception):
    """A template that cannot run here; the message says for lack of what."""


@dataclass(frozen=True)
class Template:
    """A template that can run on a ComfyUI.

    Attributes:
        name: of its file.
        pushed: its prompt as it is saved, with the files as this ComfyUI names them.
        files: models that it loads.
    """

    name: str
    pushed: Prompt
    files: tuple[str, ...]

    @classmethod
    def read(
        cls,
        path: Path,
        object_info: Mapping[str, Any],
        steps: int | None = None,
        size: int | None = None,
    ) -> Template:
        """Read a template.

        Args:
            path: of the saved workflow.
            object_info: what the server says of its nodes.
            steps: of each sampling run, in place of the template's.
            size: width and height in pixels, in place of the template's.

        Raises:
            LeftOut: where this ComfyUI lacks a node or a file, or nothing is guided.
        """
        workflow = json.loads(path.read_text(encoding="utf-8"))
        try:
            prompt = to_prompt(workflow, object_info)
        except WorkflowError as error:
            raise LeftOut(str(error)) from None
        if not any(node["class_type"] in GUIDANCE for node in prompt.values()):
            raise LeftOut("it has neither a Bad-Version Guider nor a Patch")
        prompt = with_files(prompt, object_info, folders_of(workflow))
        own = {"steps": steps, **dict.fromkeys(SIZES, size)}
        prompt = with_values(prompt, {key: value for key, value in own.items() if value})
        return cls(path.stem, prompt, tuple(dict.fromkeys(model_files(prompt))))

    @property
    def has_seed(self) -> bool:
        """Whether its noise has a seed that can be set."""
        return with_seed(self.pushed, 1) != with_seed(self.pushed, 2)

    def prompt(self, *, push: bool, seed: int) -> Prompt:
        """The prompt for one image, or one batch.

        Args:
            push: whether it is to be guided.
            seed: added to each seed that the template has.
        """
        return with_seed(self.pushed if push else without_push(self.pushed), seed)

    def recorded(self, object_info: Mapping[str, Any], seed: int) -> Prompt:
        """The prompt with the push, and with a record of it as a file."""
        return with_record(self.prompt(push=True, seed=seed), object_info)


def is_link(value: Any) -> bool:
    """Whether an input is connected."""
    return isinstance(value, list)


def folders_of(workflow: Mapping[str, Any]) -> dict[str, str]:
    """Where models belong, by the names that the template says to download."""
    models = (each for node in workflow["nodes"] for each in _models_of(node))
    return {each["name"]: each["directory"] for each in models}


def _models_of(node: Mapping[str, Any]) -> list[dict[str, str]]:
    return node.get("properties", {}).get("models", [])


def with_files(
    prompt: Prompt, object_info: Mapping[str, Any], folders: Mapping[str, str] | None = None
) -> Prompt:
    """The prompt with each file as this ComfyUI names it, in whichever subfolder it has it.

    Raises:
        LeftOut: for files that it does not have.
    """
    prompt = copy.deepcopy(prompt)
    missing = []
    for node in prompt.values():
        for name, value in node["inputs"].items():
            options = _options(object_info[node["class_type"]], name)
            if options is None or is_link(value) or value in options:
                continue
            same = [each for each in options if PurePosixPath(str(each)).name == value]
            if same:
                node["inputs"][name] = same[0]
                continue
            folder = (folders or {}).get(value)
            missing.append(f"{value} (in {folder})" if folder else str(value))
    if missing:
        raise LeftOut(f"this ComfyUI lacks {', '.join(dict.fromkeys(missing))}")
    return prompt


def _options(info: Mapping[str, Any], name: str) -> list[Any] | None:
    """The choices of an input, if it is one."""
    for group in ("required", "optional"):
        if name in info["input"].get(group, {}):
            kind, *rest = info["input"][group][name]
            # A list in the place of the type is the older way to describe a choice.
            if isinstance(kind, list):
                return kind
            return rest[0].get("options") if kind == "COMBO" and rest else None
    return None


def model_files(prompt: Prompt) -> Iterator[str]:
    """Names of the files that a prompt loads models from."""
    for node in prompt.values():
        for value in node["inputs"].values():
            if isinstance(value, str) and PurePosixPath(value).suffix in MODEL_FILES:
                yield value


def with_values(prompt: Prompt, values: Mapping[str, Any]) -> Prompt:
    """The prompt, with these values in every widget of that name that nothing is connected to."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        for name in values.keys() & node["inputs"].keys():
            if not is_link(node["inputs"][name]):
                node["inputs"][name] = values[name]
    return prompt


def with_seed(prompt: Prompt, seed: int) -> Prompt:
    """The prompt with other noise. A seed of a node of ours is no noise's."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        for name in SEEDS:
            value = node["inputs"].get(name)
            if isinstance(value, int) and not node["class_type"].startswith(OURS):
                node["inputs"][name] = value + seed
    return prompt


def without_push(prompt: Prompt) -> Prompt:
    """The prompt without the push; cfg and the negative prompt stay."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        if node["class_type"] in GUIDANCE:
            for name in OF_A_PUSH:
                node["inputs"].pop(name, None)
            node["inputs"]["weak_scale"] = OFF
    return prompt


def with_record(prompt: Prompt, object_info: Mapping[str, Any]) -> Prompt:
    """The prompt, which also saves what each guider and patch has done at each step."""
    prompt = copy.deepcopy(prompt)
    for node_id in [i for i, node in prompt.items() if node["class_type"] in GUIDANCE]:
        inputs = prompt[node_id]["inputs"]
        if "probe" not in inputs:
            prompt[f"{node_id}-probe"] = {
                "class_type": "BadVersionGuidanceProbe",
                "inputs": {"name": "real"},
            }
            inputs["probe"] = [f"{node_id}-probe", 0]
        for latent in list(_latents_after(node_id, prompt, object_info)):
            prompt[f"{node_id}-record-{latent[0]}"] = {
                "class_type": "BadVersionGuidanceRecord",
                "inputs": {
                    "latent": latent,
                    "probe": inputs["probe"],
                    "filename_prefix": RECORD_PREFIX,
                },
            }
    return prompt


def _latents_after(
    start: str, prompt: Prompt, object_info: Mapping[str, Any]
) -> Iterator[tuple[str, int]]:
    """The latents of the samplers that a guided model or a guider goes to."""
    waiting, seen = deque([start]), {start}
    while waiting:
        before = waiting.popleft()
        for node_id, node in prompt.items():
            is_after = any(
                is_link(value)
                and value[0] == before
                and _carries(before, value, prompt, object_info)
                for value in node["inputs"].values()
            )
            if not is_after or node_id in seen:
                continue
            seen.add(node_id)
            outputs = object_info[node["class_type"]]["output"]
            if "LATENT" in outputs:
                yield [node_id, outputs.index("LATENT")]
            else:
                waiting.append(node_id)


def _carries(node_id: str, link: list[Any], prompt: Prompt, object_info: Mapping[str, Any]) -> bool:
    """Whether a link brings a model or a guider."""
    return object_info[prompt[node_id]["class_type"]]["output"][link[1]] in ("MODEL", "GUIDER")
