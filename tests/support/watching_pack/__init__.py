"""A node pack for tests on a real server: what is alive in its process, and trouble in a run."""

import gc
from typing import Any

import comfy.model_management
import psutil
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import ComfyExtension, io


class LiveObjects(io.ComfyNode):
    """Count what the server's process holds, once all garbage is collected."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveObjects",
            display_name="Live Objects",
            category="tests",
            inputs=[io.Image.Input("after"), io.Int.Input("number")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, after: torch.Tensor, number: int) -> io.NodeOutput:
        """Return the counts to the page; another number keeps them from coming from the cache.

        Records of probes, which are kept on purpose, are counted apart, with all their tensors.
        """
        gc.collect()
        alive = gc.get_objects()
        # By type(), because isinstance() would wake up objects that import modules when touched.
        records = [each for each in alive if type(each).__name__ == "Record"]
        recorded = {id(tensor) for record in records for tensor in _tensors_of(record)}
        tensors = [
            each
            for each in alive
            if issubclass(type(each), torch.Tensor) and id(each) not in recorded
        ]
        storages = {
            storage.data_ptr(): storage.nbytes()
            for storage in (each.untyped_storage() for each in tensors)
        }
        counts = {
            "resident": psutil.Process().memory_info().rss,
            "records": len(records),
            "objects": len(alive) - len(recorded),
            "tensors": len(tensors),
            "tensor_bytes": sum(storages.values()),
            "patchers": sum(issubclass(type(each), ModelPatcher) for each in alive),
            "loaded": len(comfy.model_management.current_loaded_models),
        }
        return io.NodeOutput(ui={"counts": [counts]})


def _tensors_of(record: Any) -> list[torch.Tensor]:
    shown = record.thumbnails.latents.values()
    # What NumPy has of a tensor keeps it alive.
    base = record.mean_shift
    while not isinstance(base, torch.Tensor):
        base = base.base
    return [record.marks, base, *(tensor for latents in shown for tensor in latents)]


class FailingModel(io.ComfyNode):
    """``MODEL → MODEL``: a model whose network fails at one of its calls."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FailingModel",
            display_name="Failing Model",
            category="tests",
            inputs=[io.Model.Input("model"), io.Int.Input("at_call"), io.Int.Input("number")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, at_call: int, number: int) -> io.NodeOutput:
        """Return a model for one run; another number makes one for another run."""
        calls = 0

        def wrapper(apply: Any, args: dict[str, Any]) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls > at_call:
                raise ZeroDivisionError(f"out of luck at call {at_call}")
            return apply(args["input"], args["timestep"], **args["c"])

        model = model.clone()
        model.set_model_unet_function_wrapper(wrapper)
        return io.NodeOutput(model)


class WatchingExtension(ComfyExtension):
    """What ComfyUI registers."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LiveObjects, FailingModel]


async def comfy_entrypoint() -> WatchingExtension:
    """Called by ComfyUI when it loads this folder as a custom node."""
    return WatchingExtension()
