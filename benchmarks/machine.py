"""What a measurement was made on, and how it is kept: part of every results file.

    results.json    benchmark · machine · protocol · what was measured

A number without these says nothing: versions and the commit decide what ran, the machine how fast.
Standard library only, so that a script which measures memory stays small itself.
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "zofx", "numpy", "safetensors", "tokenizers", "torch", "transformers", "bitsandbytes",
    "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu",
)  # fmt: skip
ROOT = Path(__file__).parents[1]


def describe() -> dict[str, Any]:
    """Processor, memory, system, versions and commit of this process."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_bytes": _memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
        "commit": commit(),
    }


def commit() -> str | None:
    """The checked-out commit, with "+changes" if tracked files differ; None outside git."""
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{head}+changes" if head and changed else head


def save(path: Path, results: Mapping[str, Any]) -> None:
    """Write a results file; it is whole, or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    beside.replace(path)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _memory() -> int | None:
    """Physical memory in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _git(*words: str) -> str | None:
    try:
        ended = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return ended.stdout.strip()
