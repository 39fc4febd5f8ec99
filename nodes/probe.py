"""Category "bad version/probe": what guidance does, recorded, drawn and saved."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui
from latent_preview import Latent2RGBPreviewer

from ..guiders.errors import bad_input
from ..guiders.record.probe import Probe, Record
from .drawing.style import LANGUAGES
from .probe_plots import VIEWS, Strip, plot_records
from .progress import progress_text
from .widgets import check, language_input

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.sd import VAE
    from torch import Tensor

CATEGORY = "bad version/probe"

ProbeType = io.Custom("BadVersionProbe")

Latent = dict[str, Any]

_MOST_PROBES = 4


class BadVersionGuidanceProbe(io.ComfyNode):
    """``→ BadVersionProbe``: records what guidance does."""

    NAME = "Guidance Probe"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionGuidanceProbe",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Records what the pushes of a guider do at every step: how long they are, "
            "where they point and how they shift the image. The image stays the same, and sampling "
            "is as fast as before. Guidance Plot draws the record, Save Guidance Record saves it.",
            inputs=[
                io.String.Input(
                    "name",
                    default="guidance",
                    tooltip="Name of the probe in plots and files, for example 'negative prompt'. "
                    "It tells probes apart in a plot of several.",
                )
            ],
            outputs=[
                ProbeType.Output(
                    display_name="probe",
                    tooltip="For probe of Bad-Version Guider or Patch, and for Guidance Plot and "
                    "Save Guidance Record.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        """Return the probe of this node."""
        return io.NodeOutput(Probe(str(cls.hidden.unique_id), name.strip()))


def _latent_input(name: str, of: str, optional: bool = False) -> io.Input:
    return io.Latent.Input(
        name,
        optional=optional,
        tooltip=f"The latent from the sampler of {of}. It selects which run to take, and makes "
        "sampling come first.",
    )


def _probe_input(name: str, optional: bool = False) -> io.Input:
    which = "Another probe to compare with" if optional else "The probe of the guider"
    return ProbeType.Input(
        name,
        optional=optional,
        tooltip=f"{which}. It must be connected to a guider or patch as well.",
    )


def _latent_output() -> io.Output:
    return io.Latent.Output(
        display_name="latent",
        tooltip="The input latent, unchanged, for VAE Decode and the like.",
    )


def _record_of(node: str, number: str, probe: Probe, latent: Latent | None) -> Record:
    record = probe.record_of(None if latent is None else latent["samples"])
    if record is None:
        raise bad_input(
            node,
            f"probe{number}",
            f"the probe '{probe.name}', which has recorded nothing",
            "one that is connected to a Bad-Version Guider or Patch as well, with the latent of "
            f"its sampler connected to 'latent{number}'",
        )
    return record


class BadVersionGuidancePlot(io.ComfyNode):
    """``LATENT, BadVersionProbe → IMAGE, LATENT``: a figure of one run, or of several."""

    NAME = "Guidance Plot"

    @classmethod
    def define_schema(cls) -> io.Schema:
        others = range(2, _MOST_PROBES + 1)
        return io.Schema(
            node_id="BadVersionGuidancePlot",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Draws what a Guidance Probe has recorded, over the steps of sampling: "
            "scale, length and direction of each push, how far the image is shifted, and "
            "thumbnails of what the models predicted. Further probes are drawn over the first.",
            inputs=[
                _latent_input("latent", "the guider"),
                _probe_input("probe"),
                io.Combo.Input(
                    "view",
                    options=list(VIEWS),
                    default="everything",
                    tooltip="What to draw: 'everything', one plot that stays legible on a small "
                    "node, or only the 'thumbnails'.",
                ),
                language_input(),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the thumbnails. Not connected: they have the rough colours of "
                    "ComfyUI's previews.",
                ),
                *(
                    each
                    for number in others
                    for each in (
                        _probe_input(f"probe_{number}", optional=True),
                        _latent_input(f"latent_{number}", "that guider", optional=True),
                    )
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="plot",
                    tooltip="The plot, also shown on the node.",
                ),
                _latent_output(),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        latent: Latent,
        probe: Probe,
        view: str,
        language: str,
        vae: VAE | None = None,
        **others: Any,
    ) -> io.NodeOutput:
        """Draw the figure; raise ``GuidanceError`` for a probe that has recorded nothing."""
        check(cls, view=view, language=language)
        records = [_record_of(cls.NAME, "", probe, latent)]
        for number in range(2, _MOST_PROBES + 1):
            other, its_latent = others.get(f"probe_{number}"), others.get(f"latent_{number}")
            if other is not None:
                records.append(_record_of(cls.NAME, f"_{number}", other, its_latent))
            elif its_latent is not None:
                raise bad_input(
                    cls.NAME,
                    f"latent_{number}",
                    "a latent without its probe",
                    f"the probe of its guider connected to 'probe_{number}' as well",
                )
        records = _told_apart(records)
        strips = []
        if view in ("everything", "thumbnails"):
            strips = _strips(cls.NAME, records, vae)
        image = plot_records(records, view, LANGUAGES[language], strips)
        return io.NodeOutput(image, latent, ui=ui.PreviewImage(image, cls=cls))


def _told_apart(records: Sequence[Record]) -> list[Record]:
    """The records, each with a name of its own."""
    names = [record.name for record in records]
    return [
        record if names.count(record.name) == 1 else replace(record, name=f"{record.name} {number}")
        for number, record in enumerate(records, 1)
    ]


def _strips(node: str, records: Sequence[Record], vae: VAE | None) -> list[Strip]:
    """Rows of thumbnails of all runs whose latents are images."""
    rows = [
        (record, kind, latents)
        for record in records
        if record.thumbnails is not None
        for kind, latents in record.thumbnails.latents.items()
    ]
    progress = comfy.utils.ProgressBar(len(rows))
    strips = []
    for record, kind, latents in rows:
        comfy.model_management.throw_exception_if_processing_interrupted()
        sigmas = record.sigma[record.thumbnails.calls].max(axis=1)
        images = _images_of_any_size(node, latents, record.thumbnails.latent_format, vae)
        strips.append(Strip(kind, record.name if len(records) > 1 else "", sigmas, images))
        progress.update(1)
    return strips


def _images_of_any_size(
    node: str, latents: Sequence[Tensor], latent_format: LatentFormat, vae: VAE | None
) -> list[np.ndarray]:
    """Thumbnails as :func:`_images` makes them, all of one size together."""
    images: list[np.ndarray] = [np.empty(0)] * len(latents)
    for size in {latent.shape for latent in latents}:
        at = [place for place, latent in enumerate(latents) if latent.shape == size]
        same = _images(node, torch.stack([latents[place] for place in at]), latent_format, vae)
        for place, image in zip(at, same, strict=True):
            images[place] = image
    return images


def _images(node: str, latents: Tensor, latent_format: LatentFormat, vae: VAE | None) -> np.ndarray:
    """Thumbnails ``[n, height, width, 3]``, 0 to 1, of latents; NaN where a push was off."""
    latents = latents.float()
    known = ~latents.flatten(1).isnan().any(dim=1)
    if not known.any():
        return np.full((len(latents), 1, 1, 3), np.nan)
    if vae is None:
        drawn = _in_rough_colours(latents[known], latent_format)
    else:
        drawn = _decoded(node, latents[known], latent_format, vae)
    images = np.full((len(latents), *drawn.shape[1:]), np.nan)
    images[known.numpy()] = drawn
    return images


def _in_rough_colours(latents: Tensor, latent_format: LatentFormat) -> np.ndarray:
    factors = latent_format.latent_rgb_factors
    if factors is None:  # ComfyUI has no previews for this model: bright where latents are high.
        grey = latents.mean(dim=1)
        least, most = grey.aminmax()
        return ((grey - least) / (most - least))[..., None].expand(-1, -1, -1, 3).numpy()
    names = ("latent_rgb_factors_bias", "latent_rgb_factors_reshape")
    # The second one came with a later ComfyUI.
    known = [getattr(latent_format, name) for name in names if hasattr(latent_format, name)]
    previewer = Latent2RGBPreviewer(factors, *known)
    images = [previewer.decode_latent_to_preview(latent[None]) for latent in latents]
    return np.stack([np.asarray(image) for image in images]) / 255


def _decoded(node: str, latents: Tensor, latent_format: LatentFormat, vae: VAE) -> np.ndarray:
    mine = (latents.shape[1], latent_format.latent_dimensions)
    its = (vae.latent_channels, vae.latent_dim)
    if mine != its:
        raise bad_input(
            node,
            "vae",
            "a VAE for latents of {} channels and {} dimensions".format(*its),
            "the VAE of the sampled model, whose latents have {} channels and {} dimensions".format(
                *mine
            ),
        )
    if latent_format.latent_dimensions == 3:
        latents = latents.unsqueeze(2)
    images = vae.decode(latent_format.process_out(latents))
    return (images[:, 0] if images.ndim == 5 else images).clamp(0, 1).cpu().numpy()


class BadVersionGuidanceRecord(io.ComfyNode):
    """``LATENT, BadVersionProbe → LATENT``: saves the numbers of one run."""

    NAME = "Save Guidance Record"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BadVersionGuidanceRecord",
            display_name=cls.NAME,
            category=CATEGORY,
            description="Saves what a Guidance Probe has recorded in ComfyUI's output folder: "
            "every number of every step and image, as JSON for programs and as CSV for a "
            "spreadsheet.",
            inputs=[
                _latent_input("latent", "the guider"),
                _probe_input("probe"),
                io.String.Input(
                    "filename_prefix",
                    default="guidance/record",
                    tooltip="Beginning of both file names, after subfolders of the output folder "
                    "if you like. A number is added, so that nothing is overwritten.",
                ),
            ],
            outputs=[_latent_output()],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, latent: Latent, probe: Probe, filename_prefix: str) -> io.NodeOutput:
        """Save both files; raise ``GuidanceError`` if there is nothing to save, or no place."""
        record = _record_of(cls.NAME, "", probe, latent)
        folder, name = _place(cls.NAME, filename_prefix)
        columns = record.columns()
        with (folder / f"{name}.json").open("w", encoding="utf-8") as file:
            values = {key: _without_nan(column) for key, column in columns.items()}
            json.dump({"name": record.name, "columns": values}, file, ensure_ascii=False)
        # With a byte order mark, without which Excel assumes another encoding.
        with (folder / f"{name}.csv").open("w", encoding="utf-8-sig", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["call", "sample", *columns])
            for call, sample in np.ndindex(record.norm.shape):
                numbers = (column[call, sample] for column in columns.values())
                rows.writerow(
                    [call, sample, *("" if math.isnan(each) else f"{each:.9g}" for each in numbers)]
                )
        show = progress_text(cls)
        if show is not None:
            show(f"{name}.json · {name}.csv")
        return io.NodeOutput(latent)


def _place(node: str, prefix: str) -> tuple[Path, str]:
    """Folder of new files, and a beginning of their names that is not taken yet."""
    output = Path(folder_paths.get_output_directory()).resolve()
    if not (output / prefix).resolve().is_relative_to(output) or not Path(prefix).name:
        raise bad_input(
            node,
            "filename_prefix",
            f"'{prefix}'",
            "the beginning of a file name, after subfolders of the output folder if you like",
        )
    folder, name, number, *_ = folder_paths.get_save_image_path(prefix, str(output))
    return Path(folder), f"{name}_{number:05}_"


def _without_nan(column: np.ndarray) -> list[list[float | None]]:
    """A column as JSON can have it, where NaN is null."""
    return [
        [None if math.isnan(each) else float(f"{each:.9g}") for each in row]
        for row in column.tolist()
    ]


NODES: list[type[io.ComfyNode]] = [
    BadVersionGuidanceProbe,
    BadVersionGuidancePlot,
    BadVersionGuidanceRecord,
]
