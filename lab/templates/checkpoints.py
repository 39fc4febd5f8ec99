"""Templates for models that are one file: Stable Diffusion 1.5, XL and 3.5."""

from __future__ import annotations

from . import files
from .graph import File, Graph, template
from .parts import Sampling, checkpoint, ksampler, prompts, saved

FOX = "a red fox in fresh snow, morning light, photograph"
HANDS = "a potter shaping a bowl, hands in wet clay, window light, photograph"
AVOID = "blurry, text, watermark"

# ComfyUI's own have cfg 7. A second push adds to that, so it is lower here.
SD = Sampling(25, 5, "dpmpp_2m", "karras")
SD35 = Sampling(20, 4, "euler", "sgm_uniform")


def _one_checkpoint(graph: Graph, file: File, side: int, prefix: str) -> None:
    model, clip, vae = checkpoint(graph, file)
    latent = graph.add("EmptyLatentImage", width=side, height=side)
    graph.column()
    guided = graph.add("BadVersionPatch", model=model, weak_scale=4)
    positive, negative = prompts(graph, clip, FOX, AVOID)
    graph.column()
    samples = ksampler(graph, SD, guided, positive, negative, latent)
    saved(graph, samples, vae, prefix)


@template("SD1.5", "itself, with weaker attention", "PAG and SEG, papers")
def sd15_one_checkpoint(graph: Graph) -> None:
    """One checkpoint, one node more

    ComfyUI's default graph with **Bad-Version Patch** between checkpoint and sampler. With
    nothing connected to **weak_model**, the model makes a bad version of itself, with blurred
    attention, and every step is pushed away from it: structure holds together better.
    **weak_scale** 4 is what the paper on it recommends. Two pushes add up, so cfg is 5 instead
    of 7.

    Compare **weak_scale** 1, which is off, with 2 and 4 on the same seed. Too harsh? Lower
    **weak_scale** first, then cfg. Any other SD1.5 checkpoint works the same way.
    """
    _one_checkpoint(graph, files.SD15, 512, "sd15_one_checkpoint")


@template("SDXL", "itself, with weaker attention", "PAG and SEG, papers")
def sdxl_one_checkpoint(graph: Graph) -> None:
    """One checkpoint, one node more

    ComfyUI's graph for SDXL with **Bad-Version Patch** between checkpoint and sampler. With
    nothing connected to **weak_model**, the model makes a bad version of itself, with blurred
    attention, and every step is pushed away from it: hands, faces and straight lines hold
    together better. **weak_scale** 4 is what the paper on it recommends. Two pushes add up, so
    cfg is 5 instead of 7.

    Compare **weak_scale** 1, which is off, with 2 and 4 on the same seed. Too harsh? Lower
    **weak_scale** first, then cfg. To save time, push in the first steps only: see the
    template **sdxl_interval**.
    """
    _one_checkpoint(graph, files.SDXL, 1024, "sdxl_one_checkpoint")


@template("SDXL finetune", "the base that it started from", "the paper on autoguidance")
def sdxl_finetune_against_base(graph: Graph) -> None:
    """A finetune, away from its base

    Whoever made the finetune has already made the bad version: the base that it started from.
    It makes the same mistakes, only more of them, and **Bad-Version Patch** pushes away from
    them. This is autoguidance as its paper means it; useful is a **weak_scale** of 1.4 to 3 at
    a cfg of 1 to 4.

    Load your own finetune and the base that it was trained from. Compare **weak_scale** 1,
    which is off, with 2 and 3 on the same seed, then lower cfg to 1.5: images vary more. The
    second checkpoint needs memory; **Weaken Against Base** gives versions between the two.
    """
    model, clip, vae = checkpoint(graph, files.SDXL_FINETUNE)
    base = checkpoint(graph, files.SDXL)
    latent = graph.add("EmptyLatentImage", width=832, height=1216)
    graph.column()
    guided = graph.add("BadVersionPatch", model=model, weak_model=base.model, weak_scale=2)
    positive, negative = prompts(graph, clip, HANDS, AVOID)
    graph.column()
    sampling = Sampling(30, 3, "dpmpp_2m", "karras")
    samples = ksampler(graph, sampling, guided, positive, negative, latent)
    saved(graph, samples, vae, "sdxl_finetune_against_base")


@template("SD3.5 Large", "SD3.5 Medium")
def sd35_large_guided_by_medium(graph: Graph) -> None:
    """A large model, away from a smaller one

    SD3.5 Medium is a smaller model of the same family, so it is a bad version of SD3.5 Large
    that somebody has trained already. A step costs less than twice the time, since the weak
    model is the small one. No source gives a number for this pair: **weak_scale** 2 is a place
    to start.

    Compare **weak_scale** 1, which is off, with 1.5, 2 and 3 on the same seed, then lower cfg
    to 2. For more speed, set **weak_every** to 2. Any two models with the same kind of latents
    can be tried.
    """
    model, clip, vae = checkpoint(graph, files.SD35_LARGE)
    medium = checkpoint(graph, files.SD35_MEDIUM)
    latent = graph.add("EmptySD3LatentImage", width=1024, height=1024)
    graph.column()
    guided = graph.add("BadVersionPatch", model=model, weak_model=medium.model, weak_scale=2)
    positive, negative = prompts(graph, clip, HANDS, "")
    graph.column()
    samples = ksampler(graph, SD35, guided, positive, negative, latent)
    saved(graph, samples, vae, "sd35_large_guided_by_medium")


@template(
    "SD3.5 Medium", "the negative prompt early, itself without blocks 7 to 9 late", "SGG, a paper"
)
def sd35_cfg_early_blocks_late(graph: Graph) -> None:
    """cfg early, skipped blocks late

    Two pushes that take turns. In the first half of sampling, cfg pushes away from the
    negative prompt; in the second, **weak_scale** pushes away from the same model without its
    blocks 7 to 9. One of them is always off, so a step costs two passes, as with cfg alone.
    Numbers as published for SD3.5 Medium: 28 steps, cfg 4.5, a **weak_scale** of 4.

    Move the moment at which they change over, 0.5 in both **Guidance Interval** nodes. If
    details turn harsh, lower **weak_scale** to 3. For cfg alone, set **weak_scale** to 1 and
    let the first interval end at 1.
    """
    model, clip, vae = checkpoint(graph, files.SD35_MEDIUM)
    early = graph.add("BadVersionGuidanceInterval", "When cfg pushes", start=0.0, end=0.5)
    late = graph.add("BadVersionGuidanceInterval", "When skipped blocks push", start=0.5, end=1.0)
    latent = graph.add("EmptySD3LatentImage", width=1024, height=1024)
    graph.column()
    weak = graph.add("BadVersionWeakenBySkippingBlocks", model=model, blocks="7-9")
    positive, negative = prompts(graph, clip, HANDS, "")
    graph.column()
    guided = graph.add(
        "BadVersionPatch",
        model=model,
        weak_model=weak,
        weak_schedule=late,
        negative_schedule=early,
        weak_scale=4,
    )
    graph.column()
    sampling = Sampling(28, 4.5, "euler", "sgm_uniform")
    samples = ksampler(graph, sampling, guided, positive, negative, latent)
    saved(graph, samples, vae, "sd35_cfg_early_blocks_late")
