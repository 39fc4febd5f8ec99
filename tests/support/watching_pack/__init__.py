"""A node pack for tests on a real server: what is alive in its process, and trouble in a run."""

import gc
from typing import Any, NoReturn

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
        """Return the counts to the page; another number keeps them from coming from the cache."""
        gc.collect()
        alive = gc.get_objects()
        # By type(), because isinstance() would wake up objects that import modules when touched.
        tensors = [each for each in alive if issubclass(type(each), torch.Tensor)]
        storages = {
            storage.data_ptr(): storage.nbytes()
            for storage in (each.untyped_storage() for each in tensors)
        }
        counts = {
            "resident": psutil.Process().memory_info().rss,
            "objects": len(alive),
            "tensors": len(tensors),
            "tensor_bytes": sum(storages.values()),
            "patchers": sum(issubclass(type(each), ModelPatcher) for each in alive),
            "loaded": len(comfy.model_management.current_loaded_models),
        }
        return io.NodeOutput(ui={"counts": [counts]})


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

        def fail() -> NoReturn:
            raise ZeroDivisionError(f"out of luck at call {at_call}")

        def wrapper(apply: Any, args: dict[str, Any]) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls > at_call:
                fail()
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
