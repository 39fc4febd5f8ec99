"""ComfyUI, as the rest of guiders sees it.

No other folder here imports ComfyUI, or reads what it keeps for itself on models, layers and
options. So a release that has renamed something is followed here, and nowhere else.

    needed      what the pack needs of ComfyUI, by name; looked for before anything is imported
    runs        a run: its options, its conditionings, and what its model predicts
    patchers    what a patcher asks of ComfyUI, how models are loaded and stand in for each other
    weights     layers, and the weak weights that are made out of main ones
    text        a text encoder: tokens, rows of an embedding, words

Each imports from those above it only.
"""

from .needed import NEEDED, NEEDED_ON_PATCHERS, missing_names, require_names

require_names()

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.sampler_helpers import convert_cond
from comfy.samplers import CFGGuider, Sampler
from comfy.sd import CLIP
from comfy.weight_adapter import WeightAdapterBase

from .patchers import (
    able_to_hook,
    compute_dtype,
    delegate_beside,
    differing_objects,
    exchanged,
    has_all_weights_in_place,
    injected_loras,
    is_context_handler,
    is_dynamic_patcher,
    loads_dynamically,
    on_one_device,
    patcher_beside,
    patches_of,
    runner,
    running_as,
    scale_injected_lora,
    set_patches,
    set_up,
    unload,
    without_injections,
)
from .runs import (
    ATTENTION_ASKS,
    BATCH_FUNCTION,
    CANCEL_OR_MEMORY,
    CFG,
    CONTEXT_WINDOWS,
    POST_CFG,
    PRE_CFG,
    BatchFunction,
    InnerConditioning,
    attend,
    load_along,
    make_ready_again,
    mixes_prompts,
    own_options,
    predict,
    predict_batch,
    predicted_where,
    stop_if_cancelled,
    with_own_hooks,
    wrap,
)
from .text import Tokens, encode, tokenize, word_of
from .weights import (
    Carried,
    OffloadableLayer,
    Patching,
    address,
    bare,
    base_of,
    exchange,
    fetch_when_used,
    get_weight,
    is_packed,
    is_scale_of_quantised_layer,
    layer_of,
    patched_on_the_fly,
    patched_weight,
    patches_in_its_own_way,
    use_functions,
    value_of,
    weight_functions,
)

__all__ = [
    "ATTENTION_ASKS",
    "BATCH_FUNCTION",
    "CANCEL_OR_MEMORY",
    "CFG",
    "CLIP",
    "CONTEXT_WINDOWS",
    "NEEDED",
    "NEEDED_ON_PATCHERS",
    "POST_CFG",
    "PRE_CFG",
    "BatchFunction",
    "CFGGuider",
    "Carried",
    "InnerConditioning",
    "ModelPatcher",
    "OffloadableLayer",
    "Patching",
    "Sampler",
    "Tokens",
    "WeightAdapterBase",
    "WrappersMP",
    "able_to_hook",
    "address",
    "attend",
    "bare",
    "base_of",
    "compute_dtype",
    "convert_cond",
    "delegate_beside",
    "differing_objects",
    "encode",
    "exchange",
    "exchanged",
    "fetch_when_used",
    "get_weight",
    "has_all_weights_in_place",
    "injected_loras",
    "is_context_handler",
    "is_dynamic_patcher",
    "is_packed",
    "is_scale_of_quantised_layer",
    "layer_of",
    "load_along",
    "loads_dynamically",
    "make_ready_again",
    "missing_names",
    "mixes_prompts",
    "on_one_device",
    "own_options",
    "patched_on_the_fly",
    "patched_weight",
    "patcher_beside",
    "patches_in_its_own_way",
    "patches_of",
    "predict",
    "predict_batch",
    "predicted_where",
    "require_names",
    "runner",
    "running_as",
    "scale_injected_lora",
    "set_patches",
    "set_up",
    "stop_if_cancelled",
    "tokenize",
    "unload",
    "use_functions",
    "value_of",
    "weight_functions",
    "with_own_hooks",
    "without_injections",
    "word_of",
    "wrap",
]
