"""Templates that show what the other nodes are for, all of them with SDXL."""

from __future__ import annotations

from . import files
from .checkpoints import AVOID, FOX, HANDS, SD
from .graph import Graph, template
from .parts import advanced, checkpoint, ksampler, prompts, saved

SIDE = 1024


@template("SDXL", "itself, with weaker attention; a sheet of scales and seeds", "it shows which")
def sdxl_sweep_of_scales(graph: Graph) -> None:
    """Which scale is best?

    **Guidance Sweep** runs this graph once for each pair of a scale and a seed: its **scale**
    goes to the patch, its **seed** to the sampler. **Labelled Grid** puts the images on one
    sheet. In each row the seed is the same; at a **weak_scale** of 1 there is no push. Where
    does the image get better, and where does it turn harsh?

    For a sweep of cfg, connect **scale** to cfg of the sampler. To compare bad versions,
    connect Weaken nodes to **weak_model_1**, **weak_model_2** and so on, and the sweep's
    **weak_model** to the patch. Three seeds or more tell a setting from luck.
    """
    model, clip, vae = checkpoint(graph, files.SDXL)
    sweep = graph.add("BadVersionGuidanceSweep", scales="1, 2, 3, 4", seeds="1-3")
    latent = graph.add("EmptyLatentImage", width=SIDE, height=SIDE)
    graph.column()
    guided = graph.add("BadVersionPatch", model=model, weak_scale=sweep["scale"])
    positive, negative = prompts(graph, clip, HANDS, AVOID)
    graph.column()
    samples = ksampler(graph, SD, guided, positive, negative, latent, sweep["seed"])
    graph.column()
    images = graph.add("VAEDecode", samples=samples, vae=vae)
    graph.column()
    sheet = graph.add(
        "BadVersionLabelledGrid",
        images=images,
        sweep=sweep["sweep"],
        title="Bad-Version Patch, SDXL",
    )
    graph.column()
    graph.add("SaveImage", images=sheet, filename_prefix="sdxl_sweep_of_scales")


@template("SDXL", "the negative prompt, or itself; images and plots of both", "PAG and SEG, papers")
def sdxl_two_pushes_compared(graph: Graph) -> None:
    """Two pushes side by side

    The same image from the same noise, guided in two ways: above away from the negative
    prompt, by cfg alone, below away from a bad version of the model, without cfg. A **Guidance
    Probe** records each, and **Guidance Plot** draws one over the other: how long the pushes
    are, and how far they shift the image.

    Change cfg and **weak_scale** until both pushes are equally long, and compare the images. A
    push whose shift keeps growing burns colours. Set **view** to another plot, or to
    everything.
    """
    model, clip, vae = checkpoint(graph, files.SDXL)
    first = graph.add("BadVersionGuidanceProbe", name="negative prompt")
    second = graph.add("BadVersionGuidanceProbe", name="bad version")
    latent = graph.add("EmptyLatentImage", width=SIDE, height=SIDE)
    graph.column()
    by_prompt = graph.add("BadVersionPatch", "By cfg alone", model=model, probe=first, weak_scale=1)
    by_model = graph.add(
        "BadVersionPatch", "Away from a bad version", model=model, probe=second, weak_scale=4
    )
    graph.column()
    positive, negative = prompts(graph, clip, FOX, AVOID)
    graph.column()
    one = ksampler(graph, SD, by_prompt, positive, negative, latent, cfg=7)
    other = ksampler(graph, SD, by_model, positive, negative, latent, cfg=1)
    graph.column()
    plot = {"probe": first, "latent": one, "probe_2": second, "latent_2": other, "vae": vae}
    graph.add("BadVersionGuidancePlot", view="push", **plot)
    graph.add("VAEDecode", samples=one, vae=vae)
    graph.add("VAEDecode", samples=other, vae=vae)
    decoded = graph.columns[-1][-2:]
    graph.column()
    graph.add("BadVersionGuidancePlot", view="shift", **plot)
    for prefix, images in zip(("by_cfg", "by_bad_version"), decoded, strict=True):
        graph.add("SaveImage", images=images, filename_prefix=f"sdxl_{prefix}")


@template("SDXL", "itself, in the first 20 % of sampling", "a published setting")
def sdxl_interval(graph: Graph) -> None:
    """Push in the first steps only

    **Guidance Interval** lets the push away from the bad version act in the first 20 % of
    sampling, where structure is decided. After that it is off and costs nothing: 5 more passes
    instead of 25. A source gives this time, cfg 5 and a **weak_scale** of 3.5 for SDXL.
    **Schedule Preview** draws the scale of each step.

    Let it end at 0.4 or 1 and compare on the same seed. Connect the interval to
    **negative_schedule** instead, from 0.2 to 0.9: cfg then leaves the composition alone, and
    images vary more. **Guidance Ramp** and **Guidance Curve** fit the same inputs.
    """
    model, clip, vae = checkpoint(graph, files.SDXL)
    when = graph.add("BadVersionGuidanceInterval", start=0, end=0.2)
    latent = graph.add("EmptyLatentImage", width=SIDE, height=SIDE)
    graph.column()
    positive, negative = prompts(graph, clip, HANDS, AVOID)
    sigmas = graph.add("BasicScheduler", model=model, scheduler=SD.scheduler, steps=SD.steps)
    graph.column()
    guider = graph.add(
        "BadVersionGuider",
        model=model,
        positive=positive,
        negative=negative,
        weak_schedule=when,
        cfg=5,
        weak_scale=3.5,
    )
    samples = advanced(graph, guider, sigmas, latent, SD.sampler_name)
    graph.add(
        "BadVersionGuidanceSchedulePreview", schedule=when, model=model, sigmas=sigmas, scale=3.5
    )
    saved(graph, samples, vae, "sdxl_interval")


@template("SDXL", "the negative prompt, at cfg 12 without burning", "APG, a paper")
def sdxl_apg_at_a_high_cfg(graph: Graph) -> None:
    """A high cfg that does not burn

    A cfg of 12 follows the prompt closely and burns colours. **Projected Shape (APG)** on
    **negative_shape** takes away the part of that push that only strengthens what is in the
    image, and shortens what is too long. Its settings are the paper's for SDXL. Here the
    negative prompt is the only bad version: **weak_scale** is 1, so the other push is off.

    Disconnect **negative_shape** to see the same cfg without it. Then raise cfg to 15, or set
    **weak_scale** to 3 for both pushes at once. For larger images, raise **norm_threshold**; 0
    takes the limit away.
    """
    model, clip, vae = checkpoint(graph, files.SDXL)
    shape = graph.add("BadVersionProjectedShape", eta=0, norm_threshold=15, momentum=-0.5)
    latent = graph.add("EmptyLatentImage", width=SIDE, height=SIDE)
    graph.column()
    guided = graph.add("BadVersionPatch", model=model, negative_shape=shape, weak_scale=1)
    positive, negative = prompts(graph, clip, FOX, AVOID)
    graph.column()
    samples = ksampler(graph, SD, guided, positive, negative, latent, cfg=12)
    saved(graph, samples, vae, "sdxl_apg_at_a_high_cfg")


@template(
    "SDXL", "the negative prompt, only as far as an image drifts to it", "Dynamic Negative, a paper"
)
def sdxl_dynamic_negative(graph: Graph) -> None:
    """All but one thing

    **Dynamic Negative** pushes only as hard as each image drifts towards the negative prompt,
    so images in which the thing would not appear hardly change. That is for a negative prompt
    that names one thing, not for a list of faults. It is made for the sampler
    *euler_ancestral*. Here the negative prompt is the only bad version: **weak_scale** is 1,
    so the other push is off.

    Bypass the patch for an ordinary negative prompt, which changes every image. **prior** is
    how many of your images show the thing anyway: 0.02 for a rare one, 0.2 for one in five.
    Set **weak_scale** to 3 for cleaner images: the two pushes go well together.
    """
    model, clip, vae = checkpoint(graph, files.SDXL)
    dynamic = graph.add("BadVersionDynamicNegative", prior=0.1)
    latent = graph.add("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=4)
    graph.column()
    guided = graph.add("BadVersionPatch", model=model, negative_schedule=dynamic, weak_scale=1)
    positive, negative = prompts(
        graph, clip, "a quiet street in an old town, summer, photograph", "a car"
    )
    graph.column()
    samples = ksampler(
        graph, SD, guided, positive, negative, latent, sampler_name="euler_ancestral"
    )
    saved(graph, samples, vae, "sdxl_dynamic_negative")


@template("SDXL", "itself, with weaker attention; inpainting", "PAG and SEG, papers")
def sdxl_inpainting(graph: Graph) -> None:
    """Inpainting with the patch

    **Bad-Version Patch** works in any graph with a model, this one repaints a part of an
    image. The push away from a bad version of the model keeps what is new in one piece. First
    open an image in **Load Image**, right-click it, choose **Open in MaskEditor**, and paint
    over what is to change.

    Compare **weak_scale** 1, which is off, with 2 and 4 on the same seed. A **denoise** of 0.6
    keeps more of what was there. The prompt describes the whole image, not only the new part.
    """
    model, clip, vae = checkpoint(graph, files.SDXL)
    image = graph.add("LoadImage", image="example.png")
    graph.column()
    pixels = graph.add("VAEEncode", pixels=image["IMAGE"], vae=vae)
    soft = graph.add("DifferentialDiffusion", model=model)
    positive, negative = prompts(graph, clip, FOX, AVOID)
    graph.column()
    guided = graph.add("BadVersionPatch", model=soft, weak_scale=4)
    latent = graph.add("SetLatentNoiseMask", samples=pixels, mask=image["MASK"])
    graph.column()
    samples = ksampler(graph, SD, guided, positive, negative, latent, denoise=0.9)
    saved(graph, samples, vae, "sdxl_inpainting")
