"""The settings that a rule depends on, named in the rule itself: `settings=settings("masks", …)`.

The program of a rule gets only these settings. tests/maskdistill/test_read_settings.py checks that
it reads all of them.
"""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from workflow_scripts.maskdistill.settings.cluster_names import curated
from workflow_scripts.maskdistill.settings.splits import evaluated_split, instance_split

# The first line of a rule, or a call of `settings` with the name that its result is assigned to (in
# a dictionary: with its key).
_RULE_OR_CALL = re.compile(
    r"^(?:rule (?P<rule>\w+)|use rule \w+ as (?P<used>\w+) with):"
    r"|\"?(?P<name>\w+)\"?\s*[=:]\s*settings(?P<call>\((?:[^()]|\([^()]*\))*\))",
    re.MULTILINE,
)


class Declaration(NamedTuple):
    """The settings that a rule declares.

    Dotted paths may contain {evaluated} and {instances}, which stand for splits that the config
    determines, and {split}, the split of the job. The path * means all settings.
    """

    paths: tuple[str, ...]
    without: tuple[str, ...] = ()  # parts that are left out
    merged: bool = True  # whether clusters with the same name are one pseudo-class

    def select(
        self, config: Mapping, names: Mapping[int, str] | None = None, split: str | None = None
    ) -> dict:
        """The declared part of a dataset's config.

        Args:
            config: config of the dataset.
            names: cluster → name, from config/names/DATASET.yaml.
            split: split of the job, if a path contains {split}.
        """
        clustering = config["clustering"]
        config = curated(config, names or {})
        if not self.merged:
            config["clustering"] = clustering
        result: dict[str, Any] = {}
        for path in self.parts(config, split):
            *parents, last = path
            source: Any = config
            for key in parents:
                source = source[key]
            if not isinstance(source, Mapping):
                continue  # a split may be just a name, which has no keys such as `annotations`
            target = result
            for key in parents:
                target = target.setdefault(key, {})
            target[last] = source[last]
        for path in self.without:
            result = _without(result, *path.split("."))
        return result

    def parts(self, config: Mapping, split: str | None = None) -> list[tuple[str, ...]]:
        """The declared paths, as keys from the top, with the names of splits filled in."""
        splits = {
            "evaluated": evaluated_split(config),
            "instances": instance_split(config),
            "split": split,
        }
        return [
            tuple(key.format(**splits) for key in path.split("."))
            for declared in self.paths
            for path in (config if declared == "*" else [declared])
        ]

    @property
    def of_split(self) -> bool:
        """Whether the settings depend on the split of the job."""
        return any("{split}" in path for path in self.paths)


def declared_settings(home: Path) -> dict[str, Declaration]:
    """Rule → its declaration, read from the rules' files; rules without settings are left out.

    Args:
        home: folder of the repository.
    """
    found = {}
    for path in sorted((home / "rules").glob("*.smk")):
        rule = None
        for match in _RULE_OR_CALL.finditer(path.read_text(encoding="utf-8")):
            rule = match["rule"] or match["used"] or rule
            if match["call"]:
                name = rule if match["name"] == "settings" else match["name"]
                found[name] = _declaration(match["call"])
    return found


def _declaration(call: str) -> Declaration:
    """The declaration that a call of `settings` makes, from its arguments in parentheses."""
    found = ast.parse(f"settings{call}", mode="eval").body
    options = {option.arg: ast.literal_eval(option.value) for option in found.keywords}
    return Declaration(tuple(map(ast.literal_eval, found.args)), **options)


def _without(settings: Mapping, key: str, *keys: str) -> dict:
    """A copy of the nested settings without the key at this path."""
    if key not in settings:
        return dict(settings)
    if keys:
        return {**settings, key: _without(settings[key], *keys)}
    return {other: value for other, value in settings.items() if other != key}
