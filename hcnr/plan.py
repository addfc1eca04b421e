"""What a run would do, from names and shapes alone: matrices, bytes and operations per stage."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from hcnr.cache import cache_root
from hcnr.config import RestoreConfig
from hcnr.curvature.groups import budget_of, curvature_bytes, plan_groups
from hcnr.curvature.two_sided import places_of
from hcnr.data.held_back import held_back_count
from hcnr.errors import CheckpointError, ConfigError, ModelError
from hcnr.models.adapter_files import adapted_modules, adapter_settings, is_adapter
from hcnr.models.given import named_base, resolve
from hcnr.models.linear import kind_of, shape_of
from hcnr.models.matching import check_match
from hcnr.models.pair import NO_BASE
from hcnr.models.source import DirectorySource
from hcnr.repair.interpolation import MOST_TRIES as COEFFICIENTS
from hcnr.repair.selection import count_of
from hcnr.repair.task_weight import MOST_TRIES
from hcnr_kernels import gram_is_cheaper
from hcnr_kernels.ops.spectral.token_space import PENCIL_FLOPS


@dataclass(frozen=True)
class MatrixKind:
    """Target matrices of one role and shape, such as all `q_proj`."""

    role: str
    shape: tuple[int, int]
    count: int
    neurons: int
    candidates: int


@dataclass(frozen=True)
class StagePlan:
    """One stage: bytes moved from and to disk, bytes held in memory at once, operations."""

    name: str
    read: int = 0
    written: int = 0
    held: int = 0
    flops: int = 0


@dataclass(frozen=True)
class Plan:
    """What `restore` would do with a pair and a configuration.

    Attributes:
        kinds: target matrices by role and shape.
        matrices: number of target matrices.
        selected: number of matrices that will be restored (which ones is known after measuring).
        stages: stages in order.
        tokens: tokens assumed in one data set.
        messages: harmless differences between the two checkpoints.
        groups: bytes of curvature of the groups of blocks that `spectral` and `natural` measure one
            after the other, if all matrices were selected; empty for other kinds.
    """

    kinds: list[MatrixKind]
    matrices: int
    selected: int
    stages: list[StagePlan]
    tokens: int
    messages: list[str]
    groups: list[int]


def plan_run(
    base: str | Path | None,
    tuned: str | Path,
    config: RestoreConfig | None = None,
    *,
    tokens_per_sample: int = 256,
) -> Plan:
    """Plan a run; reads configuration files and safetensors headers, no weights.

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

    Raises:
        CheckpointError: the two do not fit together.
        ModelError: no matrix matches the targets.
        ConfigError: one block alone exceeds the memory budget.
    """
    config = config or RestoreConfig()
    sources, layers, messages = _read(base, tuned, config)
    if config.interpolates:
        messages.append(
            "interpolation mixes every floating-point tensor that both share: embeddings, norms, "
            "biases and the head too"
        )
    shapes = {name: shape_of(layer) for name, layer in layers.items()}
    along = 0 if config.axis == "output" else 1
    kinds = [
        MatrixKind(role, shape, n, shape[along], count_of(config.candidate_ratio, shape[along]))
        for (role, shape), n in Counter(
            (kind_of(name), shape) for name, shape in shapes.items()
        ).items()
    ]
    selected = count_of(1.0 if config.interpolates else config.cross_weight_ratio, len(shapes))
    tokens = config.samples * tokens_per_sample
    model = sources[1].checkpoint.nbytes
    groups = _groups(shapes, config, model) if config.bases else []
    return Plan(
        kinds=kinds,
        matrices=len(shapes),
        selected=selected,
        stages=_stages(sources, list(shapes.values()), selected, config, tokens_per_sample, groups),
        tokens=tokens,
        messages=messages,
        groups=groups,
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


def _stages(
    sources: tuple[DirectorySource, DirectorySource],
    shapes: list[tuple[int, int]],
    selected: int,
    config: RestoreConfig,
    length: int,
    groups: list[int],
) -> list[StagePlan]:
    base, tuned = (source.checkpoint.nbytes for source in sources)
    tokens = config.samples * length
    weights = sum(out * into for out, into in shapes)
    share = selected / len(shapes)
    forward = 2 * weights * tokens
    along = [out if config.axis == "output" else into for out, into in shapes]
    squares, cubes = sum(d * d for d in along), sum(d**3 for d in along)
    products = sum(2 * out * into * d for (out, into), d in zip(shapes, along, strict=True))
    fisher = tuned if config.fisher_at == "tuned" else base
    scoring = 2 * (2 * forward + sum(_score_flops(*s, length) for s in shapes) * config.samples)
    stages = [
        StagePlan("check the weights", read=base + tuned),
        StagePlan("score both data sets", read=fisher, held=fisher, flops=scoring),
        StagePlan("select", read=2 * _stored(sources, weights), flops=5 * weights),
    ]
    if config.interpolates:
        return [stages[0], *_mixing(base, tuned, forward, config)]
    if config.bases and not config.all_hessians:
        # Whole matrices need no ranking of neurons.
        del stages[1]
    passes = sorted(config.kind.needs, reverse=True)
    if config.all_hessians:
        passes = passes or ["honesty"]
        share = 1.0
    held = 0
    for data_set in passes:
        at_base = data_set == "honesty" and config.hessian_at == "base"
        held += int(4 * squares * share)
        stages.append(
            StagePlan(
                f"curvature of {data_set}",
                read=base if at_base else tuned,
                held=(base if at_base else tuned) + held,
                flops=int(
                    forward * (1 if config.axis == "input" else 2) + tokens * squares * share
                ),
            )
        )
    solve = 0
    if config.bases:
        stages += _two_sided(
            sources, shapes, groups, selected / len(shapes), config, forward, tokens
        )
    elif config.kind.apply is not None:
        solve = int((cubes + products) * selected / len(shapes))
    stages.append(
        StagePlan(
            "compensate, merge and write",
            read=tuned + int(2 * _stored(sources, weights) * selected / len(shapes)),
            written=tuned,
            held=held,
            flops=solve,
        )
    )
    return stages


def _mixing(base: int, tuned: int, forward: int, config: RestoreConfig) -> list[StagePlan]:
    """Stages of plain interpolation; `forward`: operations of one pass over a data set."""
    stages = []
    if config.searches:
        rest = forward * held_back_count(config.samples) // config.samples
        stages.append(
            StagePlan(
                f"search the coefficient, {COEFFICIENTS} tried at most",
                read=tuned + COEFFICIENTS * (base + tuned),
                held=2 * tuned,
                flops=COEFFICIENTS * rest,
            )
        )
    return [*stages, StagePlan("interpolate and write", read=base + tuned, written=tuned)]


def _groups(shapes: dict[str, tuple[int, int]], config: RestoreConfig, model: int) -> list[int]:
    """Bytes of each group, all matrices selected: which ones will be is not known yet."""
    places = len(places_of(config.bases, config))
    try:
        budget = budget_of(config.memory_budget, config.device, model)
    except ModelError:
        # Planned on another machine than it will run on, which says nothing of that one's memory.
        budget = None
    return [
        curvature_bytes([shapes[name] for name in group], places, config.block_size)
        for group in plan_groups(shapes, places, budget, config.block_size)
    ]


def _two_sided(
    sources: tuple[DirectorySource, DirectorySource],
    shapes: list[tuple[int, int]],
    groups: list[int],
    share: float,
    config: RestoreConfig,
    forward: int,
    tokens: int,
) -> list[StagePlan]:
    """Stages of the kinds that repair whole matrices; one pass over a data set per group."""
    size = {
        role: source.checkpoint.nbytes
        for role, source in zip(("base", "tuned"), sources, strict=True)
    }
    count, largest = len(groups), max(groups)

    def block(width: int) -> int:
        return min(width, config.block_size or width)

    axes = [width for shape in shapes for width in shape]
    squares = sum(width * block(width) for width in axes)
    cubes = sum(width * block(width) ** 2 for width in axes)
    weights = sum(out * into for out, into in shapes)
    products = sum(4 * out * into * (block(out) + block(into)) for out, into in shapes)
    stages = [
        StagePlan(
            f"curvature of {data} at {role}, {_times(count)}",
            read=size[role] * count,
            held=size[role] + largest,
            flops=int(2 * forward * count + tokens * squares * share),
        )
        for data, role in places_of(config.bases, config)
    ]
    stages.append(
        StagePlan(
            "factorise",
            read=2 * _stored(sources, weights),
            held=largest,
            flops=int((len(config.bases) * PENCIL_FLOPS * cubes + products) * share),
        )
    )
    walk = int(config.steps * (2 * forward * count + 2 * tokens * weights * share))
    if config.searches:
        # A candidate's products and its loss on held-back samples; steps of its own for natural.
        walking = walk if "natural" in config.bases else 0
        rest = forward * held_back_count(config.samples) // config.samples
        stages.append(
            StagePlan(
                f"search the task weight, at most {MOST_TRIES} tried",
                read=size["tuned"],
                held=size["tuned"] + largest,
                flops=int(MOST_TRIES * (products * share + rest + walking)),
            )
        )
    if "natural" in config.bases:
        stages.append(
            StagePlan(
                f"natural steps, {_times(config.steps * count)} over the honesty data",
                read=size["tuned"],
                held=size["tuned"] + largest,
                flops=walk,
            )
        )
    return stages


def _times(count: int) -> str:
    return f"{count} pass{'es' if count > 1 else ''}"


def _score_flops(out: int, into: int, length: int) -> int:
    """Operations of one matrix's scores on one sample, in the form that method.md (2) chooses."""
    if gram_is_cheaper(length, into, out):
        return 2 * length * length * (into + out)
    return 2 * length * out * into


def _stored(sources: tuple[DirectorySource, DirectorySource], weights: int) -> int:
    """Bytes of the target weights in one checkpoint, at the width of its widest tensor."""
    infos = sources[1].checkpoint.tensors.values()
    return weights * max(info.dtype.itemsize for info in infos)
