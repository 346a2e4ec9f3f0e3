"""The file with the GPU seconds of the stages, which `forecast` reads and benchmarks fill."""

import json
import os
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from workflow_scripts.maskdistill.errors import InputError
from workflow_scripts.maskdistill.files.atomic import write_text
from workflow_scripts.maskdistill.files.json_io import read_json

ABOUT = (
    "GPU seconds of the stages at the paper's sizes, for `make plan`: measured by `make bench-gpu` "
    "and written by `python -m workflow_scripts.fill_throughput`."
)


class _Row(BaseModel):
    """One measurement; those without a rule are not used."""

    what: str
    value: float
    unit: str
    rule: str = ""
    per: str = ""


class _Machine(BaseModel):
    gpu: Annotated[str, Field(min_length=1)]
    torch: str
    date: str


class _Benchmarks(BaseModel):
    """The file that `python -m tests.bench --json FILE` writes."""

    machine: _Machine
    rows: list[_Row]


def measured_throughput(measured: object, rules: dict[str, dict]) -> dict:
    """The content of resources/throughput.json from measurements on a GPU.

    Args:
        measured: content of the benchmarks' JSON file.
        rules: rule → {"per", …}, the `rules` of the file that is replaced.

    Raises:
        ValueError: not a file of benchmarks, not measured on a GPU, a rule is missing or occurs
            twice, or a number is not in seconds per the unit of the rule's old entry.
    """
    try:
        benchmarks = _Benchmarks.model_validate(measured)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{place}: {first['msg']}") from None
    found: dict[str, dict] = {}
    for row in benchmarks.rows:
        if not row.rule:
            continue
        if row.rule not in rules:
            raise ValueError(f"{row.what}: there is no rule {row.rule}")
        if row.rule in found:
            raise ValueError(f"{row.rule} was measured twice")
        if not row.unit.startswith("s/") or row.per != rules[row.rule]["per"]:
            per = rules[row.rule]["per"]
            raise ValueError(f"{row.what}: {row.unit} per {row.per}, not seconds per {per}")
        if not 0 < row.value < float("inf"):
            raise ValueError(f"{row.what}: {row.value} seconds are not a valid time")
        found[row.rule] = {
            "seconds": float(f"{row.value:.3g}"),
            "per": row.per,
            "basis": f"measured: {row.what}",
        }
    if missing := [rule for rule in rules if rule not in found]:
        raise ValueError(f"not measured: {', '.join(missing)}")
    machine = benchmarks.machine
    return {
        "about": ABOUT,
        "gpu": f"{machine.gpu}, PyTorch {machine.torch}, {machine.date}",
        "rules": {rule: found[rule] for rule in rules},
    }


def fill(measured: str | os.PathLike, throughput: str | os.PathLike) -> dict:
    """Replace resources/throughput.json by measurements, all of it or nothing.

    Args:
        measured: JSON file of the benchmarks.
        throughput: file to replace; it lists the rules and the unit that each one's seconds are
            per, for instance image.

    Returns:
        The new content.

    Raises:
        InputError: a file is missing or damaged, or not everything was measured on a GPU; nothing
            is written.
    """
    content = read_json(measured, remedy="make bench-gpu writes it on a machine with a GPU")
    rules = read_json(throughput, remedy="take it from the repository")["rules"]
    try:
        filled = measured_throughput(content, rules)
    except ValueError as error:
        raise InputError(
            f"{measured}: {error}; run make bench-gpu on a machine with a GPU to its end"
        ) from None
    write_text(throughput, json.dumps(filled, indent=2) + "\n")
    return filled
