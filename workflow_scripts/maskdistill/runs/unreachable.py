"""Finds downloads that a run needs and whose servers do not answer, before any job starts."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from workflow_scripts.maskdistill.data import timm_weights
from workflow_scripts.maskdistill.data.download import reachable
from workflow_scripts.maskdistill.runs.run import Run
from workflow_scripts.maskdistill.settings.downloads import archive_name


class _Wanted(NamedTuple):
    """A file that has to be downloaded."""

    place: str  # path at which the file is expected
    address: str | None  # URL on the server; None if the user has switched off timm's hub
    remedy: str  # what the user can do if the server does not answer


def unreachable_downloads(run: Run, archives: str) -> dict[str, str]:
    """Files that the run's datasets need, that are missing, and that cannot be downloaded.

    The network is not used if no file is missing. Otherwise each server is contacted once, and is
    unreachable if it does not answer within a few seconds.

    Args:
        archives: folder of the archives of datasets.

    Returns:
        File that a rule would make → one line for each missing file, with its remedy.
    """
    wanted = {
        output: [one for one in files if not Path(one.place).is_file()]
        for output, files in _outputs(run, archives).items()
        if not Path(output).is_file()
    }
    addresses = {one.address for files in wanted.values() for one in files} - {None}
    servers = {
        address: "{0.scheme}://{0.netloc}".format(urlsplit(address)) for address in addresses
    }
    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        distinct = sorted(set(servers.values()))
        answers = dict(zip(distinct, pool.map(reachable, distinct), strict=True))
    found = {}
    for output, files in wanted.items():
        lines = []
        for one in files:
            server = servers.get(one.address)
            if server is not None and answers[server]:
                continue
            backbone = run.timm_weights().get(one.place)
            if backbone is not None and timm_weights.cached(backbone) is not None:
                continue
            why = f"{server} cannot be reached" if server else "HF_HUB_OFFLINE is set"
            remedy = timm_weights.remedy(backbone, one.place) if backbone else one.remedy
            lines.append(f"{one.place} is missing, and {why}: {remedy}")
        if lines:
            found[output] = "\n".join(lines)
    return found


def _outputs(run: Run, archives: str) -> Mapping[str, list[_Wanted]]:
    """Outputs of the download rules for the datasets of the run → files to download for each."""
    found: dict[str, list[_Wanted]] = {}
    backbones = run.timm_weights()
    for name, config in run.configs.items():
        for stage in ("features", "embedding", "mask_rcnn", "segmentation"):
            path = config[stage]["weights"]
            if path in run.catalogue["files"]:
                url = run.catalogue["files"][path]["url"]
                found[path] = [_Wanted(path, url, f"put the file {url} there")]
            elif path in backbones:
                found[path] = [_Wanted(path, timm_weights.hub_address(), "")]
        if run.origin(name) == "downloaded":
            dataset = config["dataset"]["download"]
            places = {
                f"{archives}/{archive_name(one)}": one["url"]
                for one in run.catalogue["datasets"][dataset]["archives"]
            }
            found[f"data/{dataset}/downloaded.json"] = [
                _Wanted(place, url, f"put the file {url} there") for place, url in places.items()
            ]
    return found
