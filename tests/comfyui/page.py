"""ComfyUI's page as an artist has it open: what the artist does and sees there."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, Response
from playwright.sync_api import TimeoutError as OutOfPatience

# The canvas is one element. What is on it has a place in the graph, and so one on the screen.
ON_SCREEN = """([x, y]) => {
    const [left, top] = app.canvas.ds.convertOffsetToCanvas([x, y]);
    const box = app.canvas.canvas.getBoundingClientRect();
    return [box.left + left, box.top + top];
}"""

# The frontend of ComfyUI 0.3.75 forgets the translations of node packs while it loads a language
# other than English (Comfy-Org/ComfyUI_frontend#6748, mended by #7214). They are given to it once
# more here, as a mended page does by itself.
TRANSLATE = """async () => {
    const provided = document.querySelector('#vue-app').__vue_app__._context.provides;
    const translator = Object.getOwnPropertySymbols(provided)
        .map(symbol => provided[symbol]?.global).find(found => found?.mergeLocaleMessage);
    const translations = await (await fetch('api/i18n')).json();
    for (const [language, texts] of Object.entries(translations))
        translator.mergeLocaleMessage(language, texts);
    await app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions');
}"""

# How long to wait before the next click for what a click opens, in milliseconds.
PATIENCE = (15_000, 30_000, 60_000)

# What the page has put on a node by itself, while the node ran: a text, an image.
OF_A_RUN = "widget.name.startsWith('$$')"

# How wide a node has to be, so that neither its title nor the line of a widget is cut short.
WORDS = """node => {
    const measure = (font, ...texts) => {
        app.canvas.ctx.font = font;
        return texts.reduce((sum, text) => sum + app.canvas.ctx.measureText(text).width, 0);
    };
    const beside = 90;  // Of a widget's words: arrows, margins, and the gap between the two.
    return Math.max(
        measure(node.titleFontStyle, node.getTitle()) + 2 * LiteGraph.NODE_TITLE_HEIGHT,
        ...(node.widgets ?? []).filter(drawn => drawn._displayValue && !drawn.element).map(
            drawn => measure(node.innerFontStyle, drawn.displayName, drawn._displayValue) + beside
        ));
}"""

# The title and the place of each node in the graph, [left, top, width, height], once they have been
# the same for a while: Vue nodes are elements of the page, and grow with what is in them.
BOXES = """async () => {
    const { canvas, ds } = app.canvas;
    const drawn = node => {
        if (!LiteGraph.vueNodesMode) return Array.from(node.getBounding());
        const element = document.querySelector(`[data-node-id="${node.id}"]`);
        if (!element) throw new Error(`${node.getTitle()} is not drawn`);
        // Its foot, which tells of errors and of more inputs, may stand out; its handles always do.
        const parts = [element, ...element.querySelectorAll(':scope > :not([data-corner])')]
            .map(part => part.getBoundingClientRect()).filter(({ width }) => width);
        const least = side => Math.min(...parts.map(part => part[side]));
        const most = side => Math.max(...parts.map(part => part[side]));
        const origin = canvas.getBoundingClientRect();
        const [x, y] = ds.convertCanvasToOffset(
            [least('left') - origin.left, least('top') - origin.top]
        );
        const size = [most('right') - least('left'), most('bottom') - least('top')];
        return [x, y, ...size.map(length => length / ds.scale)];
    };
    const look = () => app.graph.nodes.map(node => [node.getTitle(), drawn(node)]);
    const pause = milliseconds => new Promise(done => setTimeout(done, milliseconds));
    let boxes;
    for (let same = 0, looks = 0; same < 4 && looks < 100; looks += 1) {
        await pause(50);
        const now = look();
        same = JSON.stringify(now) === JSON.stringify(boxes) ? same + 1 : 0;
        boxes = now;
    }
    return boxes;
}"""

# The notes whose text is longer than their place; what is too much can be seen by scrolling only.
CUT = """() => [...document.querySelectorAll('.comfy-markdown-content, .comfy-markdown .tiptap')]
    .filter(text => text.clientHeight && text.scrollHeight > text.clientHeight + 1)
    .map(text => text.innerText)"""

# The nodes that show a line of text while they run, and those that show a preview.
SAYING = ("BadVersionGuider", "BadVersionPatch")
PREVIEWING = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")

# What the former say at their longest, or nearly so.
SAID = (
    "sigma 0.931 · cfg 4.5 · weak_scale 1.5 · push 12.3 % · away from SD15 with self-attention "
    "weakened in middle"
)

# What the server tells the page of these and of the output nodes, which show an image, in a run.
TELL_OF_A_RUN = """async ([image, text, saying, previews]) => {
    const blob = await (await fetch(image)).blob();
    const { searchParams } = new URL(image);
    const images = [Object.fromEntries(searchParams)];
    for (const { id, type, constructor } of app.graph.nodes) {
        const nodeId = String(id);
        const tell = (event, detail) => app.api.dispatchCustomEvent(event, detail);
        if (saying.includes(type)) tell('progress_text', { nodeId, text });
        if (previews.includes(type))
            tell('b_preview_with_metadata', {
                blob, nodeId, displayNodeId: nodeId, parentNodeId: nodeId, realNodeId: nodeId,
                promptId: '', jobId: '',
            });
        if (constructor.nodeData?.output_node)
            tell('executed', {
                node: nodeId, display_node: nodeId, prompt_id: '', output: { images },
            });
    }
}"""

# In the template browser.
CARDS = "[data-testid^=template-workflow-]"

# The test id of the errors that are told in a corner of the page instead of in a dialog.
CORNER = "error-overlay"

# The list of models that are missing, in a dialog, and how their files end.
MISSING = ".comfy-missing-models"
MODEL_FILE = r"\S+\.(?:safetensors|sft|ckpt|pth?|gguf)\b"

# What is red: nodes that are not there, and inputs that the server refused. Releases after 0.3.75
# have a node red from the start whose model is not on the server, which is no fault of a workflow.
RED = """() => {
    const lacksModel = node => (node.widgets ?? []).some(({ type, value, options }) =>
        type === 'combo' && Array.isArray(options.values) && !options.values.includes(value));
    return app.graph.nodes.flatMap(node => [
        ...(node.type in LiteGraph.registered_node_types
            && (!node.has_errors || lacksModel(node)) ? [] : [node.type]),
        ...(node.inputs ?? []).filter(slot => slot.hasErrors)
            .map(slot => `${node.type}: ${slot.name}`),
    ]);
}"""

# Everything that a node shows while it runs, as often as the page is drawn.
WATCH = """() => {
    const seen = window.seenOnNodes = {};
    const look = () => {
        if (window.seenOnNodes !== seen) return;
        for (const node of app.graph.nodes) {
            const { texts, pictures } = seen[node.id] ??= { texts: [], pictures: [] };
            const text = node.widgets?.find(({ name }) => name === '$$node-text-preview')?.value;
            if (text && texts.at(-1) !== text) texts.push(text);
            const picture = node.imgs?.[0]?.src;
            if (picture && pictures.at(-1) !== picture) pictures.push(picture);
        }
        requestAnimationFrame(look);
    };
    look();
}"""


class ComfyPage:
    """One open page, and what an artist does and sees there."""

    def __init__(self, page: Page) -> None:
        """Listen to the page from the start."""
        self.page = page
        self._crashes: list[str] = []
        page.on("pageerror", lambda error: self._crashes.append(str(error)))

    def open(self, url: str, language: str) -> None:
        """Go to the page and wait until its first graph is there."""
        self.page.goto(url)
        self.wait_until(
            "() => window.app?.extensionManager?.workflow?.activeWorkflow && app.graph.nodes.length"
        )
        if language != "en":
            self.page.evaluate(TRANSLATE)

    def wait_until(self, condition: str, argument: Any = None) -> None:
        """Wait until a JavaScript function returns something true."""
        self.page.wait_for_function(condition, arg=argument)

    def problems(self) -> list[str]:
        """What an artist would notice as wrong: messages, dialogs, red nodes, code that broke."""
        shown = self.page.locator(".p-toast-message-error, .p-toast-message-warn, [role=dialog]")
        red = self.page.evaluate(RED)
        # What releases after 0.3.75 say in the corner. Of models that are missing, too.
        told = self.page.get_by_test_id(CORNER).all_inner_texts() if red else []
        return [*self._crashes, *shown.all_inner_texts(), *told, *red]

    def close_dialog(self) -> None:
        """Close the one dialog that is open, by a click beside it, or what the corner says."""
        corner = self.page.get_by_test_id(CORNER)
        if not self.page.get_by_role("dialog").first.is_visible():
            self.page.get_by_test_id(f"{CORNER}-dismiss").click()
            corner.wait_for(state="hidden")
            return
        self.page.mouse.click(5, 5)
        self.page.get_by_role("dialog").wait_for(state="hidden")

    def open_templates(self) -> None:
        """Open the template browser."""
        self._command("Comfy.BrowseTemplates")

    def template_card(self, workflow: str) -> Locator:
        """The card of a workflow in the open template browser."""
        return self.page.get_by_test_id(f"template-workflow-{workflow}")

    def load_template(self, workflow: str) -> None:
        """Open a workflow by a click on its card in the template browser."""
        # While one of the name is open, the page numbers the next.
        opened = f"""name => app.extensionManager.workflow.activeWorkflow.filename
            .replace(/ \\(\\d+\\)$/, '') === name
            && !document.querySelector('[role=dialog]:not(:has({MISSING}))')"""

        def click() -> None:
            if not self.page.locator(CARDS).first.is_visible():
                if self.page.get_by_role("dialog").first.is_visible():
                    return  # Cards are still to come, or it is open and lacks files.
                self.open_templates()
            self._scroll_to(workflow)
            self.template_card(workflow).click()

        # On a busy machine the cards still move when they are clicked, and it goes amiss.
        _insist(
            click,
            lambda patience: self.page.wait_for_function(opened, arg=workflow, timeout=patience),
            f"The template {workflow}",
        )

    def _scroll_to(self, workflow: str) -> None:
        """Scroll down until the card of a workflow is there: the page makes some at a time."""
        cards = self.page.locator(CARDS)
        cards.first.wait_for()
        seen = 0
        while not self.template_card(workflow).count() and seen < (seen := cards.count()):
            cards.last.scroll_into_view_if_needed()
            self.page.wait_for_timeout(300)

    def load(self, workflow: dict[str, Any]) -> None:
        """Open a workflow as it would be dropped onto the page."""
        self.page.evaluate("async workflow => { await app.loadGraphData(workflow) }", workflow)

    def offered_models(self) -> list[str]:
        """The model files that the page offers to download, once it has opened a workflow.

        What says so is closed. A page that has nothing to offer is waited for in vain.
        """
        corner, listed = self.page.get_by_test_id(CORNER), self.page.locator(MISSING)
        listed.or_(corner).wait_for()
        if corner.is_visible():
            listed = self._details("missing-model-importable-rows")
            text = listed.inner_text()
            self._close_panel()
        else:
            text = listed.inner_text()
            self.close_dialog()
        return sorted(set(re.findall(MODEL_FILE, text)))

    def save(self, name: str) -> None:
        """Save the open workflow, one that is not saved yet, under a name."""
        self._command("Comfy.SaveWorkflow")
        box = self.page.get_by_role("dialog").get_by_role("textbox")
        box.fill(name)
        box.press("Enter")
        self.wait_until(
            """name => {
                const { filename, isPersisted, isModified }
                    = app.extensionManager.workflow.activeWorkflow;
                return filename === name && isPersisted && !isModified
                    && !document.querySelector('[role=dialog]');
            }""",
            name,
        )

    def reopen(self, name: str) -> None:
        """Close the open workflow, and open a saved one by a click on it in the list of them."""
        self._command("Workspace.CloseWorkflow")
        self.wait_until(
            "name => app.extensionManager.workflow.activeWorkflow.filename !== name", name
        )
        self._command("Workspace.ToggleSidebarTab.workflows")
        listed = self.page.locator(".workflows-sidebar-tab").get_by_text(f"{name}.json")
        # In releases after 0.3.75.
        leaf = self.page.get_by_test_id(f"tree-node-root/{name}.json")
        listed.or_(leaf).first.click()
        self.wait_until(
            "name => app.extensionManager.workflow.activeWorkflow.filename === name", name
        )
        self._command("Workspace.ToggleSidebarTab.workflows")

    def prompt(self) -> dict[str, Any]:
        """What the page would send to the server to be run."""
        # By way of JSON, as it would be sent: what is undefined is not sent.
        return json.loads(
            self.page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).output)")
        )

    def graph(self) -> dict[str, Any]:
        """What the page would save, but for the view, and for what a run has put on the nodes."""
        saved = self.page.evaluate("() => JSON.stringify(app.graph.serialize())")
        of_a_run = self.widgets_of_a_run()
        graph = json.loads(saved)
        for node in graph["nodes"]:
            values = node.get("widgets_values", [])
            del values[len(values) - of_a_run[str(node["id"])] :]
        return {name: graph[name] for name in ("nodes", "links", "groups")}

    def widgets_of_a_run(self) -> dict[str, int]:
        """How many widgets a run has put on each node, by id; some make the node taller."""
        return self.page.evaluate(
            f"""() => Object.fromEntries(app.graph.nodes.map(({{ id, widgets }}) =>
                [id, (widgets ?? []).filter(widget => {OF_A_RUN}).length]))"""
        )

    def graph_like(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """What :meth:`graph` gives, as soon as it is the graph that is wanted.

        On a busy machine a workflow is open before all of its nodes are laid out. After a while it
        is given as it is.
        """
        for patience in PATIENCE:
            if (graph := self.graph()) == wanted:
                return graph
            self.page.wait_for_timeout(patience / 4)
        return self.graph()

    def run(self) -> str:
        """Press Run; returns the id of the prompt, once the server has queued it."""
        answer = self._press_run()
        assert answer.ok, answer.text()
        return answer.json()["prompt_id"]

    def run_in_vain(self) -> str:
        """Press Run, where the server refuses; returns what the page says, and closes that."""
        assert not self._press_run().ok
        dialog, corner = self.page.get_by_role("dialog"), self.page.get_by_test_id(CORNER)
        dialog.or_(corner).wait_for()
        if corner.is_visible():
            text = "\n".join(self._details("error-group-").all_inner_texts())
            self._close_panel()
            return text
        text = dialog.inner_text()
        self.close_dialog()
        return text

    def wait_for_pictures(self, node_id: int, count: int) -> None:
        """Wait until a node shows so many images, or as many videos."""
        self.wait_until(
            """([id, count]) => count === (LiteGraph.vueNodesMode
                ? document.querySelector(`[data-node-id="${id}"]`)
                    .querySelectorAll('img, .video-preview')
                : app.graph.getNodeById(id).imgs ?? []).length""",
            [node_id, count],
        )

    def watch(self) -> None:
        """Note from now on all that the nodes show while they run."""
        self.page.evaluate(WATCH)

    def seen(self, node_id: int) -> dict[str, list[str]]:
        """What a watched node has shown: its "texts", and the addresses of its "pictures"."""
        return self.page.evaluate("id => window.seenOnNodes[id]", node_id)

    def tell_of_a_run(self, image: str) -> None:
        """Let the nodes show what a run puts on them, for a workflow that cannot run here.

        Args:
            image: the address at the server of what all output nodes show.
        """
        self.page.evaluate(TELL_OF_A_RUN, [image, SAID, SAYING, PREVIEWING])

    def wait_until_all_show(self, pictures: dict[int, int]) -> None:
        """Wait until the nodes show what a run puts on them.

        Args:
            pictures: how many each output node shows, by its id.
        """
        for node in self.nodes():
            if node["type"] in SAYING:
                self.wait_until(
                    """id => LiteGraph.vueNodesMode
                        ? document.querySelector(`[data-node-id="${id}"]`).innerText.match(/sigma /)
                        : app.graph.getNodeById(id).widgets.some(
                            ({ name, value }) => name.startsWith('$$') && /^sigma /.test(value))""",
                    node["id"],
                )
            elif node["type"] in PREVIEWING:
                self.wait_for_pictures(node["id"], 1)
        for node_id, count in pictures.items():
            self.wait_for_pictures(node_id, count)

    def set_widget(self, node_id: int, name: str, value: Any) -> None:
        """Give a widget another value."""
        self.page.evaluate(
            """([id, name, value]) => {
                const node = app.graph.getNodeById(id);
                node.widgets.find(widget => widget.name === name).value = value;
            }""",
            [node_id, name, value],
        )

    def set_widgets(self, name: str, value: Any) -> None:
        """Give the widgets of this name on all nodes another value."""
        self.page.evaluate(
            """([name, value]) => app.graph.nodes.flatMap(node => node.widgets ?? [])
                .filter(widget => widget.name === name)
                .forEach(widget => { widget.value = value; })""",
            [name, value],
        )

    def show_all(self) -> bool:
        """Show the whole graph, as large as the page does; returns whether its words are drawn."""
        return self.page.evaluate(
            """() => {
                const boxes = app.graph.nodes.map(node => node.getBounding());
                const left = Math.min(...boxes.map(([x]) => x));
                const top = Math.min(...boxes.map(([, y]) => y));
                const right = Math.max(...boxes.map(([x, , width]) => x + width));
                const bottom = Math.max(...boxes.map(([, y, , height]) => y + height));
                app.canvas.ds.fitToBounds([left, top, right - left, bottom - top]);
                app.canvas.setDirty(true, true);
                const drawn = done => requestAnimationFrame(() => requestAnimationFrame(done));
                return new Promise(drawn).then(() => !app.canvas.low_quality);
            }"""
        )

    def screenshot(self, path: Path) -> None:
        """Save an image of the page with the whole graph on it."""
        self.show_all()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes of the graph: labels, box [x, y, width, height], needed size, widgets."""
        return self.page.evaluate(
            f"""() => app.graph.nodes.map(node => ({{
                id: Number(node.id),
                type: node.type,
                title: node.getTitle(),
                box: Array.from(node.getBounding()),
                needed: [Math.max(node.computeSize()[0], ({WORDS})(node)), node.computeSize()[1]],
                inputs: node.inputs.map(slot => slot.label ?? slot.localized_name),
                outputs: node.outputs.map(slot => slot.label ?? slot.localized_name),
                widgets: (node.widgets ?? []).filter(widget => !{OF_A_RUN})
                    .map(widget => widget.name),
                values: (node.widgets ?? []).filter(widget => !{OF_A_RUN})
                    .map(widget => widget.value),
            }}))"""
        )

    def drawn_node(self, node_id: int) -> Locator:
        """A node that Vue draws."""
        return self.page.locator(f'[data-node-id="{node_id}"]')

    def overlaps(self) -> list[tuple[str, str]]:
        """The titles of the nodes that cover each other, as the page draws them."""
        boxes = self.page.evaluate(BOXES)
        # What is rounded to a pixel of the screen is a little more in the graph.
        return [
            (one, other)
            for (one, a), (other, b) in itertools.combinations(boxes, 2)
            if all(a[i] + a[i + 2] > b[i] + 1 and b[i] + b[i + 2] > a[i] + 1 for i in (0, 1))
        ]

    def cut_notes(self) -> list[str]:
        """The texts of the notes that do not fit on them."""
        return self.page.evaluate(CUT)

    def clear(self) -> None:
        """Remove all nodes, and look at the middle of the graph."""
        self.page.evaluate(
            """() => {
                app.graph.clear();
                app.canvas.ds.scale = 1;
                app.canvas.ds.offset = [500, 350];
            }"""
        )

    def add_node(self, node_type: str, x: float, y: float) -> int:
        """Add a node at a place of the graph; returns its id."""
        node_id = self.page.evaluate(
            """([type, x, y]) => {
                const node = LiteGraph.createNode(type);
                node.pos = [x, y];
                app.graph.add(node);
                return node.id;
            }""",
            [node_type, x, y],
        )
        # It has a place for the mouse only once it has been drawn.
        self.wait_until(
            "([id, x, y]) => app.graph.getNodeOnPos(x + 60, y - 15)?.id === id", [node_id, x, y]
        )
        return node_id

    def input_tooltip(self, node_id: int, name: str) -> str:
        """The tooltip of an input, be it a socket or a widget."""
        return self._tooltip_at(
            """([id, name]) => {
                const node = app.graph.getNodeById(id);
                const widget = node.widgets?.find(widget => widget.name === name);
                return widget
                    ? [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10]
                    : node.getInputPos(node.inputs.findIndex(slot => slot.name === name));
            }""",
            [node_id, name],
        )

    def output_tooltip(self, node_id: int, number: int) -> str:
        """The tooltip of an output."""
        return self._tooltip_at(
            "([id, number]) => app.graph.getNodeById(id).getOutputPos(number)", [node_id, number]
        )

    def search(self, text: str, title: str) -> list[str]:
        """Double-click the graph where nothing is, type, and choose the node of this title.

        Returns:
            The titles of all nodes that the page offers, the best one first.
        """
        box = self._search_box()
        box.locator("input").first.fill(text)  # Others may be those of a node that is shown.
        # What 0.3.75 has, what 0.33.0 has, and what was in between.
        offered = box.locator(
            ".option-display-name > div > span:first-child,"
            "[role=option] .text-sm > span.truncate,"
            "[role=option] .font-semibold > span:first-child"
        )
        wanted = offered.filter(has_text=re.compile(f"^{re.escape(title)}$"))
        wanted.wait_for()
        titles = offered.all_inner_texts()
        wanted.click()
        # While it fades out, what it lies on still takes all clicks.
        mask = ".node-search-box-dialog-mask, .p-dialog-mask:has(> .p-dialog > [role=search])"
        self.page.locator(mask).wait_for(state="detached")
        return titles

    def _search_box(self) -> Locator:
        """Open the search by a double click."""
        box = self.page.locator(".comfy-vue-node-search-box, .p-dialog > [role=search]")

        def double_click() -> None:
            # On a busy machine the second click may come late. Elsewhere, two clicks remain two.
            usual = self._double_click_within(60_000)
            self.page.mouse.dblclick(*self._on_screen([0, 250]))
            self._double_click_within(usual)

        # A busy machine may miss clicks on a graph that has just been emptied.
        _insist(double_click, lambda patience: box.wait_for(timeout=patience), "The search")
        return box

    def help(self, node_id: int) -> str:
        """Select a node, press the button for its help; returns the text of the help page."""
        self._select(node_id)
        self.page.get_by_test_id("info-button").click()
        return self._read_help()

    def help_from_menu(self, node_id: int) -> str:
        """Select a node, choose help in the menu above it; returns the text of the help page."""
        self._select(node_id)
        self.page.get_by_test_id("more-options-button").click()
        # English in all languages, up to 0.3.75.
        self.page.get_by_text(re.compile("^(Node Info|节点信息)$")).click()
        return self._read_help()

    def _details(self, test_id: str) -> Locator:
        """Of what the corner says: the parts, by how their test ids begin, beside the graph."""
        self.page.get_by_test_id(f"{CORNER}-see-errors").click()
        details = self.page.locator(f"[data-testid^={test_id}]")
        details.first.wait_for()
        return details

    def _close_panel(self) -> None:
        """Close what is open beside the graph, by the button before its tabs."""
        panel = self.page.get_by_test_id("properties-panel")
        panel.get_by_role("tablist").first.locator("xpath=preceding::button[1]").click()
        panel.wait_for(state="hidden")

    def _select(self, node_id: int) -> None:
        title = self.page.evaluate(
            """id => {
                const node = app.graph.getNodeById(id);
                return [node.pos[0] + 60, node.pos[1] - 15];
            }""",
            node_id,
        )
        self.page.mouse.click(*self._on_screen(title))
        self.wait_until("id => app.canvas.selected_nodes[id]?.id === id", node_id)

    def _double_click_within(self, milliseconds: int) -> int:
        """Set the time that two clicks may take; returns what it was."""
        return self.page.evaluate(
            """milliseconds => {
                const pointer = app.canvas.pointer.constructor;
                const usual = pointer.doubleClickTime;
                pointer.doubleClickTime = milliseconds;
                return usual;
            }""",
            milliseconds,
        )

    def _read_help(self) -> str:
        page = self.page.locator(".node-help-content")
        page.locator("h1").wait_for()
        text = page.inner_text()
        # Closes it again, so that it covers nothing of the graph. Releases after 0.3.75 put it in
        # a panel, as a rule.
        if self.page.get_by_test_id("properties-panel").is_visible():
            self._close_panel()
        else:
            self._command("Workspace.ToggleSidebarTab.node-library")
        page.wait_for(state="hidden")
        return text

    def _press_run(self) -> Response:
        with self.page.expect_response(
            lambda response: response.url.endswith("/prompt") and response.request.method == "POST"
        ) as sent:
            # Around the button, or the button itself in releases after 0.3.75.
            queue = "[data-testid=queue-button]"
            self.page.locator(f"{queue} button, button{queue}").first.click()
        return sent.value

    def _command(self, name: str) -> None:
        # What it returns may wait for a dialog, so it is not waited for.
        self.page.evaluate("name => { app.extensionManager.command.execute(name) }", name)

    def _tooltip_at(self, place: str, argument: list[Any]) -> str:
        x, y = self._on_screen(self.page.evaluate(place, argument))
        tooltip = self.page.locator(".node-tooltip")
        self.page.mouse.move(*self._on_screen([0, -200]))  # Above the graph, where nothing is.
        tooltip.wait_for(state="hidden")
        self.page.mouse.move(x, y)
        return tooltip.inner_text()

    def _on_screen(self, place: list[float]) -> tuple[float, float]:
        x, y = self.page.evaluate(ON_SCREEN, place)
        return x, y


def _insist(click: Callable[[], None], wait: Callable[[int], object], what: str) -> None:
    """Click until what a click opens is there.

    Args:
        click: on whatever opens it.
        wait: so many milliseconds for it to open.
        what: does so, for the message.
    """
    for patience in PATIENCE:
        click()
        try:
            wait(patience)
            return
        except OutOfPatience:
            continue
    raise TimeoutError(f"{what} did not open after {len(PATIENCE)} clicks.")
