"""What can be done to which model, as the help of the nodes shows it.

make networks
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from comfyui import library
from comfyui.install import ROOT, comfyui_path

FILE = ROOT / "docs" / "help" / "shared" / "networks.md"

# The names by which artists know the small models.
MODELS = {
    "sd15": "SD1.5, SD2",
    "sdxl": "SDXL",
    "cascade_c": "Stable Cascade",
    "sd3": "SD3, SD3.5",
    "aura_flow": "AuraFlow",
    "pixart": "PixArt",
    "hunyuan_dit": "Hunyuan-DiT",
    "flux": "Flux, LongCat-Image",
    "flux2": "Flux 2",
    "chroma": "Chroma",
    "radiance": "Chroma Radiance",
    "hidream": "HiDream-I1",
    "hidream_o1": "HiDream-O1",
    "lumina": "Lumina 2",
    "z_image": "Z-Image",
    "omnigen2": "OmniGen 2",
    "boogu": "Boogu",
    "qwen_image": "Qwen-Image",
    "mage_flow": "Mage-Flow",
    "lens": "Lens",
    "joy_image": "JoyImage",
    "ernie": "ERNIE-Image",
    "ideogram4": "Ideogram 4",
    "krea2": "Krea 2",
    "cosmos_predict2": "Cosmos Predict 2",
    "anima": "Anima",
    "pixel_dit": "PixelDiT, PiD",
    "hunyuan_image": "HunyuanImage 2.1",
    "hunyuan_video": "HunyuanVideo",
    "wan": "Wan",
    "wan_animate2": "Wan Animate 2",
    "ltxv": "LTX-Video",
    "ltx_av": "LTX-2",
    "mochi": "Mochi",
    "cosmos": "Cosmos",
    "kandinsky5": "Kandinsky 5",
    "cog_video": "CogVideoX",
    "minimax_h3": "MiniMax H3",
    "seed_vr2": "SeedVR2",
    "hunyuan_3d": "Hunyuan3D 2",
    "hunyuan_3d_2_1": "Hunyuan3D 2.1",
    "tripo_splat": "TripoSplat",
    "trellis2": "Trellis 2",
    "stable_audio": "Stable Audio",
    "stable_audio3": "Stable Audio 3",
    "ace_step": "ACE-Step",
    "ace_step15": "ACE-Step 1.5",
    "music3": "MiniMax Music 3",
}
ENGLISH = {
    "heading": "## On which models",
    "columns": (
        *("model", "attention", "tokens", "skipping", "dropout", "noisy clock"),
        "without a weak model",
    ),
    "yes": "yes",
    "attention": "no: cannot be replaced",
    "tokens": "no: not one sequence",
    "skip": "no: not whole blocks",
    "clock": "no: not a part of its own",
    "ways": {"attention": "weaker attention", "skip": "skipped blocks", "rank": "low rank"},
    "before": "Which nodes can weaken which model in a recent ComfyUI, and what the guider does "
    "where no weak model is connected and *Guidance Recipe* knows no recipe. The *Weaken* nodes "
    "that are not shown work on every model. Where it says no, the node reports an error before "
    "anything is sampled.",
}
CHINESE = {
    "heading": "## 适用于哪些模型",
    "columns": (
        *("模型", "注意力", "打乱 token", "跳过模块", "随机失活", "时间步加噪"),
        "未连接弱模型时",
    ),
    "yes": "是",
    "attention": "否：无法替换",
    "tokens": "否：不是单一序列",
    "skip": "否：模块不完整",
    "clock": "否：没有单独的部分",
    "ways": {"attention": "弱化注意力", "skip": "跳过模块", "rank": "降低秩"},
    "before": "在较新的 ComfyUI 中，哪些弱化节点能处理哪些模型，以及没有连接弱模型、"
    "“引导配方”也没有配方时引导器怎么做。"
    "未列出的弱化节点适用于所有模型。标为“否”时，节点会在采样之前报错。",
}
LANGUAGES = {"English": ENGLISH, "中文": CHINESE}
KINDS = ("attention", "tokens", "skip", "dropout", "clock")


def rows(
    names: Mapping[str, str], can: Callable[[str, str], bool], way_of: Callable[[str], str]
) -> dict[str, tuple[dict[str, bool], str]]:
    """Of each small model, by its shown name: what can be done to it, and the automatic way."""
    return {
        shown: ({kind: can(name, kind) for kind in KINDS}, way_of(name))
        for name, shown in names.items()
    }


def text(table: Mapping[str, tuple[dict[str, bool], str]]) -> str:
    """The file of the help, in all languages."""
    parts = []
    for language, words in LANGUAGES.items():
        lines = [words["columns"], ["---"] * len(words["columns"])]
        for shown, (can, way) in table.items():
            cells = [words["yes"] if done else words[kind] for kind, done in can.items()]
            lines.append([shown, *cells, words["ways"][way]])
        table_text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"# {language}\n\n{words['heading']}\n\n{words['before']}\n\n{table_text}\n")
    return "\n".join(parts)


def of_pack(
    pack: Any, nodes: Mapping[str, Any], build: Callable[[str], Any]
) -> dict[str, tuple[dict[str, bool], str]]:
    """What the nodes of the pack say of each small model that the running ComfyUI loads."""
    from support.rare_models import EVERY_BY_NAME
    from support.rig import call
    from support.weakening import NODES, WITHOUT_BLOCKS

    kinds = {"attention": "blur", **{kind: kind for kind in KINDS[1:]}}

    def can(name: str, kind: str) -> bool:
        node, inputs = NODES[kinds[kind]]
        try:
            chosen = {} if kind in WITHOUT_BLOCKS else {"blocks": "auto"}
            call(nodes[node], model=build(name), **inputs, **chosen)
        except pack.guiders.errors.GuidanceError:
            return False
        return True

    def way_of(name: str) -> str:
        weaken = pack.guiders.weaken
        return weaken.auto.way_of(weaken.network.Network.of(build(name)))

    known = {name: shown for name, shown in MODELS.items() if name in EVERY_BY_NAME}
    return rows(known, can, way_of)


def main() -> int:
    """Write the file of the help."""
    with tempfile.TemporaryDirectory() as base:
        comfyui = comfyui_path()
        library.prepare(comfyui, Path(base))
        library.load_pack(importlib.import_module("nodes"), library.pack_folder(comfyui))
        pack = library.loaded_pack(comfyui)
        from support.rare_models import EVERY_BY_NAME

        missing = MODELS.keys() - EVERY_BY_NAME.keys()
        if missing:
            print(f"This ComfyUI does not load {sorted(missing)}.", file=sys.stderr)
            return 1
        nodes = {node.define_schema().node_id: node for node in pack.NODES}
        table = of_pack(pack, nodes, cache(lambda name: EVERY_BY_NAME[name].build(0)))
    FILE.write_text(text(table), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
