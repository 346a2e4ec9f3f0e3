"""Settings that record which of their values a program reads, even those that are not declared."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from unittest import mock

from pydantic import BaseModel

from workflow_scripts import cli
from workflow_scripts.maskdistill.files import provenance
from workflow_scripts.maskdistill.mask_rcnn import fitting as mask_rcnn_training
from workflow_scripts.maskdistill.settings.section import Section, checked

# Values that these functions read are not recorded, because they only check them, or copy them
# into provenance, fingerprints and model files.
_COPYING = {
    function.__code__
    for function in (
        BaseModel.__init__,
        Section.plain,
        checked,
        json.JSONEncoder.encode,
        json.JSONEncoder.iterencode,
        provenance.record,
        mask_rcnn_training.fingerprint,
    )
}


def _is_copying() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code in _COPYING:
            return True
        frame = frame.f_back
    return False


class Log:
    """The dotted names of the settings that were read.

    Args:
        typed: class of typed settings → its field → the setting that the field has. Such a setting
            is recorded when a program reads the field, not when it is copied into an instance.
    """

    def __init__(self, typed: Mapping[type, Mapping[str, str]]) -> None:
        self.typed = typed
        self.read: set[str] = set()
        self._taken_over = {path for fields in typed.values() for path in fields.values()}

    def note(self, path: str) -> None:
        """Record that a program has read a value of a mapping."""
        if path not in self._taken_over and not _is_copying():
            self.read.add(path)

    def watch(self, kind: type, fields: Mapping[str, str]) -> contextlib.AbstractContextManager:
        """Record the fields that are read from instances of a class."""

        def look(instance: object, name: str) -> object:
            value = object.__getattribute__(instance, name)
            if name in fields and not _is_copying():
                self.read.update(leaves({fields[name]: value}))
            return value

        return mock.patch.object(kind, "__getattribute__", look)


class Recorder(dict):
    """A part of the settings that records each value that is read from it.

    Args:
        values: the settings that the rule declares.
        beyond: the same part of the whole config. If a program reads a setting that is not
            declared, it gets the value from here, so that it does not fail, and this is recorded.
    """

    def __init__(self, values: Mapping, beyond: Mapping, log: Log, prefix: str = "") -> None:
        super().__init__(values)
        self._beyond, self._log, self._prefix = beyond, log, prefix

    def __getitem__(self, key: str) -> object:
        path, beyond = self._prefix + key, self._beyond.get(key)
        value = dict.get(self, key, {} if isinstance(beyond, Mapping) else beyond)
        if isinstance(value, Mapping) and (value or beyond):
            return Recorder(value, beyond or {}, self._log, f"{path}.")
        self._log.note(path)
        if not super().__contains__(key) and key not in self._beyond:
            raise KeyError(path)
        return value

    # The methods of `dict` would read the values without calling `__getitem__`.
    def __iter__(self) -> Iterator[str]:
        return iter(list(super().keys()))

    def __contains__(self, key: object) -> bool:
        self._log.note(f"{self._prefix}{key}")
        return super().__contains__(key)

    def get(self, key: str, default: object = None) -> object:
        try:
            return self[key]
        except KeyError:
            return default

    def items(self) -> list:
        return [(key, self[key]) for key in self]

    def values(self) -> list:
        return [self[key] for key in self]


@contextlib.contextmanager
def recording(whole: Mapping, log: Log) -> Iterator[None]:
    """Within the block, programs that are called get a `Recorder` as their settings.

    Args:
        whole: the whole config.
    """
    original = cli.Parser.__init__

    def make(parser: cli.Parser, *arguments: object, **options: object) -> None:
        original(parser, *arguments, **options)
        (action,) = (action for action in parser._actions if action.dest == "settings")
        action.type = lambda text: Recorder(json.loads(text), whole, log)

    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(cli.Parser, "__init__", make))
        for kind, fields in log.typed.items():
            patches.enter_context(log.watch(kind, fields))
        yield


def leaves(settings: Mapping, prefix: str = "") -> Iterator[str]:
    """The dotted names of all values."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key
