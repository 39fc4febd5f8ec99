"""Write all templates anew, from the schemas of the ComfyUI that is at hand.

make templates
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from comfyui.install import ROOT, SetupError
from comfyui.library import LoadError
from comfyui.server import ServerError, running_server

from . import TEMPLATES
from .saved import TemplateError, save

FOLDER = ROOT / "workflows"


def path_of(name: str) -> Path:
    """Where the template of this name belongs."""
    return FOLDER / f"{name}.json"


def text_of(workflow: dict[str, Any]) -> str:
    """A workflow as its file has it."""
    return json.dumps(workflow, ensure_ascii=False, indent=2) + "\n"


def main() -> str | None:
    """Write them; returns what went wrong."""
    try:
        with running_server() as server:
            object_info = server.object_info()
        for name, template in sorted(TEMPLATES.items()):
            path_of(name).write_text(text_of(save(name, template, object_info)), encoding="utf-8")
            print(f"Wrote {path_of(name).relative_to(ROOT)}.")
    except (SetupError, LoadError, ServerError, TemplateError) as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
