"""Base class of all sections of the config: types of values, checks and messages."""

import difflib
import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from workflow_scripts.maskdistill.errors import InputError

_T = TypeVar("_T")

# Checks a float, but keeps the number as the config has it: 10 is not written as 10.0 elsewhere.
_AS_WRITTEN = WrapValidator(lambda value, check: (check(value), value)[1])

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1), _AS_WRITTEN]
Positive = Annotated[float, Field(gt=0), _AS_WRITTEN]
NotNegative = Annotated[float, Field(ge=0), _AS_WRITTEN]
Precision = Literal["float32", "bfloat16", "float16"]
ResNetDepth = Literal[10, 18, 50]
RESNET_DEPTHS = f"Depth of the ResNet: {', '.join(map(str, get_args(ResNetDepth)))}."


def listed(item: object, *, least: int = 0, most: int | None = None) -> object:
    """The type of a list of `least` to `most` items, stored as a tuple."""
    return Annotated[tuple[item, ...], Field(strict=False, min_length=least, max_length=most)]


def _check_unique(values: Collection) -> Collection:
    if len(set(values)) < len(values):
        raise PydanticCustomError("not_unique", "Input has non-unique elements")
    return values


# Annotations of a list without repetitions.
UNIQUE = (AfterValidator(_check_unique), Field(json_schema_extra={"uniqueItems": True}))


def matching(pattern: str, explanation: str) -> object:
    """The type of a text that matches a regular expression.

    Args:
        explanation: what the expression means, for messages.
    """

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise PydanticCustomError(
                "no_match",
                "Input does not match {pattern}: {explanation}",
                {"pattern": repr(pattern), "explanation": explanation},
            )
        return text

    schema = {"pattern": f"^{pattern}$", "description": explanation}
    return Annotated[str, AfterValidator(check), Field(json_schema_extra=schema)]


FileName = matching(
    r"[A-Za-z0-9_][A-Za-z0-9_.-]*",
    'Only letters without accents, digits, "_", "." and "-", because it names folders and files.',
)


class Section(BaseModel):
    """A section of the config: its keys with their defaults, bounds and descriptions."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    section: ClassVar[str] = ""  # its place in a dataset's config, for instance "masks"

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: object) -> object:
        valid = sorted(cls.model_fields)
        for key in values if isinstance(values, Mapping) else ():
            if key not in valid:
                message = f"{nearest(str(key), valid)}; valid here: {', '.join(valid)}"
                raise PydanticCustomError("unknown_key", message, {"key": str(key)})
        return values

    @model_validator(mode="after")
    def _check_rules(self, info: ValidationInfo) -> Self:
        if not info.context:
            self._check_contradictions()
        return self

    def _check_contradictions(self) -> None:
        """Check several keys against each other; raises `contradiction`."""

    @classmethod
    def read(cls, values: object) -> Self:
        """The section with these values, and defaults for other keys.

        Raises:
            InputError: one line that names the key and, if it is unknown, the most similar one.
        """
        return checked(lambda: cls.model_validate(values), values, section=cls.section)

    @classmethod
    def read_part(cls, values: Mapping) -> Self:
        """The section with only these values, without defaults.

        A program gets only the settings that its rule declares. Reading any other key raises an
        AttributeError, so that a default never silently replaces an undeclared setting. Keys are
        not checked against each other.

        Raises:
            InputError: as `read`.
        """
        part = checked(
            lambda: cls.model_validate(values, context={"part": True}), values, section=cls.section
        )
        for name in cls.model_fields.keys() - part.model_fields_set:
            del part.__dict__[name]
        return part

    def plain(self) -> dict:
        """The values as JSON values, with lists instead of tuples."""
        return json.loads(json.dumps(dict(self)))


def contradiction(key: str, message: str) -> PydanticCustomError:
    """The error of a check that involves several keys.

    Args:
        key: key within the section, or "" for the whole section.
    """
    return PydanticCustomError("contradiction", message, {"key": key})


def checked(
    validate: Callable[[], _T], values: object, *, section: str = "", source: str = ""
) -> _T:
    """The result of a validation by pydantic.

    Args:
        values: values to validate.
        section: place of the values in the config, for messages.
        source: file of the values, for messages.

    Raises:
        InputError: one line that names the key.
    """
    try:
        return validate()
    except ValidationError as error:
        where, message = _explain(error, values)
        where = ".".join(filter(None, [section, *where]))
        if message.startswith("unknown key"):
            message = message.replace("unknown key", f"unknown key {where!r}", 1)
            raise InputError(": ".join(filter(None, [source, message]))) from None
        where = where or ("the file" if source else "")
        raise InputError(": ".join(filter(None, [source, where, message]))) from None


def _explain(error: ValidationError, values: object) -> tuple[list[str], str]:
    """The keys that lead to the first error, and its message."""
    first = error.errors(include_url=False)[0]
    kind, message, given = first["type"], first["msg"], first["input"]
    where = _keys(first["loc"], values)
    if kind == "unknown_key":
        return [*where, first["ctx"]["key"]], f"unknown key{message}"
    if kind == "contradiction":
        return [*where, *filter(None, [first["ctx"]["key"]])], message
    if kind == "missing":
        return where, f"`{first['loc'][-1]}` is missing"
    message = re.sub(r"^(Input|String|Tuple|Dictionary|List)\b", lambda _: repr(given), message)
    message = message.replace("tuple", "list").replace(" after validation", "")
    message = re.sub("a valid dictionary.*", "keys and values", message)
    if kind in ("int_type", "float_type", "bool_type") and isinstance(given, str):
        message += _why_text(given)
    return where, message


def _why_text(given: str) -> str:
    """Why a number, or true or false, was read as text, or nothing if `given` is none of them."""
    if re.fullmatch(r"[-+]?\d+e[-+]?\d+", given, re.IGNORECASE):
        return " (YAML reads 1e-4 as text; write 1.0e-4)"
    if not _is_number(given) and given not in ("true", "false"):
        return ""
    return (
        " (this is text; remove the quotation marks; or, if it comes from `snakemake --config`, "
        "which reads all that stands in braces as text, write it into a file for --configfile)"
    )


def _keys(location: tuple[int | str, ...], values: object) -> list[str]:
    """The keys of the config in an error's location, without the type names that pydantic adds."""
    keys = []
    for key in location:
        if (isinstance(values, Mapping) and key in values) or isinstance(key, int):
            keys.append(str(key))
            values = values[key]
    return keys


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def nearest(word: str, valid: Collection[str]) -> str:
    """`, did you mean …?`, or nothing if no valid word is similar."""
    close = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""
