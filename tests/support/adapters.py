"""Adapters of the real PEFT on tiny models, with weights that are far from their start."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from hcnr.checkpoint import Checkpoint


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Inside, nothing that PEFT warns of is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def lora(**options: Any) -> Any:
    """Settings of a LoRA of rank 3 on q and v."""
    from peft import LoraConfig

    known = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
    return LoraConfig(**{"task_type": "CAUSAL_LM", **known, **options})


def adapted(model: nn.Module, config: Any, *, seed: int = 5, scale: float = 0.1) -> Any:
    """PEFT's model with every trainable weight moved: a stand-in for training."""
    from peft import get_peft_model

    with silent(), torch.random.fork_rng():
        torch.manual_seed(seed)
        peft_model: Any = get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(seed)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_((scale * noise).to(parameter.dtype))
    return peft_model.eval()


def write_adapter(base: Path, directory: Path, config: Any = None, **options: Any) -> Path:
    """Write the directory of an adapter on the checkpoint in `base`."""
    model = AutoModelForCausalLM.from_pretrained(base)
    with silent():
        adapted(model, lora() if config is None else config, **options).save_pretrained(directory)
    return directory


def merged(base: Path, adapter: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The state that PEFT's own `merge_and_unload` leads to, in `dtype`."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    with silent(), torch.no_grad():
        peft_model: Any = PeftModel.from_pretrained(model, str(adapter))
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(dtype)
        return peft_model.merge_and_unload().state_dict()


def merged_by_user(on: Path, directory: Path) -> dict[str, torch.Tensor]:
    """What a user gets, with transformers and PEFT alone."""
    from peft import PeftModel

    with silent():
        model = AutoModelForCausalLM.from_pretrained(on)
        adapted: Any = PeftModel.from_pretrained(model, str(directory))
        return adapted.merge_and_unload().state_dict()


def assert_equal(directory: Path, state: dict[str, torch.Tensor]) -> None:
    """The state is that of a whole checkpoint, to the rounding of float32."""
    full = Checkpoint.open(directory)
    for name in full.tensors:
        torch.testing.assert_close(state[name], full.load(name), rtol=0, atol=2e-6)
