"""What a run would do, from names and shapes alone: matrices, bytes and operations per stage."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from hcnr.cache import cache_root
from hcnr.config import RestoreConfig
from hcnr.errors import CheckpointError, ConfigError
from hcnr.models.adapter_files import adapted_modules, adapter_settings, is_adapter
from hcnr.models.directory import DirectorySource
from hcnr.models.linear import kind_of, shape_of
from hcnr.models.matching import check_match
from hcnr.models.pair import NO_BASE
from hcnr.models.resolving import named_base, resolve
from hcnr.pipeline.group_sizes import selected_of
from hcnr.pipeline.memory import Memory, computed_in, device_of_run
from hcnr.pipeline.placing import check_placement
from hcnr.pipeline.prices import StagePlan
from hcnr.pipeline.rates import Rates, measure_rates
from hcnr.pipeline.recomputing import fitted
from hcnr.repair.selection import count_of


@dataclass(frozen=True)
class MatrixKind:
    """Target matrices of one role and shape, such as all `q_proj`."""

    role: str
    shape: tuple[int, int]
    count: int
    neurons: int
    candidates: int


@dataclass(frozen=True)
class Plan:
    """What `restore` would do with a pair and a configuration.

    Attributes:
        kinds: target matrices by role and shape.
        matrices: number of target matrices.
        selected: number of matrices that will be restored (which ones is known after measuring).
        stages: those of `restore` with both data sets, in order, by the names of its bars.
        tokens: tokens assumed in one data set.
        messages: harmless differences between the two checkpoints.
        groups: bytes of curvature of the groups of matrices that are measured one after the other;
            of kinds that repair whole matrices as if all were selected. Empty without curvature.
        memory: what models and passes hold, and what is free here.
        peak: most bytes at once in any stage, libraries included.
        recomputes: whether blocks are recomputed in backward.
        memory_budget: GiB of curvature at once, given or decided; None for half of what is free.
    """

    kinds: list[MatrixKind]
    matrices: int
    selected: int
    stages: list[StagePlan]
    tokens: int
    messages: list[str]
    groups: list[int]
    memory: Memory
    peak: int
    recomputes: bool
    memory_budget: float | None


def plan_run(
    base: str | Path | None,
    tuned: str | Path,
    config: RestoreConfig | None = None,
    *,
    tokens_per_sample: int = 256,
    response_tokens: int | None = None,
) -> Plan:
    """Plan a run; reads configuration files and safetensors headers, no weights.

    What a pass holds in memory is counted by a dry run of one micro-batch, see
    `hcnr.curvature.footprint`; whether blocks are recomputed follows from it as in a run, see
    `hcnr.pipeline.recomputing`.

    Operations count a multiply and an add as two. Curvature, factorisation and products are those
    of an average matrix times the number to be selected. Attention's own products and the output
    head are left out.

    An adapter is not merged: base's structure stands for its own, and only matrices that it
    changes count.

    Args:
        base: base checkpoint directory; None for what an adapter names itself.
        tuned: tuned checkpoint directory, or that of an adapter.
        config: settings; the defaults when None.
        tokens_per_sample: tokens assumed per sample.
        response_tokens: how many of them carry loss; half of them when None.

    Raises:
        CheckpointError: the two do not fit together.
        ModelError: no matrix matches the targets, or there is no such kind of device.
        ConfigError: one block alone exceeds the memory budget.
    """
    config = config or RestoreConfig()
    check_placement(config)
    sources, layers, messages = _read(base, tuned, config)
    if config.interpolates:
        messages.append(
            "interpolation mixes every floating-point tensor that both share: embeddings, norms, "
            "biases and the head too"
        )
    shapes = {name: shape_of(layer) for name, layer in layers.items()}
    kinds = _kinds(shapes, config)
    device = device_of_run(config)
    if response_tokens is None:
        response_tokens = (tokens_per_sample + 1) // 2
    fit = fitted(
        sources,
        layers,
        config,
        device,
        tokens_per_sample=tokens_per_sample,
        response_tokens=response_tokens,
    )
    stages = fit.stages
    if device is not None:
        shape = max(kinds, key=lambda kind: kind.count).shape
        stages = _timed(stages, _rates(sources[1], shape, config, device))
    messages += filter(None, [fit.choice])
    messages += fit.memory.sentences(fit.peak, fit.worst.name)
    return Plan(
        kinds=kinds,
        matrices=len(shapes),
        selected=selected_of(config, len(shapes)),
        stages=stages,
        tokens=config.samples * tokens_per_sample,
        messages=messages,
        groups=fit.groups,
        memory=fit.memory,
        peak=fit.peak,
        recomputes=fit.config.recomputes or config.streams,
        memory_budget=fit.config.memory_budget,
    )


def _read(
    base: str | Path | None, tuned: str | Path, config: RestoreConfig
) -> tuple[tuple[DirectorySource, DirectorySource], dict[str, nn.Linear], list[str]]:
    """Both sources, the layers that count, and messages."""
    if not is_adapter(tuned):
        if base is None:
            raise ConfigError(NO_BASE)
        sources = DirectorySource(resolve(base)), DirectorySource(resolve(tuned))
        layers = sources[1].matrices(config.targets, config.ignore)
        notes = dict.fromkeys([*sources[0].notes, *sources[1].notes])
        return sources, layers, [*notes, *check_match(*sources, config)[1]]
    settings = adapter_settings(tuned)
    source = DirectorySource(named_base(settings) if base is None else resolve(base))
    layers = {
        name: layer
        for name, layer in source.matrices(config.targets, config.ignore).items()
        if name in adapted_modules(settings)
    }
    if not layers:
        raise CheckpointError(
            f"the adapter '{settings.name}' changes none of the targets in base ({source}): widen "
            "--targets, or name the checkpoint that it was trained on as BASE"
        )
    reach = [] if source.reach is None else [source.reach.sentence]
    note = (
        f"'{settings.name}' is an adapter ({settings.kind}): a run merges it into '{source}' in "
        f"float32 and keeps {source.checkpoint.nbytes / 1e9:.3g} GB in '{cache_root()}'; its "
        f"{len(layers)} matrices count"
    )
    return (source, source), layers, [*source.notes, note, *reach]


def _kinds(shapes: dict[str, tuple[int, int]], config: RestoreConfig) -> list[MatrixKind]:
    """Target matrices by role and shape, in the order of their first ones."""
    along = 0 if config.axis == "output" else 1
    counts = Counter((kind_of(name), shape) for name, shape in shapes.items())
    return [
        MatrixKind(role, shape, n, shape[along], count_of(config.candidate_ratio, shape[along]))
        for (role, shape), n in counts.items()
    ]


def _timed(stages: list[StagePlan], rates: Rates) -> list[StagePlan]:
    """The same with the seconds that each takes at some rates."""
    return [
        replace(
            stage, seconds=rates.seconds(stage.flops, stage.pencils, stage.read + stage.written)
        )
        for stage in stages
    ]


def _rates(
    source: DirectorySource, shape: tuple[int, int], config: RestoreConfig, device: torch.device
) -> Rates:
    """Rates of this machine, on matrices of a shape."""
    dtype = computed_in(source, config, device)
    file = next(iter(source.checkpoint.tensors.values())).file
    return measure_rates(device, dtype, shape, config.block_size, file)
