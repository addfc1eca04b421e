"""What this machine is: printed, and written as JSON for the report."""

import argparse
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch

PACKAGES = ("torch", "triton", "transformers", "numpy", "pydantic", "pytest", "pytest-xdist",
            "pytest-benchmark", "kronfluence")  # fmt: skip


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def answer(*command: str) -> str:
    """First line of what a program prints; empty where it is missing, fails or hangs."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return ""
    lines = process.stdout.strip().splitlines()
    return lines[0].strip() if process.returncode == 0 and lines else ""


def facts(device: torch.device) -> dict[str, str]:
    machine: dict[str, str] = {}
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        driver = answer("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        machine = {
            "name": card.name,
            "capability": f"{card.major}.{card.minor}",
            "multiprocessors": str(card.multi_processor_count),
            "memory": f"{card.total_memory / 2**30:.1f} GiB",
            "driver": driver or "unknown",
            "cuda": str(torch.version.cuda),
        }
    else:
        machine = {"name": "cpu dry run", "processor": platform.machine()}
    machine["python"] = platform.python_version()
    machine |= {package: version(package) for package in PACKAGES}
    machine["date"] = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    commit = answer("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    return machine | ({"commit": commit} if commit else {})


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda
        reason = "its torch is a CPU build" if built is None else "torch sees none"
        print(f"make gpu needs a machine with an NVIDIA GPU; {sys.executable}: {reason}.")
        return 2
    known = facts(device)
    for name, value in known.items():
        print(f"{name:18} {value}")
    arguments.json.write_text(json.dumps(known))
    return 0


if __name__ == "__main__":
    sys.exit(main())
