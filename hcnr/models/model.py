"""Opening a causal language model: its class, its dtype, its device, its tokenizer."""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hcnr.errors import ModelError
from hcnr.hub import LOCAL
from hcnr.models.device_memory import move
from hcnr.models.loading import check_loaded, explained

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hcnr.checkpoint import TensorInfo

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """Return the device named by the configuration; `auto` takes a GPU when there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ModelError(
            f"device is {device!r}, which torch does not know; use auto, cpu, cuda or cuda:N"
        ) from error
    if resolved.type not in ("cpu", "cuda"):
        raise ModelError(f"device is {device!r}; the operators run on cpu and cuda only")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if resolved.type == "cuda" and (resolved.index or 0) >= count:
        raise ModelError(
            f"device is {device!r} but torch sees {count or 'no'} GPUs here; use --device cpu or "
            "one that is there"
        )
    return resolved


def fast_bfloat16() -> bool:
    """Whether this machine's processor multiplies bfloat16 itself; others are far slower in it."""
    cpu = torch.cpu
    return cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()


def open_model(
    path: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    attention: str = "auto",
    computing: bool = False,
) -> "PreTrainedModel":
    """Load the causal language model in directory `path` for inference.

    Only local safetensors are read and no code of the checkpoint runs.

    Args:
        path: the checkpoint.
        device: as in the configuration.
        dtype: auto keeps the checkpoint's.
        attention: as in the configuration.
        computing: the model is computed with and not written, so that `dtype` auto may take
            float32 where the device is slow in the checkpoint's own, see `fast_bfloat16`.

    Raises:
        ModelError: transformers cannot open it; the sentence carries the cause.
        CheckpointError: it does not hold every weight of the model, or one of another shape.
    """
    # Shapes that do not fit are refused, by name.
    model = _opened(path, path, DTYPES.get(dtype), attention, use_safetensors=True, **LOCAL)
    resolved = resolve_device(device)
    if computing and dtype == "auto" and computed_dtype(model.dtype, resolved) == torch.float32:
        model.float()
    move(model, resolved)
    return model.eval()


def open_hollow(
    path: Path,
    stored: Mapping[str, "TensorInfo"],
    *,
    device: str = "auto",
    dtype: str = "auto",
    attention: str = "auto",
) -> "PreTrainedModel":
    """The same as `open_model` for computing, but without weights.

    Args:
        path: the checkpoint.
        stored: what its files hold, by name; or, by the model's names, what becomes of it.
        device: where it will compute.
        dtype: auto keeps the checkpoint's, or takes float32 where the device is slow in it.
        attention: as in the configuration.

    Returns:
        The model; its parameters are on the meta device, all apart, and its buffers on the CPU,
        those that are stored zero.

    Raises:
        ModelError: transformers cannot open it.
        CheckpointError: it does not hold every weight of the model, or one of another shape.
    """
    wanted = DTYPES.get(dtype)
    # Of any shape, in the memory of one element.
    hollow = {
        name: torch.zeros(
            (), dtype=wanted if wanted and info.dtype.is_floating_point else info.dtype
        ).expand(info.shape)
        for name, info in stored.items()
    }
    model = _opened(path, None, wanted, attention, state_dict=hollow)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty_like(parameter, device="meta")
                module._parameters[name] = nn.Parameter(empty, requires_grad=False)
    if dtype == "auto" and computed_dtype(model.dtype, resolve_device(device)) == torch.float32:
        model.float()
    return model.eval()


def _opened(
    path: Path, weights: Path | None, dtype: torch.dtype | None, attention: str, **arguments: Any
) -> Any:
    """The checkpoint's model by transformers, with weights of a directory or of `arguments`.

    Raises:
        ModelError: transformers cannot open it.
        CheckpointError: a weight is missing, or has another shape.
    """
    if attention != "auto":
        arguments["attn_implementation"] = attention
    with explained(f"{path} cannot be opened as a causal language model", path):
        kind, config = _kind_of(path)
        loaded: Any = kind.from_pretrained(
            weights,
            config=config,
            dtype=dtype or "auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **arguments,
        )
    model, loading = loaded
    check_loaded(loading, path, model)
    return model


def computable(model: "PreTrainedModel") -> "PreTrainedModel":
    """A float32 copy of a model whose dtype the processor is slow in; else the model itself."""
    if computed_dtype(model.dtype, model.device) != model.dtype:
        return copy.deepcopy(model).float()
    return model


def computed_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What weights of a dtype are computed in where nothing is asked for: float32 where far faster.

    That is on a processor, from float16, and from bfloat16 where it has no instructions for it.
    """
    slow = dtype == torch.float16 or (dtype == torch.bfloat16 and not fast_bfloat16())
    return torch.float32 if slow and device.type == "cpu" else dtype


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every layer of `model` in inference mode inside; its own mode again at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def open_skeleton(path: Path, stored: Mapping[str, "TensorInfo"]) -> "PreTrainedModel":
    """Build the model of directory `path` on the meta device: structure without weights.

    Args:
        path: the checkpoint.
        stored: what its files hold, by name; it is placed as transformers would place it.

    Raises:
        ModelError: transformers knows no such model; the sentence carries the cause.
        CheckpointError: a weight of the model is not stored, or in another shape.
    """
    failure = f"{path} does not describe a causal language model that transformers knows"
    with explained(failure, path):
        kind, config = _kind_of(path)
        loaded: Any = kind.from_pretrained(
            None,
            config=config,
            state_dict={
                name: torch.empty(info.shape, dtype=info.dtype, device="meta")
                for name, info in stored.items()
            },
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    model, loading = loaded
    check_loaded(loading, path, model)
    return model


def _kind_of(path: Path) -> tuple[Any, Any]:
    """Class and configuration of the model in directory `path`.

    The class that `architectures` names where it writes text, as multimodal models do; else the
    causal language model of the `model_type`.
    """
    import transformers

    config: Any = transformers.AutoConfig.from_pretrained(path, **LOCAL)
    for label in config.architectures or ():
        kind = getattr(transformers, label, None)
        if (
            isinstance(kind, type)
            and issubclass(kind, transformers.PreTrainedModel)
            and isinstance(config, kind.config_class or ())
            and kind.can_generate()
            and not config.is_encoder_decoder
        ):
            return kind, config
    with torch.device("meta"):
        # Decides the class, and refuses where there is none.
        auto = transformers.AutoModelForCausalLM
        model: Any = auto.from_config(config, trust_remote_code=False)
    # Of a multimodal configuration it may be that of the text alone.
    return type(model), config if isinstance(config, type(model).config_class) else model.config


def open_tokenizer(source: "str | Path | PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """Return the tokenizer at `source` (a directory), or `source` itself if it is one already."""
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    if isinstance(source, PreTrainedTokenizerBase):
        return source
    source = Path(source).expanduser() if str(source).startswith("~") else source
    cure = "; put the tokenizer's files there or name another one with --tokenizer"
    with explained(f"no tokenizer can be loaded from {str(source)!r}", cure=cure):
        return AutoTokenizer.from_pretrained(source, **LOCAL)
