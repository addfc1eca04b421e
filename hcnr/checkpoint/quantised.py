"""Quantised weights, and the traces that quantisation leaves in checkpoints that have none."""

from collections import Counter

import torch

from hcnr.checkpoint.reader import Checkpoint
from hcnr.errors import CheckpointError

# Endings of the tensors that quantised formats store, and who writes them.
FORMATS = {
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".g_idx": "GPTQ",
    ".weight_packed": "compressed-tensors",
    ".weight_scale": "FP8 or compressed-tensors",
    ".weight_scale_inv": "FP8",
    ".absmax": "bitsandbytes",
    ".quant_map": "bitsandbytes",
    ".SCB": "bitsandbytes",
    "_proj_blocks": "MXFP4",
}
STATE = ".quant_state."
CODES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2)
REVERSIBLE = ("bitsandbytes", "higgs")
"""What transformers' `model.dequantize()` knows a way back from; the rest have none there."""


def check_unquantised(checkpoint: Checkpoint) -> None:
    """Refuse quantised weights, and a configuration that says so of weights that are not.

    Raises:
        CheckpointError: with the true cause, told from the stored tensors and from `config.json`.
    """
    settings = checkpoint.config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, dict) else settings
    for name, info in checkpoint.tensors.items():
        kind = "bitsandbytes" if STATE in name else None
        kind = kind or next((FORMATS[end] for end in FORMATS if name.endswith(end)), None)
        # A format of any name stores codes, where the configuration says that there is one.
        codes = name.endswith(".weight") or (settings and not name.endswith(".bias"))
        if kind is None and codes and info.dtype in CODES:
            kind = str(info.dtype).removeprefix("torch.")
        if kind is not None:
            named = f"quant_method: {method}" if settings else "config.json does not say so"
            raise CheckpointError(
                f"'{checkpoint.path}' is quantised ({named}): it holds {name!r} ({kind}), and "
                f"plain weights were expected; {_cure(method)}"
            )
    if settings:
        dtypes = Counter(info.dtype for info in checkpoint.tensors.values())
        usual = str(dtypes.most_common(1)[0][0]).removeprefix("torch.")
        raise CheckpointError(
            f"the config.json of '{checkpoint.path}' has a quantization_config (quant_method: "
            f"{method}) although its weights are plain {usual}, as some training frameworks leave "
            "it when they merge; delete that entry from config.json"
        )


def _cure(method: object) -> str:
    """What to do about quantised weights, by their `quant_method`."""
    before = "name the weights from before quantisation"
    if method in REVERSIBLE:
        return f"{before}, or dequantise them (`model.dequantize()`, then `save_pretrained`) first"
    if method is None:
        return f"{before}, or put the quantization_config back into config.json that it had"
    return f"{before}; transformers' `model.dequantize()` knows no way back from {method}"
