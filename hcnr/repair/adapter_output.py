"""A repair as a LoRA adapter: what it changed of a checkpoint, as products of low rank."""

import copy
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from hcnr.config import RestoreConfig
from hcnr.directories import ADAPTER
from hcnr.errors import ConfigError, ModelError
from hcnr.models.adapter_files import ADAPTER_WEIGHTS, adapter_settings
from hcnr.models.adapters import merge_into, peft_version, words
from hcnr.models.directory import DirectorySource
from hcnr.models.linear import Expert, is_linear, is_transposed
from hcnr.models.loading import explained
from hcnr.models.model import open_skeleton, resolve_device
from hcnr.models.pair import Pair, Role
from hcnr.models.source import ModelSource, Source
from hcnr.record.files.restoration import AdapterMatrix, AdapterRecord

__all__ = ["AdapterOutput", "Factors", "factorise"]

RANK = 64
"""Largest rank of a matrix where none is asked for."""


class Factors(NamedTuple):
    """A change of a weight as a product of low rank.

    Attributes:
        down: A, float32 `[rank, in]`.
        up: B, float32 `[out, rank]`; the change is about `up @ down`.
        left_out: Frobenius norm of what the product leaves out.
        norm: Frobenius norm of the change.
        exact: whether what is left out is below the rounding of the weight's own dtype.
    """

    down: Tensor
    up: Tensor
    left_out: float
    norm: float
    exact: bool

    @property
    def rank(self) -> int:
        """Number of rows of A."""
        return self.down.shape[0]

    @property
    def error(self) -> float:
        """Relative Frobenius error, 0 to 1."""
        return self.left_out / self.norm if self.norm else 0.0


def factorise(changed: Tensor, before: Tensor, rank: int) -> Factors | None:
    """Truncate `changed - before` by SVD, which is the nearest product of its rank.

    The rank is the smallest whose remainder is below the rounding of `changed`, but no larger than
    `rank`.

    Args:
        changed: weight `[out, in]`, whose dtype says what rounding is.
        before: the weight that the product will be added to, on the same device.
        rank: the largest rank.

    Returns:
        The factors on the CPU; None where nothing differs.
    """
    change = changed.float() - before.float()
    norm = float(change.norm())
    if norm == 0:
        return None
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    # Norm of what is left out from each rank on, 0 behind the last.
    tails = s.square().flip(0).cumsum(0).flip(0).sqrt()
    tails = torch.cat((tails, tails.new_zeros(1)))
    dtype = changed.dtype if changed.dtype != torch.float64 else torch.float32
    below = tails <= torch.finfo(dtype).eps * float(changed.float().norm())
    wanted = max(int(below.nonzero()[0]), 1)
    width = min(wanted, rank)
    root = s[:width].sqrt()
    down, up = (root[:, None] * vh[:width]).contiguous(), (u[:, :width] * root).contiguous()
    left_out = float((change - up @ down).norm())
    return Factors(down.cpu(), up.cpu(), left_out, norm, wanted <= rank)


@dataclass(frozen=True)
class AdapterOutput:
    """How a run's result is written as an adapter.

    Attributes:
        pair: base and tuned.
        role: what the adapter is put on: base where tuned was an adapter itself, else tuned.
        rank: the largest rank of a matrix.
        names: matrices that differ between the two without any repair; empty where `role` is tuned.
    """

    pair: Pair
    role: Role
    rank: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, pair: Pair, rank: int | None, out: Any) -> "AdapterOutput":
        """Decide what the adapter is put on; everything that can be refused is refused here.

        Raises:
            ConfigError: there is no output directory, the rank is below 1, or tuned is the merged
                copy of an adapter in memory.
            ModelError: PEFT is missing, or tuned changes what no adapter holds.
        """
        if out is None:
            raise ConfigError(
                "out_format is 'adapter', and out is None; name a directory for the adapter"
            )
        if rank is not None and rank < 1:
            raise ConfigError(f"adapter_rank is {rank}; it must be at least 1")
        peft_version()
        tuned = pair.tuned
        layers = tuned.matrices(("*",), ())
        if experts := [name for name in pair.matrices if isinstance(layers[name], Expert)]:
            raise ConfigError(
                f"out_format is 'adapter', and {experts[0]} (with {len(experts) - 1} more) is one "
                "expert of a tensor that no adapter holds a part of; leave experts out with "
                "--ignore '*.experts.*', or write the full form (--out-format full)"
            )
        if isinstance(tuned, ModelSource) and tuned.notes:
            raise ConfigError(
                f"tuned ({tuned}) was merged in memory from an adapter, so no directory holds what "
                "the result would be put on; name base and adapter as directories"
            )
        own = tuned.resolved if isinstance(tuned, DirectorySource) else None
        if own is None or own.base is None:
            return cls(pair, "tuned", rank or RANK, ())
        assert isinstance(tuned, DirectorySource) and isinstance(pair.base, DirectorySource)
        return cls(pair, "base", rank or RANK, tuple(_differing(pair.base, tuned)))

    @property
    def on(self) -> Source:
        """The model that the adapter is put on."""
        return self.pair.at(self.role)

    def write(
        self,
        directory: Path,
        selected: Iterable[str],
        weight: Callable[[str], Tensor],
        config: RestoreConfig,
    ) -> AdapterRecord:
        """Write `adapter_config.json`, the weights and tuned's tokenizer.

        Args:
            directory: an existing directory.
            selected: matrices that were repaired.
            weight: gives the repaired weight `[out, in]` of one.
            config: of the run; decides the device of the SVD.

        Returns:
            What the report says of it.

        Raises:
            ModelError: nothing differs, so there is nothing to write.
        """
        device, repaired = resolve_device(config.device), set(selected)
        by_matrix: dict[str, Factors] = {}
        for name in dict.fromkeys([*self.names, *selected]):
            changed = weight(name) if name in repaired else self.pair.tuned.weight(name)
            factors = factorise(changed.to(device), self.on.weight(name).to(device), self.rank)
            if factors is not None:
                by_matrix[name] = factors
        if not by_matrix:
            raise ModelError(
                f"the result equals {self.role} ({self.on}), so an adapter would hold nothing; "
                "raise the ratios, or write the full form"
            )
        self._save(directory, by_matrix)
        left_out, norm = (
            math.sqrt(math.fsum(getattr(one, key) ** 2 for one in by_matrix.values()))
            for key in ("left_out", "norm")
        )
        return AdapterRecord(
            on=self.role,
            base=str(self.on),
            rank=self.rank,
            error=left_out / norm,
            exact=all(one.exact for one in by_matrix.values()),
            matrices={name: AdapterMatrix.model_validate(one) for name, one in by_matrix.items()},
        )

    def _save(self, directory: Path, by_matrix: Mapping[str, Factors]) -> None:
        from peft import LoraConfig

        ranks = {name: factors.rank for name, factors in by_matrix.items()}
        largest = max(ranks.values())
        smaller = {name: rank for name, rank in ranks.items() if rank != largest}
        with explained("the adapter cannot be written"):
            settings = LoraConfig(
                r=largest,
                lora_alpha=largest,
                # Equal to the rank everywhere, so that the factors are the change itself.
                rank_pattern=smaller,
                alpha_pattern=smaller,
                lora_dropout=0.0,
                target_modules=list(by_matrix),
                task_type="CAUSAL_LM",
                base_model_name_or_path=self._named,
                inference_mode=True,
                fan_in_fan_out=self._transposed(by_matrix),
            )
            settings.save_pretrained(str(directory))
        _ordered(directory)
        prefix = "base_model.model."
        save_file(
            {
                f"{prefix}{name}.{part}.weight": tensor
                for name, factors in by_matrix.items()
                for part, tensor in (("lora_A", factors.down), ("lora_B", factors.up))
            },
            directory / ADAPTER_WEIGHTS,
            metadata={"format": "pt"},
        )
        tuned = self.pair.tuned
        for file in words(tuned.path) if isinstance(tuned, DirectorySource) else ():
            shutil.copyfile(file, directory / file.name)

    def _transposed(self, matrices: Iterable[str]) -> bool:
        """Whether the layers store their transpose, as PEFT wants to be told."""
        layers = self.on.matrices(("*",), ())
        return any(is_transposed(layers.get(name)) for name in matrices)

    @property
    def _named(self) -> str:
        """What the adapter names as its base."""
        on = self.on
        return on.model.name_or_path or "" if isinstance(on, ModelSource) else str(on)

    def merged(self, directory: Path, model: Any) -> Any:
        """The written adapter, merged into an opened model of `on`; one in memory is copied.

        Raises:
            HcnrError: what was written cannot be put on it.
        """
        subject = copy.deepcopy(model) if isinstance(self.on, ModelSource) else model
        return merge_into(subject, adapter_settings(directory))


def _differing(base: DirectorySource, tuned: DirectorySource) -> list[str]:
    """Linear layers that differ between base and an adapter's merged checkpoint.

    Raises:
        ModelError: something else differs, which is no product of low rank.
    """
    modules = dict(open_skeleton(base.path, base.checkpoint.tensors).named_modules())
    differing = []
    for name in tuned.parameters:
        before, after = base.parameter(name), tuned.parameter(name)
        assert after is not None
        if before is not None and torch.equal(before, after):
            continue
        module = name.removesuffix(".weight")
        if before is None or not is_linear(modules.get(module)) or module == name:
            raise ModelError(
                f"tuned ({tuned}) changes {name}, which is no linear layer, so its repair is no "
                "LoRA adapter on base; write the full form (--out-format full)"
            )
        differing.append(module)
    return differing


def _ordered(directory: Path) -> None:
    """Write the settings again in an order that is the same in every run."""
    file = directory / ADAPTER
    content = json.loads(file.read_text(encoding="utf-8"))
    content["target_modules"] = sorted(content["target_modules"])
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
