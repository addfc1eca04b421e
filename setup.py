"""Build hook: the project's metadata is in pyproject.toml; this builds `hcnr_kernels._native`.

Environment: `HCNR_NATIVE=0` leaves the extension out, for a wheel that is pure Python;
`HCNR_CUDA=0` builds without CUDA, `HCNR_CUDA=1` makes a missing nvcc or a failed build an error;
`HCNR_CUDA_ARCHS`, such as `80;90a`, chooses architectures. Neither torch nor a GPU is needed.

The version is that of git's tags, or the stated one of `hcnr/_version.py`: see `version`.
"""

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

DEFAULT_ARCHITECTURES = "80;86;89;90a"
WARNINGS = ["-Wall", "-Wextra"]
# psabi: vectors wider than the instruction set's registers never leave their source file.
HOST_KERNEL = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi"]
HOST_VARIANTS = {
    "generic": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
X86 = platform.machine() in ("x86_64", "AMD64")
SOURCES = Path("csrc")
VERSION_FILE = Path("hcnr", "_version.py")
STATED = re.compile(r'^__version__ = "(\d+\.\d+\.\d+[^"]*)"$', re.MULTILINE)


class BuildError(Exception):
    """Why something cannot be built, in one sentence."""


def version(root: Path) -> str:
    """The version of the tree at `root`, from git's tags `vX.Y.Z` where it has any.

    On a tag it is the tag's, and must be the stated one. N commits after it, it is
    `X.Y.(Z+1).devN+gCOMMIT`, or that of the stated version where this is ahead already. Without
    git, as in a source distribution, and without a tag, as in a shallow clone, it is the stated.
    """
    found = STATED.search((root / VERSION_FILE).read_text(encoding="utf-8"))
    if found is None:
        raise BuildError(f'{VERSION_FILE} states no __version__ = "X.Y.Z".')
    stated = found[1]
    if not (root / ".git").exists():  # a repository further up is not ours
        return stated
    command = ["git", "-C", str(root), "describe", "--tags", "--long", "--match", "v[0-9]*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return stated
    described = re.fullmatch(r"v(\d+)\.(\d+)\.(\d+)-(\d+)-(g[0-9a-f]+)", done.stdout.strip())
    if done.returncode or described is None:
        return stated
    *numbers, since = map(int, described.groups()[:4])
    tagged = ".".join(map(str, numbers))
    if since == 0:
        if tagged != stated:
            raise BuildError(
                f"The tag v{tagged} is on this commit, but {VERSION_FILE} states {stated}."
            )
        return tagged
    following = [*numbers[:2], numbers[2] + 1]
    ahead = [int(number) for number in re.findall(r"\d+", stated)[:3]]
    return f"{'.'.join(map(str, max(following, ahead)))}.dev{since}+{described[5]}"


def write_version(target: Path, text: str) -> None:
    """Let the copy of `hcnr/_version.py` at `target` state the version `text`."""
    stated = VERSION_FILE.read_text(encoding="utf-8")
    target.unlink(missing_ok=True)  # a hard link to the source, where setuptools makes links
    target.write_text(STATED.sub(f'__version__ = "{text}"', stated), encoding="utf-8")


class BuildPython(build_py):
    """Writes the version into what is built: the source states the fallback alone."""

    def run(self) -> None:
        """Build, then write the version; an editable install reads the source as it is."""
        super().run()
        if not self.editable_mode:
            write_version(Path(self.build_lib, VERSION_FILE), self.distribution.get_version())


class SourceDistribution(sdist):
    """Writes the version into the distribution, which has no tags to read it from."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Make the tree, then write the version."""
        super().make_release_tree(base_dir, files)
        write_version(Path(base_dir, VERSION_FILE), self.distribution.get_version())


def find_nvcc() -> str | None:
    """The CUDA compiler: on PATH, else in CUDA_HOME."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc") or (shutil.which("nvcc", path=f"{home}/bin") if home else None)


def find_pybind11() -> str:
    """pybind11's headers; torch ships a copy, for a build beside it that installs nothing."""
    for package in ("pybind11", "torch"):
        found = importlib.util.find_spec(package)
        for place in (found and found.submodule_search_locations) or ():
            if Path(place, "include", "pybind11").is_dir():
                return str(Path(place, "include"))
    raise BuildError("The headers of pybind11 were not found: pip install pybind11.")


def architecture_flags(wanted: str) -> list[str]:
    """Machine code for each architecture, and PTX of the newest for those to come."""
    names = [name for name in re.split(r"[;, ]+", wanted) if name]
    if not names or not all(re.fullmatch(r"\d+[af]?", name) for name in names):
        raise BuildError(
            f"HCNR_CUDA_ARCHS must look like {DEFAULT_ARCHITECTURES!r}, not {wanted!r}."
        )
    flags = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in names]
    newest = max((name.rstrip("af") for name in names), key=int)
    return [*flags, f"-gencode=arch=compute_{newest},code=compute_{newest}"]


def run(command: list[str]) -> str:
    """Run a command and return what it prints; a failure is a `BuildError` that quotes it."""
    print(shlex.join(command), flush=True)
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except OSError as error:
        raise BuildError(f"{command[0]} does not start: {error}.") from error
    if done.returncode:
        raise BuildError(f"{Path(command[0]).name} failed:\n{done.stdout[-4000:]}")
    return done.stdout


class BuildNative(build_ext):
    """Compiles every source in a process of its own, as many at a time as there are cores."""

    def build_extension(self, ext: Extension) -> None:
        """Build the extension; without it, or without CUDA, the package works too, and slower."""
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)  # from an earlier build
        nvcc, reason = self._nvcc()
        wanted = architecture_flags(os.environ.get("HCNR_CUDA_ARCHS") or DEFAULT_ARCHITECTURES)
        required = os.environ.get("HCNR_CUDA") == "1"
        ways = [(None, reason)] if nvcc is None else [(nvcc, ""), (None, f"{nvcc} failed")]
        for compiler, without in ways:
            try:
                return self._build(ext, compiler, without, wanted)
            except BuildError as error:
                if required:
                    raise
                cuda = " with CUDA" if compiler else ""
                print(f"hcnr's compiled extension was not built{cuda}. {error}", file=sys.stderr)

    def copy_extensions_to_source(self) -> None:
        """For an editable install: what was not built is not copied, and none from before stays."""
        for old in Path("kernels", "hcnr_kernels").glob("_native.*"):
            old.unlink()
        built = [ext for ext in self.extensions if Path(self._built(ext)).exists()]
        self.extensions, every = built, self.extensions
        super().copy_extensions_to_source()
        self.extensions = every

    def _built(self, ext: Extension) -> str:
        return os.path.join(self.build_lib, self.get_ext_filename(self.get_ext_fullname(ext.name)))

    def _build(self, ext: Extension, nvcc: str | None, reason: str, wanted: list[str]) -> None:
        pybind11 = find_pybind11()
        compiler = shlex.split(os.environ.get("CXX", "")) or ["c++"]
        if shutil.which(compiler[0]) is None:
            raise BuildError(f"There is no C++ compiler: {compiler[0]} was not found.")
        objects = Path(self.build_temp) / "native"
        objects.mkdir(parents=True, exist_ok=True)
        compile_host = [*compiler, "-std=c++17", "-fPIC", "-fvisibility=hidden", *WARNINGS, "-c"]
        commands: dict[str, list[str]] = {}
        definitions = ["-DHCNR_X86"] if X86 else []
        for variant in HOST_VARIANTS if X86 else ["generic"]:
            flags = [*HOST_KERNEL, *HOST_VARIANTS[variant], f"-DHCNR_VARIANT={variant}"]
            commands[f"host_{variant}.o"] = [*compile_host, *flags, "csrc/host_kernel.cpp"]
        versions = run([*compiler, "--version"]).splitlines()[:1]
        link: list[str] = []
        if nvcc is not None:
            commands["device.o"] = [
                *(nvcc, "-std=c++17", "-O3", "--threads", "2", *wanted),
                *("-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"),
                *(("-ccbin", compiler[0]) if len(compiler) == 1 else ()),
                *("-c", "csrc/device.cu"),
            ]
            release = re.search(r"release [\d.]+", run([nvcc, "--version"]))
            versions.append(f"nvcc {release.group()}" if release else "nvcc")
            definitions.append("-DHCNR_WITH_CUDA")
            link = self._cuda_runtime(nvcc)
        else:
            print(f"hcnr_kernels._native is built without CUDA: {reason}.", file=sys.stderr)
            definitions.append(f'-DHCNR_WITHOUT_CUDA_REASON="{reason}"')
        commands["host.o"] = [*compile_host, "-O2", *definitions, "csrc/host.cpp"]
        commands["module.o"] = [
            *(*compile_host, "-O2", *definitions, f'-DHCNR_COMPILERS="{"; ".join(versions)}"'),
            *("-isystem", pybind11, "-isystem", sysconfig.get_path("include")),
            "csrc/module.cpp",
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            full = [[*command, "-o", str(objects / name)] for name, command in commands.items()]
            list(pool.map(run, full))
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shared = (
            ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
        )
        inputs = [str(objects / name) for name in commands]
        run([*compiler, *shared, *inputs, *link, "-pthread", "-o", str(target)])

    def _nvcc(self) -> tuple[str | None, str]:
        choice = os.environ.get("HCNR_CUDA", "")
        if choice not in ("", "0", "1"):
            raise BuildError(f"HCNR_CUDA must be 0 or 1, not {choice!r}.")
        if choice == "0":
            return None, "HCNR_CUDA=0"
        nvcc = find_nvcc()
        if nvcc is None and choice == "1":
            raise BuildError("HCNR_CUDA=1, but nvcc was found neither on PATH nor in CUDA_HOME.")
        return nvcc, "nvcc was not found"

    def _cuda_runtime(self, nvcc: str) -> list[str]:
        """Where nvcc itself looks for libraries, and the static CUDA runtime."""
        plan = subprocess.run(
            [nvcc, "--dryrun", "-cudart", "static", "x.o"],
            capture_output=True,
            text=True,
            check=False,
        )
        libraries = re.search(r"LIBRARIES=(.*)", plan.stderr)
        folders = shlex.split(libraries.group(1)) if libraries else []
        return [*folders, "-lcudart_static", "-ldl", *(["-lrt"] if sys.platform == "linux" else [])]


def native() -> list[Extension]:
    """The compiled extension, unless `HCNR_NATIVE=0` leaves it out."""
    choice = os.environ.get("HCNR_NATIVE", "")
    if choice not in ("", "0", "1"):
        raise BuildError(f"HCNR_NATIVE must be 0 or 1, not {choice!r}.")
    if choice == "0":
        return []
    sources = sorted(str(path) for path in SOURCES.glob("*.cpp"))
    depends = sorted(str(path) for path in SOURCES.rglob("*.*"))  # for source distributions
    return [Extension("hcnr_kernels._native", sources, depends=depends)]


if __name__ == "__main__":
    setup(
        version=version(Path(__file__).resolve().parent),
        ext_modules=native(),
        cmdclass={
            "build_ext": BuildNative,
            "build_py": BuildPython,
            "sdist": SourceDistribution,
        },
    )
