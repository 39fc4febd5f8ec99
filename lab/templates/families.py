"""Templates for models in several files: Flux, Z-Image, Qwen-Image, Wan, Anima, Chroma."""

from __future__ import annotations

from . import files
from .graph import Graph, template
from .parts import POSITIVE, Sampling, advanced, ksampler, prompts, saved, separate

LIBRARY = "an old library with a spiral staircase, dust in the light from tall windows, photograph"
SIGN = 'a small bakery at dawn, a sign above its door says "Fresh bread", photograph'
CAT = "a tabby cat that watches rain run down a window, close-up, photograph"


@template("FLUX.1 dev", "itself without some blocks")
def flux1_dev_skipped_blocks(graph: Graph) -> None:
    """A distilled model, away from itself with fewer blocks

    FLUX.1 dev runs at cfg 1 and has no use for a negative prompt. **Weaken by Skipping
    Blocks** makes a bad version of it by leaving out some blocks a third of the way in, and
    **Bad-Version Patch** pushes away from that. No source gives a number for this model:
    **weak_scale** 1.5 is a place to start.

    Compare **weak_scale** 1, which is off, with 1.5 and 2 on the same seed. Then type other
    blocks, such as **double 6-8** or **single 12-14**, and keep those that leave the image
    recognizable, but worse. With a push, a lower **guidance** often looks more natural: try
    2.5.
    """
    model = graph.add("UNETLoader", unet_name=files.FLUX1_DEV)
    clip = graph.add(
        "DualCLIPLoader", clip_name1=files.CLIP_L, clip_name2=files.T5_XXL, type="flux"
    )
    vae = graph.add("VAELoader", vae_name=files.FLUX1_VAE)
    latent = graph.add("EmptySD3LatentImage", width=1024, height=1024)
    graph.column()
    weak = graph.add("BadVersionWeakenBySkippingBlocks", model=model, blocks="auto")
    prompt = graph.add("CLIPTextEncode", POSITIVE, clip=clip, text=LIBRARY)
    graph.column()
    guided = graph.add("BadVersionPatch", model=model, weak_model=weak, weak_scale=1.5)
    positive = graph.add("FluxGuidance", conditioning=prompt, guidance=3.5)
    negative = graph.add("ConditioningZeroOut", conditioning=prompt)
    graph.column()
    samples = ksampler(
        graph, Sampling(20, 1, "euler", "simple"), guided, positive, negative, latent
    )
    saved(graph, samples, vae, "flux1_dev_skipped_blocks")


@template("FLUX.2 klein base", "itself without some blocks, and the negative prompt")
def flux2_klein_base_skipped_blocks(graph: Graph) -> None:
    """Two pushes in one guider

    FLUX.2 klein base is not distilled, so it takes a cfg of 5, and a second push beside it:
    away from the same model without some blocks a third of the way in. **Bad-Version Guider**
    makes both. No source gives a number for this model: **weak_scale** 1.5 is a place to
    start.

    Compare **weak_scale** 1, which is off, with 1.5 and 2 on the same seed, then lower cfg to
    3: the bad version keeps the image together, and images vary more. Type other blocks, such
    as **double 2**, and keep those that leave the image recognizable, but worse.
    """
    model, clip, vae = separate(
        graph, files.FLUX2_KLEIN_BASE, files.FLUX2_TEXT, "flux2", files.FLUX2_VAE
    )
    latent = graph.add("EmptyFlux2LatentImage", width=1024, height=1024)
    graph.column()
    weak = graph.add("BadVersionWeakenBySkippingBlocks", model=model, blocks="auto")
    positive, negative = prompts(graph, clip, LIBRARY, "")
    sigmas = graph.add("Flux2Scheduler", steps=20, width=1024, height=1024)
    graph.column()
    guider = graph.add(
        "BadVersionGuider",
        model=model,
        positive=positive,
        negative=negative,
        weak_model=weak,
        cfg=5,
        weak_scale=1.5,
    )
    samples = advanced(graph, guider, sigmas, latent, "euler")
    saved(graph, samples, vae, "flux2_klein_base_skipped_blocks")


@template("Z-Image", "itself without some blocks, and the negative prompt")
def z_image_skipped_blocks(graph: Graph) -> None:
    """A second push beside cfg

    ComfyUI's graph for Z-Image, and beside its cfg of 4 a push away from the same model
    without some blocks a third of the way in. No source gives a number for this model:
    **weak_scale** 1.5 is a place to start.

    Compare **weak_scale** 1, which is off, with 1.5 and 2 on the same seed, then lower cfg to
    2.5. Type other blocks, such as **8-9**, and keep those that leave the image recognizable,
    but worse. For fewer passes, push in the first half only, by **Guidance Interval** on
    **weak_schedule**.
    """
    loaded, clip, vae = separate(
        graph, files.Z_IMAGE, files.Z_IMAGE_TEXT, "lumina2", files.Z_IMAGE_VAE
    )
    latent = graph.add("EmptySD3LatentImage", width=1024, height=1024)
    graph.column()
    model = graph.add("ModelSamplingAuraFlow", model=loaded, shift=3)
    positive, negative = prompts(graph, clip, SIGN, "")
    graph.column()
    weak = graph.add("BadVersionWeakenBySkippingBlocks", model=model, blocks="auto")
    graph.column()
    guided = graph.add("BadVersionPatch", model=model, weak_model=weak, weak_scale=1.5)
    graph.column()
    sampling = Sampling(25, 4, "res_multistep", "simple")
    samples = ksampler(graph, sampling, guided, positive, negative, latent)
    saved(graph, samples, vae, "z_image_skipped_blocks")


@template("Z-Image Turbo with a LoRA", "itself without the LoRA", "the paper on autoguidance")
def z_image_turbo_lora_on_against_off(graph: Graph) -> None:
    """LoRA on against LoRA off

    **Weaken LoRAs** takes the LoRA off again, and that is the bad version: the push goes
    towards what the LoRA has learned, and the strength of the LoRA itself stays as it is. It
    works at the cfg of 1 of a turbo model. For autoguidance a **weak_scale** of 1.4 to 3 is
    published; none for this LoRA.

    Compare **weak_scale** 1, which is off, with 2 and 3 on the same seed. Then lower the
    strength of the LoRA to 0.6 and push harder. With **keep** at 0.5 the bad version has half
    of the LoRA, for a gentler push. Put your own model and LoRA in: any pair works.
    """
    loaded, clip, vae = separate(
        graph, files.Z_IMAGE_TURBO, files.Z_IMAGE_TEXT, "lumina2", files.Z_IMAGE_VAE
    )
    latent = graph.add("EmptySD3LatentImage", width=1024, height=1024)
    graph.column()
    model = graph.add(
        "LoraLoaderModelOnly",
        model=loaded,
        lora_name=files.Z_IMAGE_TURBO_LORA,
        strength_model=1,
    )
    positive = graph.add(
        "CLIPTextEncode",
        POSITIVE,
        clip=clip,
        text="Pixel art style, a lighthouse on a cliff, waves below, evening sky",
    )
    graph.column()
    weak = graph.add("BadVersionWeakenLora", model=model, keep=0)
    negative = graph.add("ConditioningZeroOut", conditioning=positive)
    graph.column()
    guided = graph.add("BadVersionPatch", model=model, weak_model=weak, weak_scale=2)
    graph.column()
    sampling = Sampling(8, 1, "res_multistep", "simple")
    samples = ksampler(graph, sampling, guided, positive, negative, latent)
    saved(graph, samples, vae, "z_image_turbo_lora")


@template("Qwen-Image", "itself without the words of the prompt", "CDG, paper")
def qwen_image_weak_prompt(graph: Graph) -> None:
    """Away from the prompt without its words

    Here the bad version is the same model with a worse prompt: **Weaken Prompt** puts those of
    an empty prompt in the place of its words, and leaves all else. **weak_positive** takes
    that, so the push goes towards what the words say. It takes the place of cfg, at the same
    cost: cfg is 1. The paper's scale for this model is 4.

    The prompt stands in a node of its own, since the encoder and Weaken Prompt must read the
    same text. Compare **weak_scale** 1, which is off, with 3 and 4 on the same seed.
    """
    loaded, clip, vae = separate(
        graph, files.QWEN_IMAGE, files.QWEN_IMAGE_TEXT, "qwen_image", files.QWEN_IMAGE_VAE
    )
    text = graph.add("PrimitiveStringMultiline", "The prompt", value=SIGN)
    graph.column()
    model = graph.add("ModelSamplingAuraFlow", model=loaded, shift=3.1)
    positive = graph.add("CLIPTextEncode", POSITIVE, clip=clip, text=text)
    empty = graph.add("CLIPTextEncode", "The empty prompt", clip=clip, text="")
    graph.column()
    weak = graph.add(
        "BadVersionWeakenPrompt",
        conditioning=positive,
        mode="content",
        amount=1,
        empty=empty,
        clip=clip,
        text=text,
    )
    graph.column()
    guided = graph.add("BadVersionPatch", model=model, weak_positive=weak, weak_scale=4)
    latent = graph.add("EmptySD3LatentImage", width=1328, height=1328)
    graph.column()
    sampling = Sampling(50, 1, "euler", "simple")
    samples = ksampler(graph, sampling, guided, positive, empty, latent)
    saved(graph, samples, vae, "qwen_image_weak_prompt")


@template("Wan 2.2 5B, video", "itself without blocks 9 and 10", "Wan's users")
def wan22_5b_video(graph: Graph) -> None:
    """Video away from a model without two blocks

    ComfyUI's graph for Wan 2.2 5B, text to video, and beside its cfg a push away from the same
    model without its blocks 9 and 10, from the first steps until 80 % of sampling. Those
    blocks, that time and a **weak_scale** of 4 are published for Wan; most other single blocks
    make it worse.

    A video takes long, so try it first with a **length** of 25 and a smaller width and height.
    Compare **weak_scale** 1, which is off, with 2 and 4 on the same seed: look at hands and at
    what moves. For image to video, connect an image to **start_image**.
    """
    loaded, clip, vae = separate(graph, files.WAN22_5B, files.WAN_TEXT, "wan", files.WAN22_VAE)
    when = graph.add("BadVersionGuidanceInterval", start=0.01, end=0.8)
    graph.column()
    model = graph.add("ModelSamplingSD3", model=loaded, shift=8)
    positive, negative = prompts(
        graph,
        clip,
        "a heron walks through shallow water at sunrise, mist above it, slow camera, film",
        "static, overexposed, blurred details, subtitles, worst quality, jpeg artifacts",
    )
    latent = graph.add("Wan22ImageToVideoLatent", vae=vae, width=1280, height=704, length=121)
    graph.column()
    weak = graph.add("BadVersionWeakenBySkippingBlocks", model=model, blocks="9-10")
    graph.column()
    guided = graph.add(
        "BadVersionPatch", model=model, weak_model=weak, weak_schedule=when, weak_scale=4
    )
    graph.column()
    sampling = Sampling(20, 5, "uni_pc", "simple")
    samples = ksampler(graph, sampling, guided, positive, negative, latent)
    graph.column()
    images = graph.add("VAEDecode", samples=samples, vae=vae)
    graph.column()
    graph.add("SaveWEBM", images=images, fps=24, filename_prefix="video/wan22_5b_video")


@template("Anima", "itself without attention in block 18", "Anima's users")
def anima_weak_attention(graph: Graph) -> None:
    """Away from one block without attention

    ComfyUI's graph for Anima, and beside its cfg a push away from the same model, in whose
    block 18 no part of the image sees the others, until 70 % of sampling. This block, that
    time and a **weak_scale** of 5 are published for Anima.

    Compare **weak_scale** 1, which is off, with 3 and 5 on the same seed. Then put **Weaken by
    Skipping Blocks** in the place of Weaken Attention, with block 18 and a **weak_scale** of
    4: a source recommends that as well.
    """
    model, clip, vae = separate(
        graph, files.ANIMA, files.ANIMA_TEXT, "stable_diffusion", files.ANIMA_VAE
    )
    when = graph.add("BadVersionGuidanceInterval", start=0, end=0.7)
    latent = graph.add("EmptyLatentImage", width=1024, height=1024)
    graph.column()
    weak = graph.add("BadVersionWeakenAttention", model=model, mode="identity", blocks="18")
    positive, negative = prompts(
        graph,
        clip,
        "masterpiece, best quality, score_7, safe, 1girl, florist, holding a bouquet of tulips, "
        "flower shop, morning light",
        "worst quality, low quality, score_1, score_2, score_3, blurry, jpeg artifacts, sepia",
    )
    graph.column()
    guided = graph.add(
        "BadVersionPatch", model=model, weak_model=weak, weak_schedule=when, weak_scale=5
    )
    graph.column()
    samples = ksampler(
        graph, Sampling(30, 4, "euler", "simple"), guided, positive, negative, latent
    )
    saved(graph, samples, vae, "anima_weak_attention")


@template("Chroma", "itself without some blocks, and the negative prompt")
def chroma_skipped_blocks(graph: Graph) -> None:
    """Two pushes in one guider

    ComfyUI's graph for Chroma with **Bad-Version Guider** in the place of its CFGGuider:
    beside cfg, a push away from the same model without some blocks a third of the way in. No
    source gives a number for this model: **weak_scale** 1.5 is a place to start.

    Compare **weak_scale** 1, which is off, with 1.5 and 2 on the same seed, then lower cfg to
    2.5. Type other blocks, such as **double 6-8**, and keep those that leave the image
    recognizable, but worse.
    """
    loaded, encoder, vae = separate(
        graph, files.CHROMA, files.T5_XXL_FP8, "chroma", files.FLUX1_VAE
    )
    latent = graph.add("EmptySD3LatentImage", width=1024, height=1024)
    graph.column()
    model = graph.add("ModelSamplingAuraFlow", model=loaded, shift=1)
    clip = graph.add("T5TokenizerOptions", clip=encoder, min_padding=0, min_length=0)
    graph.column()
    weak = graph.add("BadVersionWeakenBySkippingBlocks", model=model, blocks="auto")
    positive, negative = prompts(
        graph, clip, CAT, "low quality, blurred, flat colours, oversaturated, watermark"
    )
    sigmas = graph.add("BasicScheduler", model=model, scheduler="beta", steps=26)
    graph.column()
    guider = graph.add(
        "BadVersionGuider",
        model=model,
        positive=positive,
        negative=negative,
        weak_model=weak,
        cfg=3.5,
        weak_scale=1.5,
    )
    samples = advanced(graph, guider, sigmas, latent, "euler")
    saved(graph, samples, vae, "chroma_skipped_blocks")
