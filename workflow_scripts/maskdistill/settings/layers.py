"""Reading and merging files of the config."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.settings.section import nearest


def read_yaml(path: Path) -> dict:
    """Parse one YAML file to a mapping.

    Raises:
        InputError: missing, not YAML in UTF-8, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such config file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not valid YAML in UTF-8: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected lines `key: value`")
    return content


def merge(base: Mapping, *overrides: Mapping) -> dict:
    """Merge mappings recursively; later values override earlier ones, and lists as a whole."""
    result = copy.deepcopy(dict(base))
    for override in overrides:
        for key, value in override.items():
            if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
                result[key] = merge(result[key], value)
            else:
                result[key] = copy.deepcopy(value)
    return result


def known_datasets(folders: Sequence[Path]) -> dict[str, Path]:
    """Name → file of all datasets; earlier folders take precedence."""
    return {path.stem: path for folder in reversed(folders) for path in folder.glob("*.yaml")}


def read_preset(name: object, folders: Sequence[Path], source: Path) -> dict:
    """The content of config/presets/NAME.yaml: settings that go between defaults and dataset.

    Args:
        folders: folders of the files of datasets. The folder `presets` next to each of them holds
            presets; earlier folders take precedence.
        source: file that names the preset, for messages.

    Raises:
        InputError: there is no such preset, or it describes a dataset.
    """
    known = known_datasets([folder.parent / "presets" for folder in folders])
    if name not in known:
        raise InputError(
            f"{source}: preset: unknown preset {name!r}{nearest(str(name), sorted(known))}; known "
            f"are {', '.join(sorted(known))}"
        )
    content = read_yaml(known[name])
    for key in ("dataset", "extends", "preset", "shards"):
        if key in content:
            raise InputError(f"{known[name]}: {key}: a preset cannot have this key; remove it")
    return content


def layers(path: Path, known: Mapping[str, Path]) -> list[dict]:
    """The contents of a dataset's file and of the files that it extends, the most basic one first.

    Their key `extends` is removed, `preset` is kept.

    Args:
        known: result of `known_datasets`.

    Raises:
        InputError: it extends an unknown dataset, or itself.
    """
    found: list[dict] = []
    seen = []
    while path not in seen:
        seen.append(path)
        own = read_yaml(path)
        base = own.pop("extends", None)
        found.insert(0, own)
        if base is None:
            return found
        if base not in known:
            raise InputError(f"{path}: extends: unknown dataset {base!r}{nearest(base, known)}")
        path = known[base]
    raise InputError(
        f"{path}: extends itself, via {', '.join(p.stem for p in seen)}; remove one `extends`"
    )
