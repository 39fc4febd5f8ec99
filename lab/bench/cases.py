"""The cases of the speed bench, each on models with random weights.

The main model is a base with a LoRA on every attention matrix, put there as ComfyUI's LoRA loader
does. Guiders come from the node, and run in ComfyUI's own sampler. What a guider adds to its passes
is told by the clock. One pass is compared to another by the time that processors worked on it, for
other work on the machine disturbs that less.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from unittest import mock

import comfy.hooks
import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from comfyui.running import Conditioning, Run, call, core_guider, in_graph, untouched

from . import insides
from .figures import MIB, Figure, Target, at_most
from .memory import Memory, forget_peak
from .passes import Measured, ModelPass, marked, measure

SCALE = 2.0
CFG = 4.0
LORA_RANK = 16

# How much longer a step may take than its passes do.
SAME_WEIGHTS, OTHER_WEIGHTS = 1.02, 1.05
# Of one model pass, for all that guidance computes with its predictions.
ARITHMETIC = 0.01
# The same for what only looks on.
WATCHING = 0.01
# Of the weights that the weak version has for itself; and in MiB, where it has none.
MEMORY, ROUNDING = 1.1, 1.0


def sd15_unet(seed: int) -> ModelPatcher:
    """The U-Net of Stable Diffusion 1.5 in float32, with random weights."""
    config = comfy.supported_models.SD15(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 320,
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "transformer_depth_middle": 1,
            "use_spatial_transformer": True,
            "context_dim": 768,
            "num_heads": 8,
            "num_head_channels": -1,
            "legacy": False,
            "use_linear_in_transformer": False,
            "adm_in_channels": None,
            "use_temporal_attention": False,
        }
    )
    config.set_inference_dtype(torch.float32, None)
    device = comfy.model_management.get_torch_device()
    model = config.get_model({}, device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.diffusion_model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)
    return ModelPatcher(model.eval(), load_device=device, offload_device=device)


def random_lora(model: ModelPatcher, seed: int = 3) -> dict[str, Tensor]:
    """A LoRA file for every attention matrix of a model, about a third as strong as the weights."""
    generator = torch.Generator().manual_seed(seed)
    weights, lora = model.model.state_dict(), {}
    for key in attention_keys(model):
        rows, columns = weights[key].shape
        name = key.removesuffix(".weight")
        up, down = torch.empty(rows, LORA_RANK), torch.empty(LORA_RANK, columns)
        lora[f"{name}.lora_up.weight"] = up.normal_(std=LORA_RANK**-0.5, generator=generator)
        lora[f"{name}.lora_down.weight"] = down.normal_(std=columns**-0.5, generator=generator)
        lora[f"{name}.alpha"] = torch.tensor(LORA_RANK / 3)
    return lora


def attention_keys(model: ModelPatcher) -> list[str]:
    """Keys of all attention matrices of a U-Net."""
    weights = model.model.state_dict()
    return [key for key, w in weights.items() if ("attn1" in key or "attn2" in key) and w.ndim == 2]


@dataclass(frozen=True)
class Bench:
    """What all cases share.

    Attributes:
        nodes: all node classes by node id.
        make_unet: a U-Net of the measured size, from a seed.
        shape: of the latent.
        size: height and width of the latent where arithmetic is measured.
        context: tokens and width of the prompt.
        blocks: some blocks to skip, as an artist types them, and their modules.
        steps: of one run.
        repeats: how often each case is run.
    """

    nodes: Mapping[str, type]
    make_unet: Callable[[int], ModelPatcher] = sd15_unet
    shape: tuple[int, ...] = (1, 4, 16, 16)
    size: int = 64
    context: tuple[int, int] = (77, 768)
    blocks: tuple[str, tuple[str, ...]] = (
        "output 3-5",
        ("output_blocks.3", "output_blocks.4", "output_blocks.5"),
    )
    steps: int = 6
    repeats: int = 3

    @cached_property
    def base(self) -> ModelPatcher:
        """The model without its LoRA."""
        return self.make_unet(1)

    @cached_property
    def lora(self) -> dict[str, Tensor]:
        """The LoRA, as it is in its file."""
        return random_lora(self.base)

    @cached_property
    def main(self) -> ModelPatcher:
        """The main model: the base with the LoRA."""
        patched, _ = comfy.sd.load_lora_for_models(self.base, None, self.lora, 1.0, 0.0)
        assert len(patched.patches) == len(attention_keys(self.base))
        return patched

    @property
    def run(self) -> Run:
        """One sampling run."""
        return Run.of(self.base, self.shape, self.steps)

    def prompt(self, seed: int) -> Conditioning:
        """A prompt, already encoded."""
        generator = torch.Generator().manual_seed(seed)
        return [[torch.randn(1, *self.context, generator=generator), {}]]

    @cached_property
    def positive(self) -> Conditioning:
        return self.prompt(1)

    @cached_property
    def negative(self) -> Conditioning:
        return self.prompt(2)

    def node(self, node_id: str, **inputs: Any) -> Any:
        """The first output of a node."""
        return call(self.nodes[node_id], **inputs)[0]

    def guider(self, **inputs: Any) -> comfy.samplers.CFGGuider:
        """The pack's own guider for the main model."""
        connected = {"model": self.main, "positive": self.positive, "cfg": CFG, "weak_scale": SCALE}
        return self.node("BadVersionGuider", **{**connected, **inputs})

    def layers(self, blocks: Sequence[str]) -> list[nn.Module]:
        """Residual branches and transformers in some blocks: what is left out of a skipped one."""
        network = self.base.model.diffusion_model
        return [
            layer
            for block in blocks
            for layer in network.get_submodule(block).children()
            if hasattr(layer, "skip_connection") or hasattr(layer, "transformer_blocks")
        ]

    def core_memory(self) -> Memory:
        """Load and warm up all that ComfyUI needs for the main model alone, and weigh it."""
        run = Run.of(self.base, self.shape, steps=2)
        run.sample(core_guider(self.main, self.positive))
        # Loading takes more for a moment, behind which much of what comes later would fit.
        forget_peak()
        run.sample(core_guider(self.main, self.positive))
        return Memory.now()


class Report:
    """What comes of a case: its figures, in the order in which they are shown."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def add(self, name: str, value: float, unit: str = "", target: Target | None = None) -> None:
        """Add one number."""
        self.figures.append(Figure(name, value, unit, target))

    def add_median(
        self, name: str, samples: Sequence[float], unit: str = "x", target: Target | None = None
    ) -> None:
        """Add the median of some samples."""
        self.figures.append(Figure.of(name, samples, unit, target))

    def add_times(self, runs: Sequence[Measured], passes: int, limit: float | None = None) -> None:
        """Add what a step takes, in seconds and in its own passes, of which there are so many."""
        steps = [step for run in runs for step in run.steps]
        self.add_median("time of a step", [step.seconds for step in steps], "s")
        self.add_median(
            "… over its own model passes", [step.over_passes for step in steps], "x", at_most(limit)
        )
        # The worst, for a step too many is one too many.
        most = max((len(step.passes) for step in steps), key=lambda count: abs(count - passes))
        self.add("model passes in a step", most, "", limit and Target("exactly", passes))

    def add_memory(self, core: Memory, used: Memory, differing: int | None = None) -> None:
        """Add what a case needs beyond ComfyUI's own guider with the same main model.

        Args:
            core: memory of the latter.
            used: memory of the case, between two runs.
            differing: bytes of the weights that the weak version does not share; None for a case
                in comparison.
        """
        peak, kept = used.peak - core.peak, used.tensors - core.tensors
        self.add("extra memory at the peak", peak / MIB, "MiB")
        if differing:
            self.add("weights that differ", differing / MIB, "MiB")
            self.add("… extra memory over these", peak / differing, "x", at_most(MEMORY))
        if differing is not None:
            none = None if differing else at_most(ROUNDING)
            self.add("extra tensors kept between runs", kept / MIB, "MiB", none)


def core_cfg(bench: Bench) -> Report:
    """ComfyUI's own guider."""
    core = bench.core_memory()
    guider = core_guider(bench.main, bench.positive, bench.negative, CFG)
    runs = [measure(bench.run, guider, [bench.main]) for _ in range(bench.repeats)]
    report = Report()
    report.add_times(runs, 1)
    report.add_memory(core, Memory.now())
    return report


def weak_version(
    bench: Bench,
    weaken: Callable[[Bench], ModelPatcher],
    limit: float | None,
    differing: Callable[[Bench, ModelPatcher], int] = lambda bench, weak: 0,
    compare: bool = True,
    pass_limit: float | None = None,
    skipped: tuple[str, ...] = (),
) -> Report:
    """A weak model of some kind, in the pack's own guider.

    Args:
        bench: what to measure on.
        weaken: makes the weak model.
        limit: for the time of a step over its passes.
        differing: bytes of the weights that the weak model, which it is given, has for itself.
        compare: also with both models alone, each in a guider of ComfyUI's own. Where weights are
            exchanged, a pass could be slower by it in itself.
        pass_limit: for a weak pass over a main pass, less what is skipped.
        skipped: blocks that are left out.
    """
    core = bench.core_memory()
    weak = marked(weaken(bench))
    models = (bench.main, weak)
    layers = bench.layers(skipped)

    def guided() -> Measured:
        # A guider is made anew whenever a prompt is edited.
        return measure(bench.run, bench.guider(weak_model=weak), models, layers)

    def alone(model: ModelPatcher) -> Measured:
        return measure(bench.run, core_guider(model, bench.positive), models)

    runs = [guided(), guided()]
    memory = Memory.now()
    each_alone = []
    for _ in range(max(1, bench.repeats - 2)):
        if compare:
            each_alone.append((alone(bench.main), alone(weak)))
        runs.append(guided())

    report = Report()
    report.add_times(runs, 2, limit)
    if each_alone:
        main_pass, weak_pass = (
            statistics.median(one.processor for run in alone for one in _passes(run))
            for alone in zip(*each_alone, strict=True)
        )
        report.add_median(
            "step over a pass of each model alone",
            [time / (main_pass + weak_pass) for time in _processor(runs)],
            "x",
            at_most(limit),
        )
    _add_weak_pass(report, runs, layers, pass_limit)
    own = differing(bench, weak)
    if own:
        _add_preparation(report, *runs[:2])
    report.add_memory(core, memory, own)
    return report


def _add_weak_pass(
    report: Report, runs: Sequence[Measured], layers: Sequence[nn.Module], limit: float | None
) -> None:
    pairs = [step.main_and_weak for run in runs for step in run.steps]
    target = None if layers else at_most(limit)
    whole = [weak.processor / main.processor for main, weak in pairs]
    report.add_median("weak pass over main pass", whole, "x", target)
    if layers:
        share = [main.layers / main.processor for main, _ in pairs]
        report.add_median("share of the main pass in the skipped layers", share)
        kept = [weak.layers / main.processor for main, weak in pairs]
        report.add_median("… that the weak pass keeps, to fit sizes", kept)
        less = [w / (1 - s + k) for w, s, k in zip(whole, share, kept, strict=True)]
        report.add_median(
            "weak pass over main pass less the skipped layers", less, "x", at_most(limit)
        )


def _add_preparation(report: Report, first: Measured, second: Measured) -> None:
    report.add("set-up of the first run", first.set_up, "s")
    report.add("set-up of the second run over the first", second.set_up / first.set_up, "x")
    report.add("weights patched in the first run", first.patched)
    report.add("weights patched in the second run", second.patched, "", Target("exactly", 0))


def weight_functions(bench: Bench) -> Report:
    """Other weights as where ComfyUI loads weights dynamically: handed over at each use."""
    swap = insides.module(insides.WEIGHT_SWAP)
    with mock.patch.object(swap, "can_swap", return_value=False):
        return weak_version(bench, _without_lora, None, _changed_by_lora)


def weight_hooks(bench: Bench) -> Report:
    """The same guidance by ComfyUI alone: the LoRA as a hook on one of two equal prompts."""
    hooks = comfy.hooks.create_hook_lora(bench.lora, 1.0, 0.0)
    with_lora = comfy.hooks.set_hooks_for_conditioning(bench.positive, hooks)
    guider = core_guider(bench.base, with_lora, bench.positive, SCALE)
    return _in_comparison(bench, guider, bench.base)


def repatching(bench: Bench) -> Report:
    """The same guidance with the LoRA taken off before each weak pass, and put back after it."""
    main = bench.main.clone()

    def guide(args: dict[str, Any]) -> Tensor:
        comfy.model_management.load_models_gpu([bench.base])
        (R,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"], args["sigma"], args["model_options"]
        )
        comfy.model_management.load_models_gpu([main])
        return torch.lerp(R, args["denoised"], SCALE)

    main.set_model_sampler_post_cfg_function(guide)
    return _in_comparison(bench, core_guider(main, bench.positive), main)


def _in_comparison(bench: Bench, guider: comfy.samplers.CFGGuider, model: ModelPatcher) -> Report:
    core = bench.core_memory()
    runs = [measure(bench.run, guider, [model]) for _ in range(2)]
    report = Report()
    report.add_times(runs, 2)
    report.add_memory(core, Memory.now())
    return report


def weak_prompt(bench: Bench) -> Report:
    """Nothing but another prompt in the weak pass, next to a positive and a negative one."""
    core_memory = bench.core_memory()
    weak_positive = bench.prompt(3)
    guider = partial(bench.guider, negative=bench.negative, weak_positive=weak_positive)
    runs = [measure(bench.run, guider(), [bench.main]) for _ in range(2)]
    memory = Memory.now()
    # What ComfyUI does with as many prompts, all in one batch.
    core = core_guider(bench.main, [*bench.positive, *weak_positive], bench.negative, CFG)
    cores = []
    for _ in range(max(1, bench.repeats - 2)):
        cores.append(measure(bench.run, core, [bench.main]))
        runs.append(measure(bench.run, guider(), [bench.main]))
    report = Report()
    report.add_times(runs, len(cores[0].steps[0].passes), SAME_WEIGHTS)
    rows, core_rows = runs[-1].rows, cores[-1].rows
    report.add("prompts in the largest batch", max(map(max, rows)) // bench.shape[0])
    in_core = Target("exactly", len(core_rows[0]))
    report.add("model passes in the first step", len(rows[0]), "", in_core)
    core_step = statistics.median(_processor(cores))
    report.add_median(
        "step over that of core with as many prompts",
        [time / core_step for time in _processor(runs)],
    )
    report.add_memory(core_memory, memory, 0)
    return report


def history(bench: Bench) -> Report:
    """Both modes of History Push at once, with no other push: no pass but the model's own."""
    core = bench.core_memory()
    pushes = ()
    for mode in ("momentum", "average"):
        pushes = bench.node(
            "BadVersionHistoryPush", mode=mode, scale=1.5, memory=0.6, more_pushes=pushes
        )
    guider = bench.guider(weak_scale=1.0, more_pushes=pushes)
    runs = [measure(bench.run, guider, [bench.main]) for _ in range(bench.repeats)]
    report = Report()
    report.add_times(runs, 1, SAME_WEIGHTS)
    report.add_memory(core, Memory.now(), 0)
    return report


def off(bench: Bench) -> Report:
    """A weak model connected, at a scale of 1."""
    core_memory = bench.core_memory()
    guider = bench.guider(negative=bench.negative, weak_model=bench.base, weak_scale=1.0)
    core = core_guider(bench.main, bench.positive, bench.negative, CFG)
    return _as_core(bench, core_memory, guider, core, "core's")


def outside(bench: Bench) -> Report:
    """Both pushes connected, with schedules that leave them off at every step of the run."""
    core_memory = bench.core_memory()
    beyond = 10.0 * float(bench.run.sigmas.max())
    nowhere = bench.node("BadVersionGuidanceInterval", unit="sigma", start=2 * beyond, end=beyond)
    guider = bench.guider(
        negative=bench.negative,
        weak_model=_attention(bench),
        weak_schedule=nowhere,
        negative_schedule=nowhere,
    )
    core = core_guider(bench.main, bench.positive)
    return _as_core(bench, core_memory, guider, core, "with no guidance")


def _as_core(
    bench: Bench,
    core_memory: Memory,
    guider: comfy.samplers.CFGGuider,
    core: comfy.samplers.CFGGuider,
    name: str,
) -> Report:
    """A guider of which nothing may be seen beside one of ComfyUI's own."""
    runs = [measure(bench.run, guider, [bench.main]) for _ in range(2)]
    memory = Memory.now()
    expected = measure(bench.run, core, [bench.main])
    report = Report()
    report.add_times(runs, len(expected.steps[0].passes), SAME_WEIGHTS)
    unlike = sum(run.rows != expected.rows for run in runs)
    report.add(f"runs with other passes than {name}", unlike, "", Target("exactly", 0))
    unlike = sum(not torch.equal(run.latent, expected.latent) for run in runs)
    report.add(f"runs with other bits than {name}", unlike, "", Target("exactly", 0))
    report.add_memory(core_memory, memory, 0)
    return report


def arithmetic(bench: Bench) -> Report:
    """Every shape and schedule on both pushes, at the latent of an image of 512 x 512 pixels."""
    shapes = ()
    mask = torch.ones(1, 8 * bench.size, 8 * bench.size)
    mask[..., : 4 * bench.size] = 0
    for node_id, inputs in (
        ("BadVersionProjectedShape", {"eta": 0.0, "norm_threshold": 15.0, "momentum": -0.5}),
        ("BadVersionRejectShape", {"keep": "different"}),
        ("BadVersionCapShape", {"relative_to": "other push", "limit": 1.0}),
        ("BadVersionRescaleShape", {"phi": 0.7}),
        ("BadVersionZeroStarShape", {}),
        ("BadVersionPerpNegShape", {"empty": bench.prompt(4), "weight": 1.0}),
        ("BadVersionFrequencyShape", {"low": 0.5, "high": 1.0, "levels": 2}),
        ("BadVersionRegionShape", {"mask": mask, "feather": 32, "outside": 0.2}),
    ):
        shapes = bench.node(node_id, **inputs, shape=shapes)
    schedules = ()
    for node_id in (
        "BadVersionGuidanceRamp",
        "BadVersionGuidanceCurve",
        "BadVersionDynamicNegative",
        "BadVersionDistanceCalibrated",
    ):
        inputs = untouched(bench.nodes[node_id])
        schedules = bench.node(node_id, **inputs, schedule=schedules)
    push = {"shape": shapes, "schedule": schedules}
    weak = marked(_attention(bench))
    guider = bench.guider(
        negative=bench.negative,
        weak_model=weak,
        **{f"{of}_{kind}": value for of in ("weak", "negative") for kind, value in push.items()},
    )
    run = Run.of(bench.base, (1, 4, bench.size, bench.size), max(3, bench.steps // 2))
    measured = measure(run, guider, (bench.main, weak))
    report = Report()
    beside = [step.seconds - sum(one.seconds for one in step.passes) for step in measured.steps]
    alone = [one.seconds for one in _passes(measured) if one.rows == 1]
    report.add_median("one pass of the model", alone, "s")
    report.add_median("all of a step but its passes", [1000 * each for each in beside], "ms")
    over = [each / statistics.median(alone) for each in beside]
    report.add_median("… over one pass", over, "x", at_most(ARITHMETIC))
    return report


def probe(bench: Bench) -> Report:
    """What a probe and the text on the node take beside both pushes, at the same latent."""
    run = Run.of(bench.base, (1, 4, bench.size, bench.size), max(3, bench.steps // 2))
    weak = marked(_attention(bench))
    inputs = {"negative": bench.negative, "weak_model": weak}
    watched = insides.module(insides.PROBE).Probe("bench", "bench")
    node = in_graph(bench.nodes["BadVersionGuider"], "1")
    with mock.patch.dict(bench.nodes, BadVersionGuider=node):
        watching = bench.guider(**inputs, probe=watched)
    guiders = {"plain": bench.guider(**inputs), "watching": watching}
    beside: dict[str, list[float]] = {name: [] for name in guiders}
    alone: list[float] = []
    # By turns, so that other work on the machine disturbs both alike.
    for _ in range(bench.repeats):
        for name, guider in guiders.items():
            measured = measure(run, guider, (bench.main, weak))
            beside[name] += [
                step.seconds - sum(one.seconds for one in step.passes) for step in measured.steps
            ]
            alone += [one.seconds for one in _passes(measured) if one.rows == 1]
    report = Report()
    one_pass, plain = statistics.median(alone), statistics.median(beside["plain"])
    report.add_median("one pass of the model", alone, "s")
    report.add_median("a step but its passes", [1000 * each for each in beside["plain"]], "ms")
    watching_ms = [1000 * each for each in beside["watching"]]
    report.add_median("a step but its passes, recorded and shown", watching_ms, "ms")
    over = [(each - plain) / one_pass for each in beside["watching"]]
    report.add_median("recording and showing, over one pass", over, "x", at_most(WATCHING))
    return report


def _processor(runs: Sequence[Measured]) -> list[float]:
    return [step.processor for run in runs for step in run.steps]


def _passes(run: Measured) -> list[ModelPass]:
    return [one for step in run.steps for one in step.passes]


def _attention(bench: Bench) -> ModelPatcher:
    return bench.node(
        "BadVersionWeakenAttention", model=bench.main, mode="identity", strength=1.0, blocks="auto"
    )


def _skipping(bench: Bench, blocks: str = "auto") -> ModelPatcher:
    return bench.node("BadVersionWeakenBySkippingBlocks", model=bench.main, blocks=blocks)


def _tokens(bench: Bench) -> ModelPatcher:
    return bench.node(
        "BadVersionWeakenTokens", model=bench.main, strength=0.5, seed=0, blocks="auto"
    )


def _dropout(bench: Bench) -> ModelPatcher:
    return bench.node(
        "BadVersionWeakenWithDropout", model=bench.main, rate=0.1, seed=0, blocks="auto"
    )


def _noisy_clock(bench: Bench) -> ModelPatcher:
    return bench.node(
        "BadVersionWeakenByNoisyClock", model=bench.main, strength=3.0, power=0.25, seed=0
    )


def _without_lora(bench: Bench) -> ModelPatcher:
    return bench.base


def _half_lora(bench: Bench) -> ModelPatcher:
    return bench.node("BadVersionWeakenLora", model=bench.main, keep=0.5)


def _other_checkpoint(bench: Bench) -> ModelPatcher:
    return bench.make_unet(2)


def _changed_by_lora(bench: Bench, weak: ModelPatcher) -> int:
    weights = weak.model.state_dict()
    return sum(weights[key].nbytes for key in bench.main.patches)


def _all_weights(bench: Bench, weak: ModelPatcher) -> int:
    return sum(weight.nbytes for weight in weak.model.state_dict().values())


def _skipping_more(bench: Bench) -> Report:
    typed, modules = bench.blocks
    weaken = partial(_skipping, blocks=typed)
    return weak_version(
        bench, weaken, SAME_WEIGHTS, compare=False, pass_limit=SAME_WEIGHTS, skipped=modules
    )


@dataclass(frozen=True)
class Case:
    """One case: its title, and how it is measured."""

    title: str
    measure: Callable[[Bench], Report]


_shared = partial(weak_version, limit=SAME_WEIGHTS, compare=False)
_own = partial(weak_version, limit=OTHER_WEIGHTS, differing=_changed_by_lora)

CASES = {
    "core": Case("ComfyUI's own guider, with positive and negative prompt", core_cfg),
    "base": Case("Same base, other weights: without the LoRA", partial(_own, weaken=_without_lora)),
    "half-lora": Case("Same base, other weights: half the LoRA", partial(_own, weaken=_half_lora)),
    "weight-functions": Case(
        "In comparison: the first, as where weights are loaded dynamically", weight_functions
    ),
    "weight-hooks": Case("In comparison: the first, by ComfyUI's weight hooks", weight_hooks),
    "repatching": Case("In comparison: the first, patched anew for each pass", repatching),
    "attention": Case(
        "Same weights, other attention",
        partial(_shared, weaken=_attention, pass_limit=SAME_WEIGHTS),
    ),
    "skip": Case(
        "Same weights, middle block skipped",
        partial(_shared, weaken=_skipping, pass_limit=SAME_WEIGHTS, skipped=("middle_block",)),
    ),
    "skip-more": Case("Same weights, more blocks skipped", _skipping_more),
    "tokens": Case(
        "Same weights, tokens shuffled",
        partial(_shared, weaken=_tokens, pass_limit=SAME_WEIGHTS),
    ),
    "dropout": Case("Same weights, activations dropped", partial(_shared, weaken=_dropout)),
    "clock": Case(
        "Same weights, a noisy clock",
        partial(_shared, weaken=_noisy_clock, pass_limit=SAME_WEIGHTS),
    ),
    "checkpoint": Case(
        "Another checkpoint",
        partial(weak_version, weaken=_other_checkpoint, limit=SAME_WEIGHTS, differing=_all_weights),
    ),
    "weak-prompt": Case("Another prompt alone", weak_prompt),
    "history": Case("The image's own past, by either mode", history),
    "off": Case("Switched off: weak_scale 1", off),
    "outside": Case("Both pushes outside of their intervals", outside),
    "arithmetic": Case("All schedules and shapes on both pushes", arithmetic),
    "probe": Case("A probe and the text on the node", probe),
}
