"""Weights that timm publishes, fetched from its hub (at Hugging Face) into a local file.

timm's description of a model says where its weights are. The user's cache of the hub is searched
first. timm takes seconds to import and is imported only if something has to be fetched.
"""

import os
import re
import shutil
from pathlib import Path

from workflow_scripts.maskdistill.data import download
from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.atomic import atomic_path
from workflow_scripts.maskdistill.files.provenance import file_digest
from workflow_scripts.maskdistill.settings.section import nearest

FILE = "model.safetensors"  # name of the weights file of every model on timm's hub


def pin_name(backbone: str) -> str:
    """The key of a timm backbone's weights in checksums.json."""
    return f"timm:{backbone}"


def repository(backbone: str) -> str:
    """The repository of the hub that has a backbone's weights.

    Raises:
        InputError: timm does not know the name, or its hub has no weights of it.
    """
    import timm

    try:
        found = timm.get_pretrained_cfg(backbone)
    except RuntimeError as error:  # a training that it does not know
        architecture = backbone.partition(".")[0]
        known = timm.list_models(f"{architecture}.*", pretrained=True)
        raise InputError(
            f"there are no weights of {backbone!r} in timm; it has {', '.join(known) or 'none'}; "
            "choose one of them, or name a local file in features.weights"
        ) from error
    if found is None:
        close = nearest(backbone, timm.list_models())
        raise InputError(f"there is no model {backbone!r} in timm{close}")
    if not found.hf_hub_id:
        raise InputError(
            f"timm's hub has no weights of {backbone!r}"
            + (f"; download {found.url}" if found.url else "")
            + " and name the file in features.weights"
        )
    return found.hf_hub_id


def cached(backbone: str) -> Path | None:
    """The file of a backbone's weights in the user's cache of the hub, if it is there.

    Raises:
        InputError: as `repository`.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if not any(Path(constants.HF_HUB_CACHE).glob("models--*")):
        return None
    # Most repositories have the name of the model, so that timm is asked only about the others.
    for find in (lambda: f"timm/{backbone}", lambda: repository(backbone)):
        found = try_to_load_from_cache(find(), FILE)
        if isinstance(found, str):
            return Path(found)
    return None


def hub_address() -> str | None:
    """The address of the hub; None if the user has switched it off (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return None if constants.HF_HUB_OFFLINE else constants.ENDPOINT


def remedy(backbone: str, target: str | os.PathLike) -> str:
    """What the user can do without a network, for messages."""
    return f"put the file {FILE} of timm's {backbone} (from timm's hub) at {target}"


def fetch(backbone: str, target: Path, checksums: Path) -> str:
    """Bring the weights of a backbone to `target`, from the user's cache or from the hub.

    Args:
        checksums: file of checksums; the first fetch records one, which later ones must have.

    Returns:
        The SHA-256 of the file, in hexadecimal.

    Raises:
        InputError: timm has no such weights, the hub cannot be reached within seconds or refuses,
            or the content is not the expected one.
    """
    path = cached(backbone) or _from_hub(backbone, target)
    digest = file_digest(path)
    source = download.pinned({"url": pin_name(backbone)}, checksums)
    # The cache names large files by their SHA-256.
    named = Path(os.path.realpath(path)).name
    for expected in (source.get("sha256"), named if re.fullmatch("[0-9a-f]{64}", named) else None):
        if expected not in (None, digest):
            raise InputError(
                f"{path}: wrong checksum: SHA-256 {digest} instead of {expected}; remove it, "
                "and it is fetched again"
            )
    with atomic_path(target) as partial:
        shutil.copyfile(path, partial)
    download.pin(source, digest, target, checksums)
    return digest


def _from_hub(backbone: str, target: Path) -> Path:
    """Let the hub's client download the file into the user's cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError
    from huggingface_hub.utils import disable_progress_bars

    address = hub_address()
    if address is None or not download.reachable(address):
        reason = f"{address} cannot be reached" if address else "HF_HUB_OFFLINE is set"
        raise InputError(f"{target}: {reason}; {remedy(backbone, target)}")
    disable_progress_bars()  # they would fill the log file
    name = repository(backbone)
    print(f"fetching {FILE} of {name}", flush=True)
    try:
        return Path(hf_hub_download(name, FILE, etag_timeout=download.REACHABLE_SECONDS))
    except GatedRepoError as error:
        raise InputError(
            f"{target}: {name} requires that you accept its licence; accept it on the hub and set "
            f"HF_TOKEN, or {remedy(backbone, target)}"
        ) from error
    except Exception as error:  # the hub's client and its libraries raise many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{target}: {reason[:300]}; {remedy(backbone, target)}") from error
