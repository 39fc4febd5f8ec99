"""The sampler's own push away from a negative prompt, with a schedule and a shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import comfy
from ..errors import bad_input
from ..push import formulas
from ..push.call import NEGATIVE, Pushed
from ..push.push import RunningPush, is_off

if TYPE_CHECKING:
    from torch import Tensor

    from ..push.call import Call
    from ..push.noise import Noise
    from ..push.push import Push


def has_negative(conds: Sequence[Any]) -> bool:
    """Whether ComfyUI predicts for a negative prompt."""
    return len(conds) > 1 and conds[1] is not None


class NegativePush:
    """Rewrites what the sampler takes for the negative prompt's prediction.

    In place of ``N`` the sampler gets the bad version from which its own scale leads to the push
    that is wanted, so that what others do to classifier-free guidance is done to that push.

    Args:
        node: display name of the artist's node.
        push: schedules and shapes; the strength is the sampler's.
        noise: of the run.
        sampler: name of the guider whose run it is, for messages.
        others: names of the pushes that shapes compare with.

    Attributes:
        running: None where the push is plain, so that it is the sampler's alone.
    """

    def __init__(
        self, node: str, push: Push, noise: Noise, sampler: str, others: Sequence[str]
    ) -> None:
        self._node = node
        self._push = push
        self._sampler = sampler
        self.running = None if push.is_plain else RunningPush(NEGATIVE, push, noise, others)

    @property
    def is_scheduled(self) -> bool:
        """Whether it may be known before a call that the push is off there."""
        return self.running is not None and self.running.is_scheduled

    def is_on(self, call: Call) -> bool:
        """Whether its schedules leave anything of it at this call."""
        return self.running is None or self.running.is_on(call)

    def rewrite(self, call: Call, args: dict[str, Any]) -> list[Tensor]:
        """The predictions that the sampler goes on with.

        Args:
            call: with ``C``.
            args: of a pre-CFG function of ComfyUI.
        """
        out = args["conds_out"]
        if len(out) != 2 or not has_negative(args["conds"]):
            return out
        C, N = out
        call.pushed[NEGATIVE] = Pushed()
        if not self.is_on(call):
            return [C, C]
        if N is C:  # The schedule of another patch has switched it off.
            return out
        call.take(NEGATIVE, N)
        call.limit(NEGATIVE, comfy.predicted_where(args["conds"][1], call.x, call.sigma))
        strength = args["cond_scale"] - 1.0
        call.pushed[NEGATIVE] = Pushed(strength, N)
        if self.running is None or is_off(strength):
            return out
        call.pushed[NEGATIVE] = pushed = self.running.at(call, strength)
        is_whole = pushed.delta is call.difference(NEGATIVE) and not call.is_limited(NEGATIVE)
        if is_whole and isinstance(pushed.strength, float) and pushed.strength == strength:
            return out  # The very bits, of which some would be lost on the way to C and back.
        # From C, by a strength of its own of every sample.
        return [C, formulas.add_push(C, pushed.delta, -pushed.strength / strength)]

    def look_at(self, call: Call, args: dict[str, Any], *, measured: bool) -> None:
        """See what has become of the push.

        Args:
            call: with ``C``.
            args: of a post-CFG function of ComfyUI.
            measured: whether it matters how much was added.

        Raises:
            GuidanceError: where there is no plain classifier-free guidance to rewrite.
        """
        pushed = call.pushed.get(NEGATIVE)
        if pushed is None and self.running is not None and args["uncond"] is not None:
            raise bad_input(
                self._node,
                "negative_schedule" if self._push.schedules else "negative_shape",
                f"something to act on the guidance of {self._sampler}, which is not plain "
                "classifier-free guidance",
                "a sampler with one positive and one negative prompt, such as KSampler or "
                "CFGGuider",
            )
        if pushed is not None and measured:
            call.pushed[NEGATIVE] = replace(pushed, added=args["denoised"] - call.C)
