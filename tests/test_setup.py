"""The build hook: what it decides from the environment. Nothing is compiled here."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

import hcnr

pytest.importorskip("setuptools")


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hook", Path(__file__).parents[1] / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(hook: ModuleType, tmp_path: Path):
    from setuptools import Distribution

    found = hook.BuildNative(Distribution())
    found.build_lib = str(tmp_path)
    return found


def test_machine_code_for_each_and_ptx_of_the_newest(hook: ModuleType) -> None:
    assert hook.architecture_flags("90a;80, 100f") == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_100f,code=sm_100f",
        "-gencode=arch=compute_100,code=compute_100",
    ]


@pytest.mark.parametrize("wanted", ["", ";", "sm_90", "9.0", "90a;x"])
def test_architectures_that_are_none(hook: ModuleType, wanted: str) -> None:
    with pytest.raises(hook.BuildError, match=re.escape(f"not {wanted!r}")):
        hook.architecture_flags(wanted)


def test_with_and_without_nvcc(hook, command, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.touch(mode=0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("HCNR_CUDA", raising=False)
    assert command._nvcc() == (None, "nvcc was not found")
    monkeypatch.setenv("HCNR_CUDA", "1")
    with pytest.raises(hook.BuildError, match="neither on PATH nor in CUDA_HOME"):
        command._nvcc()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert command._nvcc()[0] == str(nvcc)
    monkeypatch.setenv("HCNR_CUDA", "0")
    assert command._nvcc() == (None, "HCNR_CUDA=0")
    monkeypatch.setenv("HCNR_CUDA", "yes")
    with pytest.raises(hook.BuildError, match="must be 0 or 1, not 'yes'"):
        command._nvcc()


def test_a_build_that_fails_is_skipped(
    hook, command, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("HCNR_CUDA", "0")
    command.build_extension(hook.Extension("hcnr_kernels._native", []))
    assert "extension was not built. There is no C++ compiler" in capfd.readouterr().err


@pytest.mark.parametrize("required", [False, True])
def test_what_was_built_before_does_not_stand_in(
    hook, command, required: bool, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """CUDA fails: the host code alone is built, unless CUDA was asked for; nothing old is left."""
    monkeypatch.setenv("HCNR_CUDA", "1" if required else "")
    monkeypatch.setattr(hook, "find_nvcc", lambda: "nvcc")
    extension = hook.Extension("hcnr_kernels._native", [])
    old = Path(command.get_ext_fullpath(extension.name))
    old.parent.mkdir(parents=True)
    old.touch()
    ways: list[object] = []

    def build(_, nvcc: str | None, reason: str, wanted: list[str]) -> None:
        ways.append((nvcc, reason))
        assert not old.exists() and wanted
        if nvcc is not None:
            raise hook.BuildError("It is too old.")

    monkeypatch.setattr(command, "_build", build)
    if required:
        with pytest.raises(hook.BuildError, match="too old"):
            command.build_extension(extension)
    else:
        command.build_extension(extension)
        assert "not built with CUDA. It is too old." in capfd.readouterr().err
    assert ways == [("nvcc", ""), (None, "nvcc failed")][: 1 if required else 2]


@pytest.mark.parametrize(("name", "value"), [("HCNR_CUDA", "yes"), ("HCNR_CUDA_ARCHS", "sm_80")])
def test_variables_that_mean_nothing_are_errors(
    hook, command, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(hook.BuildError, match=name):
        command.build_extension(hook.Extension("hcnr_kernels._native", []))


def test_headers_of_pybind11_are_found_without_importing_torch(hook: ModuleType) -> None:
    assert Path(hook.find_pybind11(), "pybind11", "pybind11.h").exists()


def test_what_a_command_says_is_quoted(hook: ModuleType) -> None:
    if shutil.which("sh") is None:
        pytest.skip("no sh")
    assert hook.run(["sh", "-c", "echo fine"]) == "fine\n"
    with pytest.raises(hook.BuildError, match="sh failed:\nbad news"):
        hook.run(["sh", "-c", "echo bad news >&2; exit 3"])
    with pytest.raises(hook.BuildError, match="does not start"):
        hook.run(["no-such-program"])


def _git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", *identity, "-C", str(root), *arguments]
    subprocess.run(command, check=True, capture_output=True)


def _state(root: Path, version: str) -> None:
    (root / "hcnr").mkdir(parents=True, exist_ok=True)
    (root / "hcnr" / "_version.py").write_text(f'"""The version."""\n\n__version__ = "{version}"\n')


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One commit that states 0.1.0, without a tag."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    root = tmp_path / "repository"
    _state(root, "0.1.0")
    _git(root, "init", "--quiet")
    _git(root, "add", ".")
    _git(root, "commit", "--quiet", "-m", "one")
    return root


def test_without_a_tag_the_version_is_the_stated_one(hook: ModuleType, repository: Path) -> None:
    assert hook.version(repository) == "0.1.0"
    _git(repository, "tag", "nightly")
    _git(repository, "tag", "v1")
    assert hook.version(repository) == "0.1.0"


def test_a_tag_is_the_version_and_commits_after_it_count(hook: ModuleType, repository) -> None:
    _git(repository, "tag", "v0.1.0")
    assert hook.version(repository) == "0.1.0"
    _git(repository, "commit", "--quiet", "--allow-empty", "-m", "two")
    assert re.fullmatch(r"0\.1\.1\.dev1\+g[0-9a-f]{7,}", hook.version(repository))
    _state(repository, "0.2.0")
    assert re.fullmatch(r"0\.2\.0\.dev1\+g[0-9a-f]{7,}", hook.version(repository))


def test_a_tag_that_is_not_the_stated_version_is_an_error(hook: ModuleType, repository) -> None:
    _git(repository, "tag", "-a", "v0.2.0", "-m", "two")
    with pytest.raises(hook.BuildError, match=r"tag v0\.2\.0 is on this commit, .* states 0\.1\.0"):
        hook.version(repository)


def test_a_shallow_clone_has_the_stated_version(hook: ModuleType, repository, tmp_path) -> None:
    _git(repository, "tag", "v0.1.0")
    _git(repository, "commit", "--quiet", "--allow-empty", "-m", "two")
    clone = tmp_path / "clone"
    _git(tmp_path, "clone", "--quiet", "--depth", "1", repository.as_uri(), str(clone))
    assert hook.version(clone) == "0.1.0"


def test_a_source_distribution_inside_another_repository_ignores_it(
    hook: ModuleType, repository: Path
) -> None:
    _git(repository, "tag", "v0.1.0")
    _git(repository, "commit", "--quiet", "--allow-empty", "-m", "two")
    _state(repository / "vendored", "0.0.7")
    assert hook.version(repository / "vendored") == "0.0.7"


def test_without_git_the_version_is_the_stated_one(
    hook: ModuleType, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _git(repository, "tag", "v3.0.0")
    monkeypatch.setenv("PATH", "")
    assert hook.version(repository) == "0.1.0"


def test_a_version_that_is_not_stated_is_an_error(hook: ModuleType, repository: Path) -> None:
    (repository / "hcnr" / "_version.py").write_text("__version__ = compute()\n")
    with pytest.raises(hook.BuildError, match=r"states no __version__"):
        hook.version(repository)


def test_what_is_built_states_the_version(hook: ModuleType, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    source = Path("hcnr", "_version.py").read_text()
    target = tmp_path / "_version.py"
    hook.write_version(target, "1.2.3.dev4+g0abcdef")
    names: dict = {}
    exec(target.read_text(), names)
    assert names["__version__"] == "1.2.3.dev4+g0abcdef"
    assert Path("hcnr", "_version.py").read_text() == source


def test_this_tree_states_the_version_that_is_imported(hook: ModuleType) -> None:
    text = (Path(__file__).parents[1] / "hcnr" / "_version.py").read_text()
    assert hook.STATED.search(text)[1] == hcnr.__version__


@pytest.mark.parametrize(("choice", "count"), [("", 1), ("1", 1), ("0", 0), ("no", None)])
def test_the_extension_can_be_left_out(
    hook: ModuleType, choice: str, count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HCNR_NATIVE", choice)
    if count is None:
        with pytest.raises(hook.BuildError, match="HCNR_NATIVE must be 0 or 1, not 'no'"):
            hook.native()
    else:
        assert len(hook.native()) == count
