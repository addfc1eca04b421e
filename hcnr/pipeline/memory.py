"""What a run holds in memory beside its curvature: weights as they are computed with, passes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hcnr.config import RestoreConfig
from hcnr.curvature.footprint import Footprint, footprint
from hcnr.curvature.groups import free_memory
from hcnr.errors import ModelError
from hcnr.models.directory import DirectorySource
from hcnr.models.model import DTYPES, computed_dtype, resolve_device
from hcnr.models.open_models import Role
from hcnr.models.streamed.units import residence

__all__ = ["LIBRARIES", "Memory", "computed_in", "device_of_run", "plan_memory"]

LIBRARIES = {"cpu": 550_000_000, "cuda": 600_000_000}
"""Bytes that Python, torch and transformers take themselves: measured on a processor; of a GPU's
memory (context, kernels, workspaces) not measured yet."""
MARGIN = 1.25
"""A run may take so many times what is planned, for what operators hold while they run and what an
allocator keeps in pieces. The most that `python -m bench.memory` has shown, rounded up."""

_KEPT, _HEADS = 16, 128
"""For a bound that is above any model: how often a number is kept, and heads that nobody states."""


@dataclass(frozen=True)
class Memory:
    """What is there at once, in bytes.

    Attributes:
        device: `cpu` or `cuda`, where models are run.
        batch: samples of the micro-batch, tokens of each, and how many of them carry loss.
        weights: of each model as it is computed with; what is there at once, where others are read
            when their block runs.
        streamed: bytes of these others, as they are stored.
        forward: of a micro-batch beside the weights, see `Footprint`; None where a dry run is not
            possible.
        backward: likewise.
        unknown: why there is no such figure; empty where there is one.
        libraries: what the libraries take.
        free: what is free on that device here; None where it is not here, or does not say.
    """

    device: str
    batch: tuple[int, int, int]
    weights: dict[Role, int]
    streamed: dict[Role, int]
    forward: int | None
    backward: int | None
    unknown: str
    libraries: int
    free: int | None = field(compare=False)

    def sentences(self, peak: int, stage: str) -> list[str]:
        """What a reader should know, in words.

        Args:
            peak: bytes at once, libraries included.
            stage: where that is.
        """
        samples, tokens, responses = self.batch
        weights = max(self.weights.values())
        parts = [f"{weights / 1e9:.3g} GB of a model's weights"]
        if self.backward is not None:
            parts.append(
                f"{self.backward / 1e9:.3g} GB of a micro-batch ({samples} x {tokens} tokens, "
                f"{responses} of each responses) forward and backward"
            )
        parts.append(f"{self.libraries / 1e9:.3g} GB of libraries")
        most = f"about {peak / 1e9:.3g} GB of memory at once, in '{stage}': {', '.join(parts)}"
        free = "" if self.free is None else f"; {self.free / 1e9:.3g} GB are free here"
        sentences = [f"{most}, and what the stage itself holds{free}"]
        if self.unknown:
            sentences.append(
                f"what a micro-batch holds is not counted: the dry run of one ended with "
                f"'{self.unknown}'; the figures are those of weights and curvature alone"
            )
        if self.free is not None and MARGIN * peak > self.free:
            sentences.append(
                "that may be more than is free, as a run took up to a quarter more than planned: "
                "lower --token-budget (a micro-batch) or --memory-budget (curvature), leave out "
                "--no-gradient-checkpointing, or read weights block by block (--device-map auto)"
            )
        return sentences


def plan_memory(
    sources: tuple[DirectorySource, DirectorySource],
    matrices: Mapping[str, nn.Linear],
    config: RestoreConfig,
    device: torch.device | None,
    *,
    tokens_per_sample: int,
    response_tokens: int,
) -> Memory:
    """Count weights, and what a pass over the largest micro-batch adds.

    Args:
        sources: base and tuned.
        matrices: the target layers of tuned's structure.
        config: of the run.
        device: where it runs; None for a GPU that is not here.
        tokens_per_sample: tokens assumed.
        response_tokens: how many of them carry loss.
    """
    free = None if device is None else free_memory(device)
    device = device or torch.device("cuda")
    roles: dict[Role, DirectorySource] = {"base": sources[0], "tuned": sources[1]}
    dtypes = {role: computed_in(source, config, device) for role, source in roles.items()}
    samples = max(min(config.token_budget // tokens_per_sample, config.samples), 1)
    responses = min(response_tokens, tokens_per_sample)
    placed: dict[Role, tuple[int, int]] = {
        role: _placed(source, config, device, dtypes[role]) for role, source in roles.items()
    }
    counted, unknown = _dry_run(
        sources[1],
        matrices,
        samples=samples,
        tokens=tokens_per_sample,
        responses=responses,
        dtype=dtypes["tuned"],
        attention=config.attention,
        gradient_checkpointing=config.recomputes or config.streams,
    )
    return Memory(
        device=device.type,
        batch=(samples, tokens_per_sample, responses),
        weights={role: one[0] for role, one in placed.items()},
        streamed={role: one[1] for role, one in placed.items()},
        forward=None if counted is None else counted.forward,
        backward=None if counted is None else counted.backward,
        unknown=unknown,
        libraries=LIBRARIES[device.type],
        free=free,
    )


def fits_easily(
    sources: tuple[DirectorySource, DirectorySource],
    config: RestoreConfig,
    device: torch.device,
    samples: int,
    curvature: int,
    *,
    tokens_per_sample: int,
    response_tokens: int,
) -> bool:
    """Whether so much is free that nothing has to be counted, which takes seconds.

    Far more than any model holds: every number that its linear maps read or write
    `_KEPT` times in float32, attention's scores and the logits likewise, all weights three times.

    Args:
        sources: base and tuned.
        config: of the run.
        device: where it runs.
        samples: most of a data set.
        curvature: bytes of it at once.
        tokens_per_sample: of the longest sample.
        response_tokens: most that carry loss.
    """
    free = free_memory(device)
    if free is None:
        return True
    structure = sources[1].structure
    text = structure.config.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or _HEADS
    blocks = getattr(text, "num_hidden_layers", None) or _HEADS
    batch = max(min(config.token_budget // tokens_per_sample, samples), 1)
    tokens = batch * tokens_per_sample
    widths = sum(p.shape[0] + p.shape[-1] for p in structure.parameters() if p.dim())
    numbers = tokens * widths + tokens * tokens_per_sample * heads * blocks
    numbers += batch * response_tokens * int(getattr(text, "vocab_size", None) or 0)
    weights = 3 * max(_bytes(one, computed_in(one, config, device)) for one in sources)
    return weights + curvature + 4 * _KEPT * numbers + LIBRARIES[device.type] <= free / MARGIN


def device_of_run(config: RestoreConfig) -> torch.device | None:
    """The device of a run; None for a GPU that is on another machine than the plan is made on.

    Raises:
        ModelError: there is no such kind of device.
    """
    try:
        return resolve_device(config.device)
    except ModelError:
        if config.device.partition(":")[0] != "cuda":
            raise
        return None


def computed_in(
    source: DirectorySource, config: RestoreConfig, device: torch.device
) -> torch.dtype:
    """The dtype that a model's weights have in memory."""
    return DTYPES.get(config.dtype) or computed_dtype(source.structure.dtype, device)


def _placed(
    source: DirectorySource, config: RestoreConfig, device: torch.device, dtype: torch.dtype
) -> tuple[int, int]:
    """Bytes of weights in memory at once, and bytes of files that are read for every use."""
    if not config.streams:
        return _bytes(source, dtype), 0
    kept = residence(source.structure, config, device)
    share = sum(kept.streamed.values()) / sum(kept.sizes.values())
    return kept.held, int(share * source.checkpoint.nbytes)


def _bytes(source: DirectorySource, dtype: torch.dtype) -> int:
    """Of the weights in memory, tied ones once; what is stored in another dtype keeps it."""
    own = source.structure.dtype
    return sum(
        value.numel() * (dtype if value.dtype == own else value.dtype).itemsize
        for value in source.structure.parameters()
    )


def _dry_run(
    source: DirectorySource, matrices: Mapping[str, nn.Linear], **settings: Any
) -> tuple[Footprint | None, str]:
    """The footprint, or why there is none: models run whatever code they have."""
    try:
        return footprint(source.structure, matrices, **settings), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
