"""Check distributions: what they hold, and that the wheel works where nothing else of ours is.

    python .ci/check_dist.py FOLDER

FOLDER holds one wheel and one source distribution. The wheel is installed, with what it asks for,
into an environment of its own, and used from an empty directory.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IN_WHEEL = {
    "hcnr/py.typed",
    "hcnr/data/starter/kuq.jsonl",
    "hcnr/data/starter/KUQ-LICENSE",
    "hcnr/report/page.css",
    "hcnr/report/page.html",
    "hcnr_kernels/py.typed",
}
IN_SOURCE = {
    *("pyproject.toml", "setup.py", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"),
    *(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.*")),
}
NOT_SHIPPED = ("tests", "bench", "experiments", "integrations", "docs")
WITHIN = """
import importlib.metadata, pathlib, sys
import hcnr, hcnr_kernels
for module in (hcnr, hcnr_kernels):
    place = pathlib.Path(module.__file__)
    assert place.is_relative_to(sys.prefix), f"{module.__name__} came from {place}"
installed = importlib.metadata.version("hcnr")
assert hcnr.__version__ == installed, f"__version__ is {hcnr.__version__}, installed is {installed}"
for name in hcnr.__all__:
    getattr(hcnr, name)
for name in hcnr_kernels.__all__:
    getattr(hcnr_kernels, name)
from hcnr.data.starter import starter_samples
assert len(starter_samples()) == 512
names = len(hcnr.__all__) + len(hcnr_kernels.__all__)
print(f"hcnr {installed}: {names} public names, 512 starter samples")
"""


def modules(folder: Path, name: str) -> set[str]:
    """The Python files of a package of the repository, by their names in a wheel."""
    return {str(path.relative_to(folder)) for path in (folder / name).rglob("*.py")}


def wheel_faults(names: set[str]) -> list[str]:
    """What a wheel of these files lacks or should not hold, a sentence each."""
    files = {name for name in names if ".dist-info/" not in name}
    wanted = IN_WHEEL | modules(ROOT, "hcnr") | modules(ROOT / "kernels", "hcnr_kernels")
    native = {name for name in files if name.startswith("hcnr_kernels/_native.")}
    return [f"the wheel lacks {name}" for name in sorted(wanted - files)] + [
        f"the wheel holds {name}" for name in sorted(files - wanted - native)
    ]


def source_faults(names: set[str]) -> list[str]:
    """The same of a source distribution; names are below its one folder."""
    python = modules(ROOT, "hcnr") | {
        f"kernels/{n}" for n in modules(ROOT / "kernels", "hcnr_kernels")
    }
    data = {name for name in IN_WHEEL if name.startswith("hcnr/")}
    wanted = IN_SOURCE | python | data
    return [f"the source distribution lacks {name}" for name in sorted(wanted - names)] + [
        f"the source distribution holds {name}"
        for name in sorted(names)
        if name.split("/")[0] in NOT_SHIPPED or name.endswith((".so", ".pyc"))
    ]


def only(folder: Path, pattern: str) -> Path:
    """The one file of this pattern."""
    paths = sorted(folder.glob(pattern))
    if len(paths) != 1:
        sys.exit(f"{folder} must hold one {pattern}, not {len(paths)}.")
    return paths[0]


def use(wheel: Path) -> None:
    """Install the wheel into a fresh environment, and run it from an empty directory."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder, "venv"), with_pip=True)
        binaries, empty = Path(folder, "venv", "bin"), Path(folder, "empty")
        empty.mkdir()
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        quiet = ("--quiet", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt"))
        for command in (
            [binaries / "python", "-m", "pip", "install", *quiet, wheel.resolve()],
            [binaries / "python", "-m", "pip", "check", "--disable-pip-version-check"],
            [binaries / "hcnr", "--version"],
            [binaries / "hcnr", "--help"],
            [binaries / "hcnr", "info"],
            [binaries / "python", "-c", WITHIN],
        ):
            done = subprocess.run(
                [str(part) for part in command],
                cwd=empty,
                env=clean,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            words = " ".join(Path(part).name if part != WITHIN else "..." for part in command)
            if done.returncode:
                sys.exit(f"In a clean environment this failed: {words}\n{done.stdout}")
            print(
                f"{words}: {(done.stdout.strip().splitlines() or ['ok'])[-1].strip()}", flush=True
            )


def main() -> None:
    """Look at both, then use the wheel."""
    if len(sys.argv) != 2:
        sys.exit("Give the folder that holds the distributions: check_dist.py FOLDER")
    wheel, source = (only(Path(sys.argv[1]), pattern) for pattern in ("*.whl", "*.tar.gz"))
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith("/")}
    with tarfile.open(source) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    faults = wheel_faults(held) + source_faults(names)
    if faults:
        sys.exit("\n".join(faults))
    print(f"{wheel.name}: {len(held)} files; {source.name}: {len(names)} files", flush=True)
    use(wheel)


if __name__ == "__main__":
    main()
