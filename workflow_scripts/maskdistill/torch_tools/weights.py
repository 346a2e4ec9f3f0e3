"""Weights from published checkpoints: find them in the file, rename them, load them strictly."""

import os
import re
from collections.abc import Mapping

import torch

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.checkpoints import read_checkpoint

# Keys under which checkpoints of DINO, MoCo and timm have the weights; the first that exists is
# used, so that DINO's teacher is preferred to its student.
_WRAPPERS = ("teacher", "student", "state_dict", "model")
# Prefixes that are removed from parameter names. MoCo's query encoder (encoder_q; base_encoder in
# v3) has the weights to use.
_PREFIXES = ("module.encoder_q.", "module.base_encoder.", "module.", "backbone.")
# Replacements, applied in order, that turn torchvision's names of a ResNet's parameters into
# Detectron2's.
_DETECTRON2_NAMES = (
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


def read_state_dict(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint; see `state_dict_in`.

    Raises:
        InputError: the file is missing, damaged or not a checkpoint.
    """
    content = read_checkpoint(path, remedy="check the path in the config, or download it again")
    return state_dict_in(content, source=path)


def state_dict_in(content: object, *, source: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The weights in the content of a checkpoint, with the parameter names of a single network.

    The weights may be inside dicts ("teacher", "state_dict", …). Prefixes such as "module." and
    "module.encoder_q." are removed from the names. If some parameters have such a prefix, those
    without it (MoCo's queue and momentum encoder) are left out.

    Args:
        content: result of `read_checkpoint`.
        source: file that error messages name.

    Raises:
        InputError: there are no weights.
    """
    while isinstance(content, Mapping):
        inner = next((content[name] for name in _WRAPPERS if name in content), None)
        if not isinstance(inner, Mapping):
            break
        content = inner
    tensors = {
        name: value
        for name, value in (content.items() if isinstance(content, Mapping) else ())
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise InputError(
            f"{source}: contains no weights of a network; name a checkpoint with a state dict"
        )
    for prefix in _PREFIXES:
        inside = {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        if inside:
            tensors = inside
    return tensors


def detectron2_names(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a ResNet's weights from torchvision's to Detectron2's names (stem, res2 to res5).

    Other names are not changed.
    """
    renamed = {}
    for name, value in state_dict.items():
        for pattern, replacement in _DETECTRON2_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def load_strictly(
    model: torch.nn.Module,
    state_dict: Mapping[str, torch.Tensor],
    *,
    source: str | os.PathLike,
    ignore: tuple[str, ...] = (),
) -> None:
    """Load weights into `model`, which must have exactly the same parameters.

    Args:
        source: file that error messages name.
        ignore: prefixes of parameters (heads, …) that may be in the file but not in the model.

    Raises:
        InputError: names or shapes differ; the message lists them.
    """
    own = model.state_dict()
    given = {
        name: value
        for name, value in state_dict.items()
        if not name.startswith(ignore) or name in own
    }
    # BatchNorm's step counter may be missing: it is not needed, and old checkpoints and frozen
    # normalisation do not have it.
    missing = [n for n in own if n not in given and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in given if n not in own and not n.endswith("num_batches_tracked")]
    shapes = [
        f"{n} {list(given[n].shape)} instead of {list(own[n].shape)}"
        for n in own
        if n in given and given[n].shape != own[n].shape
    ]
    problems = [
        f"{title}: {_listing(names)}"
        for title, names in (
            ("missing keys", missing),
            ("unexpected keys", unexpected),
            ("other shapes", shapes),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"{source}: the weights do not fit {type(model).__name__} with the config's settings; "
            + "; ".join(problems)
        )
    model.load_state_dict(given, strict=False)


def _listing(names: list[str], limit: int = 12) -> str:
    more = f" … and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
