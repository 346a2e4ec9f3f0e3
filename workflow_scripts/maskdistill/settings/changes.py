"""Comparison of settings."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def changed_settings(old: Mapping, new: Mapping, prefix: str = "") -> Iterator[str]:
    """`key.sub_key: old → new` for every setting that differs."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from changed_settings(before, after, f"{prefix}{key}.")
        elif key not in old:
            yield f"{prefix}{key}: new, {json.dumps(after, ensure_ascii=False)}"
        elif key not in new:
            yield f"{prefix}{key}: no longer used, was {json.dumps(before, ensure_ascii=False)}"
        elif before != after:
            values = (json.dumps(value, ensure_ascii=False) for value in (before, after))
            yield f"{prefix}{key}: {' → '.join(values)}"


def canonical_json(value: Any) -> str:
    """JSON that does not depend on the order of keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
