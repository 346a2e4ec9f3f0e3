"""Draws the results of all stages for one image as panels of one picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.evaluation.step_titles import (
    CANDIDATE_STEPS,
    candidate_step,
    step_title,
)
from workflow_scripts.maskdistill.files import image_sizes, images, label_maps, masks, shards
from workflow_scripts.maskdistill.files.atomic import atomic_path
from workflow_scripts.maskdistill.inspection import image_record, terminal
from workflow_scripts.maskdistill.inspection.image_record import LINEAR_PROBE, ImageRecord
from workflow_scripts.maskdistill.pictures import drawing, fonts, overlays
from workflow_scripts.maskdistill.pictures.step_colours import StepColours, step_colours

PANEL = 360  # longer side of a picture, in pixels
ENLARGED = 3.0  # largest factor by which small images are scaled up
GAP = 20
CAPTION = 46  # height of the two lines below a panel
MARGIN = 28
COLUMNS = 4
CANDIDATES_DRAWN = 12

PAPER, INK, SOFT = (252, 252, 250), (29, 33, 38), (92, 102, 112)
# Colour map from dark to light through blue, red and yellow, with increasing lightness.
HEAT = np.array(
    [[11, 9, 36], [66, 24, 104], [145, 38, 103], [216, 72, 70], [250, 144, 35], [250, 246, 160]]
)


class Panel(NamedTuple):
    """One picture with its title and a line of explanation."""

    title: str
    picture: np.ndarray  # H x W x 3 uint8
    note: str = ""


INITIAL, TRUTH = "initial_masks", "ground_truth"


def write(
    path: Path,
    wanted: str,
    output: Path | None,
    root: Path | None,
    seed: str | None,
    configs: Sequence[Path],
) -> Path:
    """Write the results of all stages for one image as one PNG.

    Args:
        path: the dataset's folder of results, or anything in it.
        wanted: id or file name of the image.
        output: file to write; None writes IMAGE_ID.png to the working directory.
        root: folder of the dataset's images; None reads it from the dataset's config.
        seed: seed whose results are shown; None for the first.
        configs: folders of datasets' configs.

    Returns:
        The path of the file.

    Raises:
        InputError: the image is unknown, was rejected, or has changed; or a file is damaged.
    """
    tree = image_record.results_tree(path)
    split, row = image_record.find_image(tree, wanted, path)
    if row["status"] != shards.OK:
        raise InputError(
            f"{row['file_name']}: nothing to draw, because list_images rejected this image: "
            f"{row['status']}"
        )
    root = root or image_record.dataset_root(tree, split, configs)
    image = images.read_listed(root / row["file_name"], (row["height"], row["width"]))
    record = image_record.collect(tree, split, row, root, seed)
    output = output or Path(f"{row['image_id']}.png")
    with atomic_path(output) as temporary:
        Image.fromarray(draw(record, image, _facts(record))).save(temporary, format="PNG")
    return output


def _facts(record: ImageRecord) -> list[str]:
    """The lines at the top of a sheet: name and size of the image, and what went wrong with it."""
    row = record.image
    lines = [
        terminal.plain(row["file_name"]),
        f"id {row['image_id']}, split {record.split}, shard {row['shard']:04d}, "
        f"{row['height']} x {row['width']} px",
    ]
    if record.features is not None and record.features["status"] != shards.OK:
        lines.append(f"features: {terminal.plain(record.features['status'])}")
    lines += [
        f"mask {mask['mask_id']}: {terminal.plain(mask['status'])}"
        for mask in record.masks
        if mask["status"] != shards.OK
    ]
    return lines


def draw(record: ImageRecord, image: np.ndarray, facts: Sequence[str]) -> np.ndarray:
    """Draw all panels of an image on one sheet.

    Args:
        image: H x W x 3 uint8, result of `images.read_image`.
        facts: lines for the top of the sheet; the first one is its title.

    Returns:
        H x W x 3 uint8.
    """
    colours = _colours(record)
    panels = _panels(record, image, colours)
    legend = _legend(record, colours)
    columns = min(COLUMNS, len(panels))
    # All pictures have the shape of the image, so all cells of the sheet have the same size.
    height, width = panels[0].picture.shape[:2]
    cell = max(width, 200)
    rows = math.ceil(len(panels) / columns)
    head = MARGIN + 34 + 19 * (len(facts) - 1) + 14
    total_width = max(2 * MARGIN + columns * cell + (columns - 1) * GAP, 640)
    legend_lines = _wrap(legend, total_width - 2 * MARGIN)
    foot = MARGIN + 24 * len(legend_lines)
    sheet = Image.new("RGB", (total_width, head + rows * (height + CAPTION + GAP) + foot), PAPER)
    pen = ImageDraw.Draw(sheet)
    room = total_width - 2 * MARGIN
    fonts.write(pen, (MARGIN, MARGIN - 6), facts[0], INK, 24, room=room)
    for i, line in enumerate(facts[1:]):
        fonts.write(pen, (MARGIN, MARGIN + 32 + 19 * i), line, SOFT, 14, room=room)
    for i, panel in enumerate(panels):
        x = MARGIN + (i % columns) * (cell + GAP)
        y = head + (i // columns) * (height + CAPTION + GAP)
        sheet.paste(Image.fromarray(panel.picture), (x, y))
        fonts.write(pen, (x, y + height + 5), panel.title, INK, 15, room=cell)
        fonts.write(pen, (x, y + height + 24), panel.note, SOFT, 12.5, room=cell)
    y = sheet.height - foot + 4
    for line in legend_lines:
        x = MARGIN
        for name, colour in line:
            pen.rectangle((x, y + 2, x + 13, y + 15), fill=colour, outline=SOFT)
            fonts.write(pen, (x + 20, y), name, INK, 13)
            x += _legend_width(name)
        y += 24
    return np.asarray(sheet)


def _colours(record: ImageRecord) -> dict[str, StepColours]:
    """Colours of every step; with metrics, clusters have the colours of their matched classes."""
    steps = dict.fromkeys([INITIAL, *CANDIDATE_STEPS, *record.steps])
    found = [_label(row) for row in record.masks]
    found += [row["cluster"] for row in record.candidates]
    found += [int(label_maps.without_ignore(labels).max()) for labels in record.steps.values()]
    colours = step_colours(steps, max(found, default=0), None)
    if record.metrics is not None:
        scored = [step for step in steps if step in record.metrics["steps"]]
        colours |= step_colours(scored, record.metrics["clusters"], record.metrics)
        names = record.metrics["class_names"]
        classes = StepColours(label_maps.colours(np.arange(len(names))), names)
        probes = [step for step in steps if step.startswith(LINEAR_PROBE)]
        colours |= dict.fromkeys((TRUTH, *probes), classes)
    return colours


def _candidate_step(record: ImageRecord) -> str:
    scored = record.metrics["steps"] if record.metrics else record.steps
    return candidate_step(scored) or CANDIDATE_STEPS[0]


def _label(mask: Mapping) -> int:
    """The label to paint a mask with: its cluster, or its own number if it has no cluster."""
    return mask["mask_id"] + 1 if mask["cluster"] is None else mask["cluster"]


def _panels(
    record: ImageRecord, image: np.ndarray, colours: Mapping[str, StepColours]
) -> list[Panel]:
    size = image.shape[:2]
    scale = min(PANEL / max(size), ENLARGED)
    shown = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    small = image_sizes.resize(image, shown)
    result = [Panel("Image", small, f"{size[0]} x {size[1]} px")]
    if record.cls_affinity is not None:
        result += _affinity_panels(record, small)
    usable = [row for row in record.masks if row["rle_counts"] is not None]
    if usable:
        result.append(_mask_panel(usable, small, colours[INITIAL]))
    if record.candidates:
        result.append(_candidate_panel(record, small, size, colours[_candidate_step(record)]))
    for step, labels in record.steps.items():
        result.append(_label_panel(step_title(step), labels, small, colours[step]))
    if record.ground_truth is not None:
        result.append(_label_panel("Ground truth", record.ground_truth, small, colours[TRUTH]))
    return result


def _affinity_panels(record: ImageRecord, small: np.ndarray) -> list[Panel]:
    """The affinity of [CLS] as a heat map, and the patches that the search for masks used."""
    values = record.cls_affinity
    low, high = float(values.min()), float(values.max())
    steps = (values - low) / ((high - low) or 1.0) * (len(HEAT) - 1)
    colours = np.stack(
        [np.interp(steps, range(len(HEAT)), HEAT[:, channel]) for channel in range(3)], axis=-1
    )
    heat = _lay(colours, record, small.shape[:2])
    blended = np.round(0.25 * small.mean(axis=2, keepdims=True) + 0.75 * heat).astype(np.uint8)
    grid = f"{values.shape[0]} x {values.shape[1]} patches"
    result = [Panel("Affinity of [CLS]", blended, f"{grid}, {low:.3g} (dark) to {high:.3g}")]
    if record.searches:
        marked = np.zeros(values.shape, np.uint8)
        for search in record.searches:
            marked[tuple(np.transpose(search.proposals))] = 1
        for search in record.searches:
            marked[tuple(np.transpose(search.voters))] = 2
        for search in record.searches:
            marked[search.source] = 3
        colours = np.array([[0, 0, 0], [96, 165, 250], [34, 197, 94], [239, 68, 68]], np.uint8)
        picture = drawing.overlay(small, _lay(marked, record, small.shape[:2]), colours)
        proposals = sum(len(search.proposals) for search in record.searches)
        voters = sum(len(search.voters) for search in record.searches)
        note = f"{proposals} proposals (blue), {voters} vote (green), sources red"
        result.append(Panel("Sources and proposals", picture, note))
    return result


def _lay(grid: np.ndarray, record: ImageRecord, size: tuple[int, int]) -> np.ndarray:
    return masks.grid_to_image(
        grid,
        patch_size=record.patch_size,
        resized=(record.features["resized_height"], record.features["resized_width"]),
        size=size,
    )


def _mask_panel(rows: Sequence[Mapping], small: np.ndarray, colours: StepColours) -> Panel:
    labels = [_label(row) for row in rows]
    size = (rows[0]["height"], rows[0]["width"])
    painted = overlays.paint_rows(size, rows, labels, max(labels))
    notes = [
        f"mask {row['mask_id']}"
        if row["cluster"] is None
        else f"cluster {row['cluster']} at {row['distance']:.3g}"
        if row["cluster"]
        else f"mask {row['mask_id']} of a dropped cluster"
        for row in rows
    ]
    return _label_panel("Masks", painted, small, colours, "; ".join(notes))


def _candidate_panel(
    record: ImageRecord, small: np.ndarray, size: tuple[int, int], colours: StepColours
) -> Panel:
    shown = record.candidates[:CANDIDATES_DRAWN]
    picture = Image.fromarray(small).convert("RGB")
    pen = ImageDraw.Draw(picture)
    scale = (small.shape[1] / size[1], small.shape[0] / size[0])
    for row in reversed(shown):
        mask = masks.decode_row(row)
        edge = drawing.contours(masks.resize_mask(mask, small.shape[:2]))
        colour = tuple(overlays.visible(colours.colours[row["cluster"]]).tolist())
        stencil = Image.fromarray((edge * 255).astype(np.uint8))
        picture.paste(colour, mask=stencil)
        x, y = row["x"] * scale[0], row["y"] * scale[1]
        right = x + row["box_width"] * scale[0]
        bottom = y + row["box_height"] * scale[1]
        kept = row["candidate_id"] in record.confident
        pen.rectangle((x, y, right, bottom), outline=colour, width=2 if kept else 1)
        text = f"{row['cluster']}  {row['score']:.2f}"
        width = fonts.width(text, 11) + 6
        top = max(0.0, y - 14)
        pen.rectangle((x, top, x + width, top + 14), fill=colour)
        light = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 140
        fonts.write(pen, (x + 3, top), text, INK if light else (255, 255, 255), 11)
    more = len(record.candidates) - len(shown)
    note = f"{len(record.candidates)}, best {shown[0]['score']:.2f}; thick: confident" + (
        f"; {more} weaker ones not drawn" if more else ""
    )
    return Panel("Candidates", np.asarray(picture), note)


def _label_panel(
    title: str, labels: np.ndarray, small: np.ndarray, colours: StepColours, note: str = ""
) -> Panel:
    # Clusters matched with background are listed, but not painted.
    listed = label_maps.without_ignore(labels)
    found = [int(label) for label in np.unique(listed) if label]
    share = np.count_nonzero(listed) / listed.size
    resized = overlays.shown(labels, colours.colours, small.shape[:2])
    note = note or (
        f"{', '.join(map(str, found))}; {share:.1%} of the pixels" if found else "nothing found"
    )
    return Panel(title, drawing.overlay(small, resized, colours.colours), note)


def _legend(
    record: ImageRecord, colours: Mapping[str, StepColours]
) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and colours of clusters (with their matched classes), then of classes."""
    used = {
        step: np.unique(label_maps.without_ignore(labels)) for step, labels in record.steps.items()
    }
    used |= {INITIAL: [row["cluster"] for row in record.masks if row["cluster"]]}
    used |= {
        _candidate_step(record): [row["cluster"] for row in record.candidates[:CANDIDATES_DRAWN]]
    }
    if record.ground_truth is not None:
        used[TRUTH] = np.unique(label_maps.without_ignore(record.ground_truth))
    entries = set()
    for step, labels in used.items():
        for label in map(int, labels):
            name = colours[step].classes[label]
            text = f"cluster {label}" + (f": {name}" if name else "")
            if name and step.startswith((TRUTH, LINEAR_PROBE)):
                order, text = 1, f"class {name}"
            else:
                order = 0
            if label:
                colour = tuple(overlays.visible(colours[step].colours[label]).tolist())
                entries.add((order, label, text, colour))
    return [(text, colour) for _, _, text, colour in sorted(entries)]


def _wrap(legend: Sequence[tuple], width: int) -> list[list[tuple]]:
    lines: list[list[tuple]] = []
    used = width + 1
    for entry in legend:
        needed = _legend_width(entry[0])
        if used + needed > width:
            lines.append([])
            used = 0
        lines[-1].append(entry)
        used += needed
    return lines


def _legend_width(name: str) -> int:
    return round(fonts.width(name, 13)) + 44
