"""Descriptions of models, checkpoints and exported graphs."""

import collections
import zipfile
from collections.abc import Mapping
from pathlib import Path

from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.files.json_io import leaves
from workflow_scripts.maskdistill.inspection import terminal
from workflow_scripts.maskdistill.inspection.blocks import Lines, damaged, foreign, value

# Keys of the model in the checkpoint of a training.
_TRAINED = ("model", "network")


def model(path: Path) -> Lines:
    """Describe weights, a model of this workflow, or a checkpoint of one of its trainings.

    Raises:
        InputError: the file is damaged, or not a checkpoint.
    """
    # Imported only when needed, because PyTorch takes seconds to import.
    import torch

    from workflow_scripts.maskdistill.files import checkpoints
    from workflow_scripts.maskdistill.torch_tools import weights

    _check_archive(path)
    content = checkpoints.read_checkpoint(path, remedy="remove it and make it again")
    if not isinstance(content, Mapping):
        content = {}
    trained = next((content[name] for name in _TRAINED if name in content), None)
    if "step" in content and isinstance(trained, Mapping):
        tensors = trained
    else:
        tensors = weights.state_dict_in(content, source=path)
    what = "weights"
    if "engine" in content:
        what = f"Mask R-CNN, engine {content['engine']}"
    elif "settings" in content and "clusters" in content:
        what = "segmentation model"
    elif "optimizer" in content or "step" in content:
        what = "checkpoint of a training"
    yield terminal.plain(path)
    yield f"  {what}: {len(tensors):,} tensors, {terminal.size(path.stat().st_size)}"
    plain = {k: v for k, v in content.items() if _is_plain(v)}
    pairs = [(key, value(found)) for key, found in leaves(plain)]
    pairs.append(("SHA-256", provenance.file_digest(path)))
    yield from ["", "  made with", *terminal.facts(pairs, indent=4)]
    parts: dict[str, list] = collections.defaultdict(list)
    for name, tensor in tensors.items():
        parts[name.partition(".")[0]].append(tensor)
    rows = [
        [
            name,
            len(group),
            sum(tensor.numel() for tensor in group),
            ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in group})),
            sum(int((~torch.isfinite(t)).sum()) for t in group if t.is_floating_point()),
        ]
        for name, group in parts.items()
    ]
    yield from ["", *terminal.table(["part", "tensors", "numbers", "type", "not finite"], rows)]


def onnx(path: Path) -> Lines:
    """Describe a graph in ONNX's format.

    Raises:
        InputError: the file is damaged.
    """
    # Imported only when needed, because it takes a second to import.
    import onnx as library

    try:
        found = library.load(path)
        library.checker.check_model(found)
    except Exception as error:  # damaged files raise many types in protobuf
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise damaged(path, "not a valid ONNX model", reason) from error
    yield terminal.plain(path)
    yield (
        f"  exported model, ONNX: {len(found.graph.node):,} nodes, "
        f"{terminal.size(path.stat().st_size)}"
    )
    pairs = [(f"input {tensor.name}", _shape(tensor)) for tensor in found.graph.input]
    pairs += [(f"output {tensor.name}", _shape(tensor)) for tensor in found.graph.output]
    pairs.append(("operators", ", ".join(f"version {o.version}" for o in found.opset_import[:1])))
    pairs.append(("SHA-256", provenance.file_digest(path)))
    yield from ["", *terminal.facts(pairs)]


def _shape(tensor) -> str:
    import onnx as library

    kind = library.TensorProto.DataType.Name(tensor.type.tensor_type.elem_type).lower()
    sides = [str(d.dim_param or d.dim_value) for d in tensor.type.tensor_type.shape.dim]
    return f"{' x '.join(sides)} {kind}"


def exported_program(path: Path) -> Lines:
    """Describe a graph of torch.export; its archive is read, but the graph is not loaded.

    Raises:
        InputError: the file is damaged, or not such a graph.
    """
    _check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise damaged(path, "not an archive of torch.export", error) from error
    if not any(name.endswith("archive_format") for name in names):
        raise foreign(path, "an archive, but not of torch.export")
    yield terminal.plain(path)
    yield f"  exported model, torch.export: {terminal.size(path.stat().st_size)}"
    pairs = [("parts", f"{len(names):,}"), ("SHA-256", provenance.file_digest(path))]
    yield from ["", *terminal.facts(pairs)]


def _check_archive(path: Path) -> None:
    """Verify the checksums of an archive's members, which PyTorch does not do."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise damaged(path, "not an archive of PyTorch", error) from error
    if broken is not None:
        raise damaged(path, f"the checksum of its part {broken} is wrong")


def _is_plain(found: object) -> bool:
    """Whether a value of a checkpoint is a plain setting without tensors."""
    if isinstance(found, Mapping):
        return len(found) < 100 and all(_is_plain(item) for item in found.values())
    if isinstance(found, list | tuple):
        return len(found) < 100 and all(_is_plain(item) for item in found)
    return found is None or isinstance(found, str | int | float | bool)
