"""Run benchmarks, and print a table with ratios; the exit code is 1 if a bound is not kept.

Each module of this package has a function `rows()` that measures and yields `Row`s.
"""

import argparse
import dataclasses
import importlib
import json
import os
import pkgutil
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tests.bench
from tests.bench import Row

_FOUND = pkgutil.iter_modules(tests.bench.__path__)
# Subpackages such as `photos` are separate programs and not run here.
MODULES = sorted(m.name for m in _FOUND if m.name[0] != "_" and not m.ispkg)

# Environment variables that keep libraries from using instruction sets that the processor has.
LIMITS = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "MKL_ENABLE_INSTRUCTIONS",
)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks of the modules that `argv` names, or of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help=f"default: all of {', '.join(MODULES)}"
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="file to write all numbers to; it keeps those of modules that are not run now",
    )
    options = parser.parse_args(argv)
    names = options.modules or MODULES
    if unknown := sorted(set(names) - set(MODULES)):
        parser.error(f"there is no module {unknown[0]}; choose from {', '.join(MODULES)}")
    # The same value as in the workflow's jobs. OpenMP reads it when a module imports its libraries.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    print(
        f"{processor()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} "
        "(other load on the machine makes times too long)",
        flush=True,
    )
    found: list[Row] = []
    start = time.perf_counter()
    for name in names:
        own: list[Row] = []
        for row in importlib.import_module(f"tests.bench.{name}").rows():
            own.append(row)
            passed = f"{time.perf_counter() - start:6.0f} s"
            ratio = "" if row.ratio is None else f", {row.ratio:.2g} of {row.against}"
            print(
                f"{passed}  {name}: {row.what}: {row.value:.3g} {row.unit}{ratio}",
                file=sys.stderr,
                flush=True,
            )
        found += own
        if options.json and own:
            write_json(options.json, name, own)
    print(table(found))
    print(f"\nMeasured on: {processor()}")
    minutes = (time.perf_counter() - start) / 60
    print(f"{minutes:.0f} min, load at the end {os.getloadavg()[0]:.1f}")
    return int(not all(row.holds for row in found))


def write_json(path: Path, module: str, rows: Sequence[Row]) -> None:
    """Replace the rows of one module in a file, which is created if it does not exist."""
    measured = json.loads(path.read_text())["rows"] if path.exists() else []
    measured = [row for row in measured if row["module"] != module]
    for row in rows:
        measured.append({"module": module, **dataclasses.asdict(row), "holds": row.holds})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps({"machine": machine(), "rows": measured}, indent=1) + "\n")
    temporary.replace(path)


def machine() -> dict[str, str | int | None]:
    """The machine and versions that were measured; `gpu` is None without a GPU."""
    import torch

    return {
        "processor": processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    """The processor, those of its instruction sets that matter here, and which of them are used."""
    import torch

    known = hasattr(torch.cpu, "get_capabilities")  # not in older versions of PyTorch
    capabilities = torch.cpu.get_capabilities() if known else {}
    families = ("avx", "amx", "fma", "neon", "sve", "sme", "bf16", "fp16")
    has = sorted(name for name, value in capabilities.items() if value is True)
    sets = ", ".join(name for name in has if name.startswith(families))
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]
    used = ", ".join([f"PyTorch uses {torch.backends.cpu.get_cpu_capability()}", *limits])
    return f"{capabilities.get('cpu_name', platform.machine())} ({sets}; {used})"


def table(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| what | measured | reference | ratio | bound |", "| --- | --: | --: | --: | --: |"]
    for row in rows:
        reference = ratio = bound = ""
        if row.reference is not None:
            reference = f"{row.reference:.3g} {row.unit} ({row.against})"
            ratio = f"{row.ratio:.2g}"
        if row.at_most is not None:
            bound = f"≤ {row.at_most:g}" + ("" if row.holds else " **not kept**")
        lines.append(
            f"| {row.what} | {row.value:.3g} {row.unit} | {reference} | {ratio} | {bound} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
