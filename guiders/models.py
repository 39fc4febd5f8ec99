"""Can one model serve as the bad version of another, and is it a different one at all?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from operator import is_
from typing import TYPE_CHECKING, Any

import torch

from . import comfy
from .errors import GuidanceError, bad_input
from .push.noise import Noise

if TYPE_CHECKING:
    from .comfy import ModelPatcher


def check_pair(node: str, main: ModelPatcher, weak: ModelPatcher) -> None:
    """Check that predictions of the two models can be subtracted from each other.

    They must live in one latent space (channels, dimensions, scaling) and mean the same by a
    sigma (both flow, or both of the variance-exploding kind: eps and v go together).

    Raises:
        GuidanceError: naming ``weak_model``, what it is and what ``main`` needs.
    """
    latent, weak_latent = (m.get_model_object("latent_format") for m in (main, weak))
    size, weak_size = (
        f"latents of {f.latent_channels} channels and {f.latent_dimensions} dimensions"
        for f in (latent, weak_latent)
    )
    if size != weak_size:
        raise bad_input(
            node,
            "weak_model",
            f"{name_of(weak)}, a model with {weak_size}",
            f"the same latents as 'model' ({name_of(main)}) has: {size}",
        )
    scaling, weak_scaling = (_latent_scaling(f) for f in (latent, weak_latent))
    if scaling != weak_scaling:
        raise bad_input(
            node,
            "weak_model",
            f"{name_of(weak)}, which scales latents as {_latent_name(weak_latent)}",
            f"latents as 'model' ({name_of(main)}) has them, {_latent_name(latent)}: "
            "both models must share one VAE",
        )
    schedule, weak_schedule = (_schedule_kind(m) for m in (main, weak))
    if schedule != weak_schedule:
        raise bad_input(
            node,
            "weak_model",
            f"{name_of(weak)} with a noise schedule of the kind {weak_schedule}",
            f"the kind that 'model' ({name_of(main)}) has: {schedule}",
        )


def name_of(model: ModelPatcher) -> str:
    """The architecture's name, as ComfyUI calls what it loads: SDXL, Flux, WAN21_T2V, …"""
    return type(model.model.model_config).__name__


def _latent_name(latent_format: Any) -> str:
    return f"{type(latent_format).__name__} (factor {latent_format.scale_factor})"


def _latent_scaling(latent_format: Any) -> tuple[Any, ...]:
    """The numbers by which a latent format scales, in a form that can be compared."""
    names = ("scale_factor", "shift_factor", "latents_mean", "latents_std")
    values = (getattr(latent_format, name, None) for name in names)
    return tuple(v.tolist() if isinstance(v, torch.Tensor) else v for v in values)


def _schedule_kind(model: ModelPatcher) -> str:
    kinds = {False: "eps or v (latent + sigma · noise)", True: "flow ((1 − sigma) · latent + …)"}
    sampling = model.get_model_object("model_sampling")
    return kinds.get(_is_flow(sampling), type(sampling).__mro__[1].__name__)


def _is_flow(sampling: Any) -> bool | None:
    """What a model means by a noisy latent, by asking it to make one; None for neither kind.

    At sigma 1/2 a variance-exploding model adds half the noise to the whole latent, and a flow
    model to half of it.
    """
    noise, latent = torch.ones(1), torch.full((1,), 2.0)
    noisy = float(sampling.noise_scaling(torch.full((1,), 0.5), noise, latent))
    return {2.5: False, 1.5: True}.get(noisy)


def time_of(sampling: Any, sigma: float) -> float:
    """What a model's clock shows at a noise level, 0 to 1, where 1 is noise alone.

    For flow models this is sigma, for those of 1000 noise levels the number of the level in
    thousandths: what ComfyUI tells the network, over the most that it ever tells it. A clock that
    counts through zero (EDM's logarithm of sigma) is read from its least on.

    Args:
        sampling: ComfyUI's ``model_sampling``.
    """
    ends = (float(sampling.sigma_min), float(sampling.sigma_max))
    now, least, most = sampling.timestep(torch.tensor([sigma, *ends])).double().tolist()
    least = min(least, 0.0)
    return min(max((now - least) / (most - least), 0.0), 1.0)


def noise_of(
    model: ModelPatcher, sigmas: Sequence[float] = (), latent_shapes: Sequence[Sequence[int]] = ()
) -> Noise:
    """What a model means by a sigma, for one run.

    Args:
        sigmas: of the run.
        latent_shapes: of its latents, as ComfyUI hands them to a run: more than one where they are
            the parts of a row.
    """
    sampling = model.get_model_object("model_sampling")
    latent_format = model.get_model_object("latent_format")
    # Scale factors are made for latents of deviation 1, but where each channel is brought to
    # that by a factor of its own before.
    by_channel = getattr(latent_format, "latents_std", None) is not None
    return Noise(
        is_flow=bool(_is_flow(sampling)),
        percent_to_sigma=sampling.percent_to_sigma,
        deviation=float(latent_format.scale_factor) if by_channel else 1.0,
        sigmas=tuple(sigmas),
        parts=tuple(tuple(s[1:]) for s in latent_shapes) if len(latent_shapes) > 1 else (),
    )


def rounding_of(model: ModelPatcher) -> float:
    """Relative difference up to which two predictions of one model may be the same.

    A pass on its own rounds otherwise than one that shares its batch with the negative prompt.
    """
    dtype = comfy.compute_dtype(model)
    # An 8-bit float is how weights are stored; arithmetic is never coarser than bfloat16.
    eps = min(torch.finfo(dtype).eps, torch.finfo(torch.bfloat16).eps)
    return max(eps, 1e-5)


def require_difference(
    node: str, main: ModelPatcher, weak: ModelPatcher, has_own_prompt: bool
) -> None:
    """Raise :class:`GuidanceError` where the weak model is the main one with nothing changed.

    This is what can be told before anything is loaded. Once it is, :func:`weights_alike` tells
    more; and the predictions tell the rest.
    """
    if (
        not has_own_prompt
        and weak.is_clone(main)
        and set_up_alike(main, weak)
        and not differing_keys(main, weak)
    ):
        raise bad_input(
            node,
            "weak_model",
            f"the same model as 'model' ({name_of(main)}), with nothing changed",
            "a weaker one: a smaller, earlier or more compressed checkpoint, or the same base with "
            "other LoRAs",
        )


def changes_nothing(node: str, how: str, name: str = "weak_model") -> GuidanceError:
    """The error for a weak model that has turned out to be the main one.

    Args:
        how: what has shown it.
        name: of the node's input for it.
    """
    return bad_input(
        node,
        name,
        f"a model that changes nothing: {how}",
        "a bad version that differs from 'model'; check that its LoRA fits it, that its "
        "strength is not 0, and that it is not the same checkpoint loaded twice",
    )


def set_up_alike(main: ModelPatcher, weak: ModelPatcher) -> bool:
    """Whether the two patchers ask the same of ComfyUI, their weights aside.

    Errs on the side of "no": objects that cannot be compared count as different.
    """
    return _alike(comfy.set_up(main), comfy.set_up(weak))


def differing_keys(main: ModelPatcher, weak: ModelPatcher) -> list[str]:
    """Weights that two patchers of one base patch otherwise.

    Clones share the patch tuples themselves, so identity tells what was added later.
    """
    patches, weak_patches = comfy.patches_of(main), comfy.patches_of(weak)
    return [
        key
        for key in sorted(patches.keys() | weak_patches.keys())
        if not same_objects(patches.get(key, ()), weak_patches.get(key, ()))
    ]


def same_objects(a: Iterable[Any], b: Iterable[Any]) -> bool:
    """Whether two rows have the very same objects in them."""
    a, b = tuple(a), tuple(b)
    return len(a) == len(b) and all(map(is_, a, b))


def weights_alike(a: ModelPatcher, b: ModelPatcher) -> bool:
    """Whether two loaded models hold the same numbers in every parameter and buffer.

    Stops at the first difference. Models that are partly offloaded or loaded dynamically, whose
    patches are applied on the fly, count as different.
    """
    if not (comfy.has_all_weights_in_place(a) and comfy.has_all_weights_in_place(b)):
        return False
    mine, theirs = a.model.state_dict(), b.model.state_dict()
    return mine.keys() == theirs.keys() and all(same_numbers(mine[k], theirs[k]) for k in mine)


def same_numbers(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two plain tensors are equal bit for bit; quantised tensors count as different."""
    plain = (torch.Tensor, torch.nn.Parameter)
    if type(a) not in plain or type(b) not in plain or a.shape != b.shape or a.dtype != b.dtype:
        return False
    # Bytes, because torch.equal does not know every 8-bit float and calls NaN unequal to itself.
    bytes_a, bytes_b = (t.detach().contiguous().flatten().view(torch.uint8) for t in (a, b))
    return torch.equal(bytes_a, bytes_b.to(bytes_a.device))


def fingerprints(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """A number for the content of each tensor, by which to see that it was changed in place.

    Each is taken on the tensor's own device, and each device is waited for once. Of large tensors
    a part is looked at, spread over all of it: who patches a weight changes numbers everywhere.
    """
    by_device: dict[torch.device, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        content = comfy.bare(tensor)
        if content.device.type != "meta" and content.numel():
            by_device.setdefault(content.device, {})[key] = _fingerprint(content)
    found = dict.fromkeys(tensors, 0)
    for of_device in by_device.values():
        found |= zip(of_device, torch.stack([*of_device.values()]).tolist(), strict=True)
    return found


_PIECES, _PIECE = 16, 1024  # bytes


def _fingerprint(content: torch.Tensor) -> torch.Tensor:
    data = content.detach().contiguous().flatten().view(torch.uint8)
    if len(data) > _PIECES * _PIECE:
        data = data.as_strided((_PIECES, _PIECE), (len(data) // _PIECES, 1)).flatten()
    place = torch.arange(1, 2 * len(data), 2, device=data.device)
    # Not the sum of bytes alone, which forgets their order.
    return (data.long() * place * place).sum()


def _alike(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_alike(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        return same_numbers(a, b)
    if isinstance(a, set):
        return a == b
    if isinstance(a, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(map(_alike, a, b))
    if is_dataclass(a):
        return all(_alike(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if comfy.is_context_handler(a):
        return _alike(vars(a), vars(b))
    return isinstance(a, str | int | float | torch.dtype | torch.device) and a == b
