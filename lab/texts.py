"""Writes what is derived from the nodes' own texts, so that every sentence is written once.

    make texts

Four places are written by hand: the schemas of the nodes (English names and tooltips, which
ComfyUI's page shows wherever there is no translation), locales/zh/nodeDefs.json (the same in
Chinese), docs/help/ (what a help page says beyond these), and the table of recipes. From them come
the help pages in web/docs/, the tables of README.md that stand between comments, and
docs/help/shared/recipes.md.

A file docs/help/<node id>.md has a part for each language, below a heading with its name; a node
whose tooltips say all there is to say needs none. A part begins with what follows the description;
then come sections. The section of inputs and that of outputs may hold a part `### name` for what is
to follow the tooltip of that input or output. Where a tooltip ends with "one: … other: …" for all
choices of a widget, they become a list; where it does not, such a part lists them. A line
`{{name}}` stands for the text of docs/help/shared/name.md. How blocks are named follows the inputs
by itself where one of them is `blocks`.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import templates
from comfyui import library
from comfyui.install import ROOT, SetupError, comfyui_path
from tabular import markdown_table

HELP = ROOT / "docs" / "help"
RECIPES = HELP / "shared" / "recipes.md"
PAGES = ROOT / "web" / "docs"
README = ROOT / "README.md"
TEMPLATES = ROOT / "workflows"
CHINESE = ROOT / "locales" / "zh" / "nodeDefs.json"

# What is said in a language, by node id: names, descriptions and tooltips, as in nodeDefs.json.
Labels = Mapping[str, Mapping[str, Any]]

NOTICE = "<!-- Written by `make texts`: see lab/texts.py for where each part comes from. -->"
RECIPE_HEADER = {
    "en": ("family", "bad version", "weak_scale", "when", "source"),
    "zh": ("系列", "劣化版", "弱模型引导强度", "何时", "来源"),
}
SHARED = re.compile(r"^\{\{(\w+)\}\}$", re.MULTILINE)
# More than an artist counts to: the range of a seed says nothing.
ENDLESS = 2**32


class TextError(Exception):
    """What is written by hand does not fit the nodes; the message says where."""


@dataclass(frozen=True)
class Language:
    """How a help page is put together in one language.

    Attributes:
        code: as ComfyUI calls the language.
        name: as it calls itself.
        inputs, outputs: headings of these sections.
        entry, optional_entry: of an input or output with its `name`, `id` and `text`.
        choice: one of a widget, with what it does.
        default, between: of a widget.
        on, off: of a switch.
    """

    code: str
    name: str
    inputs: str
    outputs: str
    entry: str
    optional_entry: str
    choice: str
    default: str
    between: str
    on: str
    off: str


ENGLISH = Language(
    code="en",
    name="English",
    inputs="Inputs",
    outputs="Outputs",
    entry="**{name}** – {text}",
    optional_entry="**{name}** (optional) – {text}",
    choice="- `{}`: {}",
    default=" Default: {}.",
    between=" Default: {}, from {} to {}.",
    on="on",
    off="off",
)
ZH = Language(
    code="zh",
    name="中文",
    inputs="输入",
    outputs="输出",
    entry="**{name}**（{id}）：{text}",
    optional_entry="**{name}**（{id}，可选）：{text}",
    choice="- `{}`：{}",
    default="默认值：{}。",
    between="默认值：{}，范围 {} 到 {}。",
    on="开",
    off="关",
)
LANGUAGES = {language.code: language for language in (ENGLISH, ZH)}


def english_labels(schemas: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """What the nodes say of themselves, in the form of a nodeDefs.json."""
    return {
        schema.node_id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {i.id: {"name": i.id, "tooltip": i.tooltip} for i in schema.inputs},
            "outputs": {
                str(number): {"name": output.display_name, "tooltip": output.tooltip}
                for number, output in enumerate(schema.outputs)
            },
        }
        for schema in schemas
    }


def chinese_labels() -> dict[str, dict[str, Any]]:
    """The same in Chinese, as it is written by hand."""
    return json.loads(CHINESE.read_text(encoding="utf-8"))


def derived(pack: ModuleType) -> dict[Path, str]:
    """Every derived file of the repository with its text.

    Args:
        pack: as ComfyUI has loaded it.

    Raises:
        TextError: for help that lacks a language or a section, or that no node has.
    """
    schemas = [node.define_schema() for node in pack.NODES]
    labels = {"en": english_labels(schemas), "zh": chinese_labels()}
    readme = README.read_text(encoding="utf-8")
    texts = {README: with_templates(with_tables(readme, schemas))}
    texts[RECIPES] = recipes(pack)
    for schema in schemas:
        for code, language in LANGUAGES.items():
            page = help_page(schema, labels[code][schema.node_id], language)
            texts[page_path(code, schema.node_id)] = page
    unknown = {path.stem for path in HELP.glob("*.md")} - labels["en"].keys()
    if unknown:
        raise TextError(f"docs/help has help for {sorted(unknown)}, which are no nodes.")
    return texts


def page_path(code: str, node_id: str) -> Path:
    """Where ComfyUI looks for the help of a node."""
    return PAGES / (f"{node_id}.md" if code == "en" else f"{node_id}/{code}.md")


# Help pages


def help_page(schema: Any, labels: Mapping[str, Any], language: Language) -> str:
    """The help page of a node: what its labels say, around what is written by hand."""
    source = HELP / f"{schema.node_id}.md"
    beginning, sections = "", dict.fromkeys((language.inputs, language.outputs), "")
    if source.is_file():
        beginning, sections = split(with_shared(in_language(source, language), language), "## ")
    needed = {language.inputs, language.outputs}
    if not needed <= sections.keys():
        raise TextError(f"{source.relative_to(ROOT)} lacks '## ' with {needed - sections.keys()}.")
    parts = [f"# {title(schema, labels)}", NOTICE, escaped(labels["description"]), beginning]
    for heading, text in sections.items():
        parts.append(f"## {heading}")
        if heading in needed:
            entries = dict(
                input_entries(schema, labels, language)
                if heading == language.inputs
                else output_entries(schema, labels, language)
            )
            after, notes = split(text, "### ")
            unknown = notes.keys() - entries.keys()
            if unknown:
                where = f"{source.relative_to(ROOT)}, {heading}"
                raise TextError(f"{where}: {sorted(unknown)}, which the node does not have.")
            for name, entry in entries.items():
                parts += [*entry, notes.get(name, "")]
            parts.append(after)
            if heading == language.inputs and "blocks" in entries:
                parts.append(shared("blocks", language))
        else:
            parts.append(text)
    return "\n\n".join(filter(None, parts)) + "\n"


def title(schema: Any, labels: Mapping[str, Any]) -> str:
    """The name of the node, behind a Chinese one the English one, which errors use."""
    name = labels["display_name"]
    if name == schema.display_name:
        return name
    # A paper's word behind a name is in the Chinese one already.
    return f"{name}（{re.sub(r' [(].+[)]$', '', schema.display_name)}）"


def input_entries(
    schema: Any, labels: Mapping[str, Any], language: Language
) -> Iterator[tuple[str, list[str]]]:
    """What the page says of each input, by its id: a paragraph, and its choices where they are."""
    for each in schema.inputs:
        said = labels["inputs"][each.id]
        form = language.optional_entry if each.optional else language.entry
        text, choices = without_choices(escaped(said["tooltip"]), getattr(each, "options", None))
        text = form.format(name=said["name"], id=each.id, text=text + values(each, language))
        yield each.id, [text, "\n".join(language.choice.format(*one) for one in choices)]


def output_entries(
    schema: Any, labels: Mapping[str, Any], language: Language
) -> Iterator[tuple[str, list[str]]]:
    """What the page says of each output, by its name."""
    for number, each in enumerate(schema.outputs):
        said = labels["outputs"][str(number)]
        name = each.display_name
        text = escaped(said["tooltip"])
        yield name, [language.entry.format(name=said["name"], id=name, text=text)]


def without_choices(
    tooltip: str, options: Sequence[str] | None
) -> tuple[str, list[tuple[str, str]]]:
    """A tooltip that ends with "one: … other: …" for all choices of a widget, in two parts.

    Returns:
        What stands before them, and each choice with what is said of it. Any other tooltip stays
        in one piece.
    """
    names = "|".join(re.escape(option) for option in options or [])
    text, *parts = re.split(rf"\s*\b({names})[:：]\s*", tooltip) if names else [tooltip]
    if set(parts[::2]) != set(options or []):
        return tooltip, []
    return text, list(zip(parts[::2], parts[1::2], strict=True))


def values(widget: Any, language: Language) -> str:
    """The default of a widget and its range, where it has them."""
    default = getattr(widget, "default", None)
    if default is None or default == "":
        return ""
    if isinstance(default, bool):
        return language.default.format(language.on if default else language.off)
    if isinstance(default, str):
        return language.default.format(f"`{default}`")
    if widget.min is None or widget.max is None or widget.max >= ENDLESS:
        return language.default.format(plain(default))
    return language.between.format(*map(plain, (default, widget.min, widget.max)))


def plain(number: float) -> str:
    """A number as one writes it by hand."""
    text = format(Decimal(repr(number)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def escaped(text: str) -> str:
    """A label's text, without what Markdown would read into it."""
    return re.sub(r"([*<|])", r"\\\1", text)


def split(text: str, mark: str) -> tuple[str, dict[str, str]]:
    """A text as what stands before the first heading that begins so, and what is below each."""
    beginning, *parts = re.split(f"^{mark}(.+)$", text, flags=re.MULTILINE)
    return beginning.strip(), {
        heading: part.strip("\n") for heading, part in zip(parts[::2], parts[1::2], strict=True)
    }


def with_shared(text: str, language: Language) -> str:
    """The text with what it shares with other pages put in."""
    return SHARED.sub(lambda found: shared(found[1], language), text)


def shared(name: str, language: Language) -> str:
    """What several pages say."""
    return in_language(HELP / "shared" / f"{name}.md", language)


def in_language(source: Path, language: Language) -> str:
    """The part of a file that is in one language."""
    where = source.relative_to(ROOT)
    if not source.is_file():
        raise TextError(f"{where} is missing.")
    _, parts = split(source.read_text(encoding="utf-8"), "# ")
    if set(parts) != {each.name for each in LANGUAGES.values()}:
        raise TextError(f"{where} has {sorted(parts)} where each language has a heading.")
    return parts[language.name]


def recipes(pack: ModuleType) -> str:
    """What pages share of the recipes, in all languages."""
    return "\n".join(
        f"# {language.name}\n\n{recipe_rows(pack, code)}\n" for code, language in LANGUAGES.items()
    )


def recipe_rows(pack: ModuleType, language: str) -> str:
    """The rows of a table of all recipes that have a source."""
    told = pack.nodes.recipe
    rows = [
        (
            each.family,
            told.how(each.way, f"`{each.blocks}`", language),
            plain(1 + each.strength),
            told.when(each, language),
            each.source,
        )
        for each in pack.guiders.weaken.recipes.TABLE
        if each.source
    ]
    return markdown_table(RECIPE_HEADER[language], rows)


# README


def with_tables(readme: str, schemas: Sequence[Any]) -> str:
    """The README with its tables of nodes made anew."""
    nodes = {schema.node_id: schema for schema in schemas}

    def node_table(names: str) -> str:
        shown = [s for s in schemas if s.category.split("/")[-1] in names.split(", ")]
        if not shown:
            raise TextError(f"README.md has a table of {names}, a category without nodes.")
        rows = [(linked(schema), escaped(first_sentence(schema.description))) for schema in shown]
        return markdown_table(("node", "what it does"), rows)

    def input_table(node_id: str) -> str:
        inputs = nodes[node_id].inputs
        rows = [
            (
                f"`{each.id}`" + " *optional*" * bool(each.optional),
                escaped(first_sentence(each.tooltip)),
            )
            for each in inputs
        ]
        return markdown_table(("input", "what it is for"), rows)

    for kind, table in (("nodes", node_table), ("inputs", input_table)):
        readme = re.sub(
            rf"(<!-- {kind}: (.+?) -->\n).*?(<!-- end -->)",
            lambda found, table=table: f"{found[1]}\n{table(found[2])}\n\n{found[3]}",
            readme,
            flags=re.DOTALL,
        )
    return readme


def with_templates(readme: str) -> str:
    """The README with its table of templates made anew."""
    rows = [
        (
            f"`{name}`",
            each.model,
            each.away_from,
            scales_in(name),
            each.source or "a place to start",
        )
        for name, each in templates.TEMPLATES.items()
    ]
    header = ("template", "model", "away from", "weak_scale", "where that comes from")
    table = markdown_table(header, rows)
    return re.sub(
        r"(<!-- templates -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{table}\n\n{found[2]}",
        readme,
        count=1,
        flags=re.DOTALL,
    )


def scales_in(name: str) -> str:
    """Every weak_scale in a template; 1 is off."""
    workflow = json.loads((TEMPLATES / f"{name}.json").read_text(encoding="utf-8"))
    values = {}
    for node in workflow["nodes"]:
        widgets = [slot for slot in node["inputs"] if "widget" in slot]
        for slot, value in zip(widgets, node.get("widgets_values", []), strict=False):
            if slot["name"] == "weak_scale" and slot["link"] is None:
                values[plain(float(value))] = None
            elif slot["name"] == "scales":
                values[value] = None
    return ", ".join(values)


def linked(schema: Any) -> str:
    """The name of a node, as a link to its help."""
    page = page_path("en", schema.node_id).relative_to(ROOT).as_posix()
    return f"[{escaped(schema.display_name)}]({page})"


def first_sentence(text: str) -> str:
    """The first sentence of a description or a tooltip, with one on a number such as 1 for off."""
    return re.split(r"(?<=[.]) (?=[A-Z])", text, maxsplit=1)[0]


def load_pack(base: Path) -> ModuleType:
    """The pack as ComfyUI loads it, with `base` for ComfyUI's own folders."""
    comfyui = comfyui_path()
    library.prepare(comfyui, base)
    library.load_pack(importlib.import_module("nodes"), library.pack_folder(comfyui))
    return library.loaded_pack(comfyui)


def main() -> int:
    """Write all that is derived, and delete pages of nodes that are no more."""
    try:
        with tempfile.TemporaryDirectory() as base:
            pack = load_pack(Path(base))
            # Pages include it.
            RECIPES.write_text(recipes(pack), encoding="utf-8")
            texts = derived(pack)
    except (SetupError, library.LoadError, TextError) as error:
        print(error, file=sys.stderr)
        return 1
    for path in PAGES.rglob("*.md"):
        if path not in texts:
            path.unlink()
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"Wrote {len(texts)} files.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
