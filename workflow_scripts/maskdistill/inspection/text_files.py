"""Pages, galleries, figures and texts for other tools, described."""

import collections
import json
import xml.etree.ElementTree
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files import shards
from workflow_scripts.maskdistill.inspection import terminal
from workflow_scripts.maskdistill.inspection.blocks import (
    Lines,
    check_end,
    counts,
    damaged,
    foreign,
    read_text,
    titled,
)

LOG_LINES = 10  # of a log: its last ones
_LEGEND = "# label:color_rgb:parts:actions"  # first line of CVAT's labelmap.txt


def page(path: Path) -> Lines:
    """A report, or the page of a gallery.

    Raises:
        InputError: cut off, or none of this workflow's.
    """
    text = read_text(path)
    if "MaskDistill</title>" not in text:
        raise foreign(path, "a page that this workflow did not write")
    check_end(path, text, "</html>")
    title = text.partition("<title>")[2].partition("</title>")[0]
    size = terminal.size(path.stat().st_size)
    return titled(path, f"page for a browser, {size}: {title}")


def gallery_script(path: Path) -> Lines:
    """A gallery by its index, or one of its other scripts.

    Raises:
        InputError: damaged, or none of a gallery.
    """
    text = read_text(path)
    if text.startswith("GALLERY.index("):
        return _gallery(path, _argument(path, text))
    if text.startswith("GALLERY.image("):
        name, content = _argument(path, text)
        layers = len(content["layers"]) + len(content["candidates"])
        return titled(path, f"image {name} of a gallery: its picture and {layers} overlays")
    if "const GALLERY" in text:
        check_end(path, text, "})();")
        return titled(path, "program of a gallery")
    raise foreign(path, "a script, but none of a gallery")


def _argument(path: Path, text: str):
    """What a script of a gallery hands to the page."""
    rest = text.partition("(")[2].rstrip()
    body, end = rest[:-2], rest[-2:]
    try:
        if end != ");":
            raise ValueError("cut off")
        found = json.loads(f"[{body}]")
    except ValueError as error:
        raise damaged(path, "not the data of a gallery", error) from error
    return found[0]


def _gallery(path: Path, content: Mapping) -> Lines:
    yield terminal.plain(path.parent)
    yield f"  gallery of {len(content['images']):,} images; open its index.html in a browser"
    stages = ", ".join(stage["title"] for stage in content["stages"])
    yield from ["", *terminal.facts([("stages", stages), ("splits", ", ".join(content["splits"]))])]
    statuses = collections.Counter(
        status for image in content["images"] for status in image["status"] or [shards.OK]
    )
    yield from counts("status", statuses)


def gallery_style(path: Path) -> Lines:
    """The style sheet of a gallery.

    Raises:
        InputError: damaged, or of something else.
    """
    text = read_text(path)
    if "#grid" not in text:
        raise foreign(path, "a style sheet, but none of a gallery")
    check_end(path, text, "}")
    if text.count("{") != text.count("}"):
        raise damaged(path, "a part is missing")
    return titled(path, "style sheet of a gallery")


def _xml(path: Path) -> xml.etree.ElementTree.Element:
    try:
        return xml.etree.ElementTree.fromstring(read_text(path))
    except xml.etree.ElementTree.ParseError as error:
        raise damaged(path, "not XML", error) from error


def figure(path: Path) -> Lines:
    """A figure of the ablations.

    Raises:
        InputError: damaged, or none of this workflow's.
    """
    root = _xml(path)
    titles = [node.text for node in root.iter() if node.get("class") == "title"]
    if not titles:
        raise foreign(path, "a picture that this workflow did not draw")
    return titled(path, f"figure: {'; '.join(titles)}")


def labelling_interface(path: Path) -> Lines:
    """Label Studio's labelling interface.

    Raises:
        InputError: damaged, or something else.
    """
    labels = [node.get("value") for node in _xml(path).iter("Label")]
    if not labels:
        raise foreign(path, "XML, but no labelling interface")
    return titled(path, f"labelling interface of Label Studio: {', '.join(labels)}")


def yaml_file(path: Path) -> Lines:
    """Names of clusters, or YOLO's description of a dataset.

    Raises:
        InputError: damaged, or something else.
    """
    text = read_text(path)
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not valid YAML ({reason}); mend it") from error
    if isinstance(content, Mapping) and isinstance(content.get("seeds"), Mapping):
        check_end(path, text)
        return _names(path, content["seeds"])
    if isinstance(content, Mapping) and {"names", "train", "val"} <= content.keys():
        check_end(path, text)
        names = [(str(number), name) for number, name in content["names"].items()]
        title = f"YOLO dataset: {len(names)} classes"
        return titled(path, title, ["", *terminal.facts(names, indent=4)])
    raise foreign(path, "YAML, but nothing that this workflow writes")


def _names(path: Path, seeds: Mapping) -> Lines:
    yield terminal.plain(path)
    yield f"  names of clusters, of {len(seeds)} seed{'s' * (len(seeds) != 1)}"
    try:
        for seed, values in seeds.items():
            pairs = [("assignments", values.get("assignments", "–"))]
            pairs += [(str(cluster), name) for cluster, name in values["clusters"].items()]
            yield from ["", f"  seed {seed}", *terminal.facts(pairs, indent=4)]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: damaged, or no names of clusters ({error}); see config/README.md"
        ) from error


def card(path: Path) -> Lines:
    """The card of an exported model or dataset.

    Raises:
        InputError: damaged, or of something else.
    """
    text = read_text(path)
    title = next((line for line in text.splitlines() if line.startswith("# ")), None)
    if title is None or "MaskDistill" not in text:
        raise foreign(path, "a text that this workflow did not write")
    check_end(path, text)
    return titled(path, f"card: {title.removeprefix('# ')}")


def log(path: Path) -> Lines:
    """What a job has printed; its end, where a failed one says why.

    Raises:
        InputError: no text.
    """
    # Whatever a job printed when it was killed is no damage.
    text = path.read_bytes().decode("utf-8", errors="replace")
    if "\0" in text:
        raise damaged(path, "zeros within its text")
    # Of a progress bar its last state stands.
    lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n") if line.strip()]
    shown = [f"    {terminal.plain(line)}" for line in lines[-LOG_LINES:]]
    if len(lines) > len(shown):
        shown.insert(0, "    …")
    count = f"{len(lines):,} line{'s' * (len(lines) != 1)}"
    return titled(path, f"log of a job: {count}", ["", *shown] if shown else [])


def is_label_file(path: Path) -> bool:
    """Whether a file may be one of YOLO's, of which each image has one, perhaps an empty one."""
    return path.suffix == ".txt" and "labels" in path.parent.parts


def text_files(paths: Sequence[Path]) -> Lines:
    """Names and colours of labels, YOLO's polygons, or a list of images.

    Raises:
        InputError: damaged, or nothing of the kind.
    """
    if is_label_file(paths[0]):
        return _polygons(paths)
    path = paths[0]
    text = read_text(path)
    lines = text.splitlines()
    if lines[0] == _LEGEND:
        kinds: Callable[[str], bool] = _is_legend
        title = f"names and colours of labels, for CVAT: {len(lines) - 1:,}"
        lines = lines[1:]
    else:
        kinds, title = _is_name, f"list of {len(lines):,} images"
    if not all(map(kinds, lines)):
        if kinds is _is_legend:
            raise damaged(path, "not a legend of labels")
        raise foreign(path, "neither names of labels nor of images, or damaged")
    check_end(path, text)
    return titled(path, title)


def _is_legend(line: str) -> bool:
    """Whether a line is `name:r,g,b::`; names may have colons."""
    _, _, rest = line.removesuffix("::").rpartition(":")
    parts = rest.split(",")
    return line.endswith("::") and len(parts) == 3 and all(part.isdigit() for part in parts)


def _is_name(line: str) -> bool:
    return bool(line) and line.isprintable()


def _polygons(paths: Sequence[Path]) -> Lines:
    classes: collections.Counter = collections.Counter()
    for path in paths:
        text = read_text(path)
        if text:
            check_end(path, text)
        for line in text.splitlines():
            number, *places = line.split() or ["-"]
            try:
                inside = all(0 <= float(place) <= 1 for place in places)
            except ValueError:
                inside = False
            if not number.isdigit() or not inside or len(places) < 6 or len(places) % 2:
                raise damaged(path, "or a foreign file: not polygons as YOLO's")
            classes[number] += 1
    yield terminal.plain(paths[0] if len(paths) == 1 else paths[0].parent)
    total = sum(classes.values())
    yield f"  YOLO labels of {len(paths):,} image{'s' * (len(paths) > 1)}: {total:,} polygons"
    yield from counts("class", classes)
