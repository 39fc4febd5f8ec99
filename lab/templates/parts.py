"""Parts of graphs that several templates share."""

from __future__ import annotations

from typing import Any, NamedTuple

from .graph import File, Graph, Node, Output

Link = Node | Output

POSITIVE = "Positive: what you want"
NEGATIVE = "Negative: what to avoid"


class Loaded(NamedTuple):
    """What loaders give."""

    model: Link
    clip: Link
    vae: Link


class Sampling(NamedTuple):
    """The settings of a KSampler, as ComfyUI's own template of the model has them."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str


def checkpoint(graph: Graph, file: File) -> Loaded:
    """Load a model that is one file."""
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=file)
    return Loaded(loader["MODEL"], loader["CLIP"], loader["VAE"])


def separate(graph: Graph, model: File, text: File, kind: str, vae: File) -> Loaded:
    """Load a model in three files; `kind` is what the text encoder is for."""
    return Loaded(
        graph.add("UNETLoader", unet_name=model),
        graph.add("CLIPLoader", clip_name=text, type=kind),
        graph.add("VAELoader", vae_name=vae),
    )


def prompts(graph: Graph, clip: Link, positive: str, negative: str) -> tuple[Node, Node]:
    """Two prompts, one below the other."""
    return (
        graph.add("CLIPTextEncode", POSITIVE, clip=clip, text=positive),
        graph.add("CLIPTextEncode", NEGATIVE, clip=clip, text=negative),
    )


def ksampler(
    graph: Graph,
    sampling: Sampling,
    model: Link,
    positive: Link,
    negative: Link,
    latent: Link,
    seed: Any = 1,
    **changed: Any,
) -> Node:
    """A KSampler with these settings."""
    return graph.add(
        "KSampler",
        model=model,
        positive=positive,
        negative=negative,
        latent_image=latent,
        seed=seed,
        **{**sampling._asdict(), **changed},
    )


def advanced(graph: Graph, guider: Node, sigmas: Link, latent: Link, sampler: str) -> Node:
    """Sample with a guider, in a column of its own."""
    noise = graph.add("RandomNoise", noise_seed=1)
    chosen = graph.add("KSamplerSelect", sampler_name=sampler)
    graph.column()
    sampled = graph.add(
        "SamplerCustomAdvanced",
        noise=noise,
        guider=guider,
        sampler=chosen,
        sigmas=sigmas,
        latent_image=latent,
    )
    return sampled["output"]


def saved(graph: Graph, samples: Link, vae: Link, prefix: str) -> None:
    """Decode in a column, save in the next."""
    graph.column()
    image = graph.add("VAEDecode", samples=samples, vae=vae)
    graph.column()
    graph.add("SaveImage", images=image, filename_prefix=prefix)
