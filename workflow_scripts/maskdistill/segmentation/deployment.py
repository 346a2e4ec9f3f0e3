"""Export of a trained segmentation model as one graph from pixels to labels."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.segmentation.deeplab import DeepLab
from workflow_scripts.maskdistill.segmentation.interpolation import (
    cubic,
    linear,
    ratio,
    resizing,
)
from workflow_scripts.maskdistill.segmentation.vit_head import ViTHead

# (height, width): odd, very small and elongated sizes, for which an exported graph is most likely
# to be wrong.
CHECKED_SIZES = ((64, 64), (37, 101), (130, 75), (17, 33))


class Deployed(nn.Module):
    """Resizing, padding, model, upsampling and argmax in one module, as in `Predictor`."""

    def __init__(self, model: DeepLab | ViTHead) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels and their probabilities.

        Args:
            image: 1 x H x W x 3 uint8, RGB.

        Returns:
            1 x H x W int64 (0 background, 1..K), and 1 x H x W float32.
        """
        size, stride = image.shape[1:3], self.model.output_stride
        seen = size
        if isinstance(self.model, ViTHead):  # DeepLab sees images at their own size
            seen = resized_size(size, *self.model.sides)
            image = _resize(image, seen)
        # Sides rounded up to multiples of the stride, in a form that the exporter can trace.
        rows, columns = ((side + stride - 1) // stride * stride for side in seen)
        padded = _extend(_extend(self.model.normalize(image), 2, rows), 3, columns)
        logits = self.model(padded).float()
        device, cells = logits.device, self.model.cells / stride
        to_rows, to_columns = (
            resizing(
                linear, count, new, scale=ratio(old, new, device=device) * cells, device=device
            )
            for count, old, new in zip(logits.shape[2:], seen, size, strict=True)
        )
        logits = to_rows @ logits @ to_columns.T
        probability, labels = logits.softmax(dim=1).max(dim=1)
        return labels, probability


def resized_size(
    size: tuple[int, int], shorter_side: int, longer_side: int | None
) -> tuple[int, int]:
    """As `image_sizes.resized_size`, in integers, which the exporter can trace.

    A side exactly between two whole numbers is rounded up here, and to the even number there.
    """
    shorter, longer = torch.sym_min(*size), torch.sym_max(*size)

    def scaled(side: int) -> int:
        result = _rounded(side * shorter_side, shorter)
        if longer_side is not None:
            result = torch.sym_min(result, _rounded(side * longer_side, longer))
        return torch.sym_max(result, 1)

    return scaled(size[0]), scaled(size[1])


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """As `image_sizes.resize`: Pillow rounds after the columns, and after the rows."""
    to_rows, to_columns = (
        resizing(cubic, old, new, device=image.device)
        for old, new in zip(image.shape[1:3], size, strict=True)
    )
    channels = image.permute(0, 3, 1, 2).float()
    narrowed = (channels @ to_columns.T).round().clamp(0, 255)
    return (to_rows @ narrowed).round().clamp(0, 255).permute(0, 2, 3, 1)


def _extend(x: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    """Append zeros along `dim` until it has `size` values; it may already have as many.

    The exporter would trace `F.pad` for only one of these cases: with or without zeros.
    """
    place = torch.arange(size, device=x.device)
    inside = (place < x.shape[dim]).to(x.dtype)
    extended = x.index_select(dim, place.clamp(max=x.shape[dim] - 1))
    return extended * inside.reshape([-1 if axis == dim else 1 for axis in range(x.dim())])


def export(model: DeepLab | ViTHead) -> torch.export.ExportedProgram:
    """Trace the graph with torch.export, for any height and width above the output stride."""
    # Images so large that the network's output has several rows and columns, because the exporter
    # treats a dimension of size 1 as a special case.
    smallest = model.output_stride + 1
    sides = {
        1: torch.export.Dim("height", min=smallest),
        2: torch.export.Dim("width", min=smallest),
    }
    example = torch.zeros(1, 67, 93, 3, dtype=torch.uint8)
    deployed = Deployed(model).eval()
    return torch.export.export(
        deployed,
        (example,),
        dynamic_shapes=(sides,),
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write the graph with its weights as ONNX: input `image`, outputs `labels`, `probability`."""
    import onnx

    graph = torch.onnx.export(
        program,
        input_names=["image"],
        output_names=["labels", "probability"],
        dynamo=True,
        external_data=False,
        verbose=False,
    ).model_proto
    # Name the variable dimensions "height" and "width", in place of the exporter's symbols.
    sides = [side.dim_param for side in graph.graph.input[0].type.tensor_type.shape.dim[1:3]]
    names = dict(zip(sides, ("height", "width"), strict=True))
    symbol = re.compile(rf"\b({'|'.join(map(re.escape, sides))})\b")
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = symbol.sub(lambda found: names[found[0]], side.dim_param)
    onnx.save(graph, path)


def onnx_runner(path: Path) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A function that runs an ONNX file on the CPU, with the input of `Deployed.forward`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: tuple(session.run(None, {"image": image}))


@torch.inference_mode()
def agreement(
    model: DeepLab | ViTHead,
    run: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    sizes: Sequence[tuple[int, int]] = CHECKED_SIZES,
) -> dict[str, float]:
    """Compare an exported graph with its model on random images of several sizes.

    Returns:
        `labels`: share of pixels with the same label, 0..1; `probability`: the largest difference
            between the probabilities of a pixel in graph and model.

    Raises:
        InputError: the graph and the model differ by more than rounding errors.
    """
    generator, deployed = np.random.default_rng(0), Deployed(model).eval()
    same = total = 0
    difference = 0.0
    for height, width in sizes:
        coarse = generator.integers(0, 256, (1, -(-height // 8), -(-width // 8), 3), dtype=np.uint8)
        image = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width].copy()
        labels, probability = (value.numpy() for value in deployed(torch.from_numpy(image)))
        found_labels, found = run(image)
        if found_labels.shape != labels.shape:
            raise InputError(
                f"the exported model gives labels of shape {found_labels.shape} for an image of "
                f"{height} x {width} pixels, but {labels.shape} was expected"
            )
        same += int((found_labels == labels).sum())
        total += labels.size
        difference = max(difference, float(np.abs(found - probability).max()))
    if difference > 1e-3 or same < 0.999 * total:
        raise InputError(
            f"the exported model differs from the trained one: {same} of {total} labels agree, "
            f"probabilities differ by up to {difference:.2g}; no export was written"
        )
    return {"labels": same / total, "probability": difference}
