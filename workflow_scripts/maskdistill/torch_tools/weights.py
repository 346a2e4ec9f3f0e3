"""State dicts from published checkpoints: wrappers, prefixes, names, strict loading."""

import os
import re
from collections.abc import Mapping

import torch

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.checkpoints import read_checkpoint

# Keys of the weights in checkpoints of DINO (teacher preferred to student), MoCo and timm.
_WRAPPERS = ("teacher", "student", "state_dict", "model")
# Prefixes of parameter names. MoCo's query encoder (base_encoder in v3) has the weights to use.
_PREFIXES = ("module.encoder_q.", "module.base_encoder.", "module.", "backbone.")
# Replacements that turn torchvision's names of a ResNet's parameters into Detectron2's, in order.
_DETECTRON2_NAMES = (
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


def read_state_dict(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint under the names of the bare model; see `state_dict_in`.

    Raises:
        InputError: missing, damaged or not a checkpoint.
    """
    content = read_checkpoint(path, remedy="check the path in the config, or fetch it again")
    return state_dict_in(content, source=path)


def state_dict_in(content: object, *, source: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tensors in the content of a checkpoint, under the names of the bare model.

    Wrappers ("teacher", "state_dict", …) are opened and prefixes ("module.", "backbone.",
    "module.encoder_q.", …) removed; parameters outside of the chosen prefix (MoCo's queue and
    momentum encoder) are left out.

    Args:
        content: result of `read_checkpoint`.
        source: file named in errors.

    Raises:
        InputError: there are none.
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
        raise InputError(f"{source}: holds no state dict; give a checkpoint of a network")
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
    """Weights of a ResNet under Detectron2's names (stem, res2 to res5) instead of torchvision's.

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
    """Load weights into `model`; the names of both must match exactly.

    Args:
        source: file named in errors.
        ignore: prefixes of parameters in the file that the model does not need (heads, …).

    Raises:
        InputError: lists missing keys, unexpected keys and shapes that differ.
    """
    own = model.state_dict()
    given = {
        name: value
        for name, value in state_dict.items()
        if not name.startswith(ignore) or name in own
    }
    # BatchNorm's step counter is not needed; old checkpoints and frozen normalisation lack it.
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
            f"{source}: the weights do not fit {type(model).__name__} as configured; "
            + "; ".join(problems)
        )
    model.load_state_dict(given, strict=False)


def _listing(names: list[str], limit: int = 12) -> str:
    more = f" … and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
