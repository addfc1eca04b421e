"""Whether blocks are recomputed in backward, by what a run holds and what its device has free."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from hcnr import ranks
from hcnr.checkpoint.kept_work import KeptWork
from hcnr.config import RestoreConfig
from hcnr.data.repair_data import MeasuringData
from hcnr.models.device_memory import GIB
from hcnr.models.directory import DirectorySource
from hcnr.models.linear import Expert, shape_of
from hcnr.models.model import resolve_device
from hcnr.models.pair import Pair
from hcnr.pipeline.group_sizes import group_bytes, largest_unit, selected_of
from hcnr.pipeline.memory import MARGIN, Memory, fits_easily, plan_memory
from hcnr.pipeline.prices import Prices, StagePlan
from hcnr.pipeline.stages import Circumstances, restoring_steps

Sources = tuple[DirectorySource, DirectorySource]
_TRIES = 4
"""How often the budget is lowered: finished weights wait in main memory where there are groups."""


@dataclass(frozen=True)
class Counted:
    """What a run holds and does by a configuration that leaves nothing open.

    Attributes:
        config: with `gradient_checkpointing` true or false.
        memory: what models and passes hold.
        groups: bytes of curvature of each group of matrices that is measured together.
        stages: their prices.
        choice: a sentence on what was chosen and why; empty where nothing was to be.
    """

    config: RestoreConfig
    memory: Memory
    groups: list[int]
    stages: list[StagePlan]
    choice: str = ""

    @property
    def worst(self) -> StagePlan:
        """The stage that holds most."""
        return max(self.stages, key=lambda stage: stage.held)

    @property
    def peak(self) -> int:
        """Most bytes at once, libraries included."""
        return self.worst.held + self.memory.libraries

    @property
    def fits(self) -> bool:
        """Whether that is free, with a margin; also where nobody knows."""
        free = self.memory.free
        return free is None or bool(self.memory.unknown) or MARGIN * self.peak <= free


def count(
    sources: Sources,
    layers: Mapping[str, nn.Linear],
    config: RestoreConfig,
    device: torch.device | None,
    *,
    tokens_per_sample: int,
    response_tokens: int,
    memory: Memory | None = None,
) -> Counted:
    """Count what a run holds; see `plan_memory` and `Prices`, whose arguments these are.

    `memory` is that of another memory budget, which makes no difference to it.

    Raises:
        ConfigError: one block alone exceeds the memory budget.
    """
    memory = memory or plan_memory(
        sources,
        layers,
        config,
        device,
        tokens_per_sample=tokens_per_sample,
        response_tokens=response_tokens,
    )
    shapes = {name: shape_of(layer) for name, layer in layers.items()}
    model = memory.weights["tuned"] if config.streams else sources[1].checkpoint.nbytes
    groups = group_bytes(shapes, config, model, here=device is not None)
    prices = Prices(
        sources,
        list(shapes.values()),
        selected_of(config, len(shapes)),
        config,
        groups,
        memory,
        tokens_per_sample=tokens_per_sample,
    )
    circumstances = Circumstances(
        experts=any(isinstance(layer, Expert) for layer in layers.values())
    )
    return Counted(config, memory, groups, prices.of(restoring_steps(config, circumstances)))


def fitted(
    sources: Sources,
    layers: Mapping[str, nn.Linear],
    config: RestoreConfig,
    device: torch.device | None,
    **lengths: int,
) -> Counted:
    """Decide what a configuration leaves open: recomputation, then the budget of the curvature.

    Blocks are kept where everything fits that way. Otherwise they are recomputed; and where that
    is not enough and no `memory_budget` was given, the curvature's becomes what is left beside
    models and activations, of one block (or one matrix, along one axis) at the least.

    Args:
        sources: as of `count`.
        layers: likewise.
        config: `gradient_checkpointing` true or false is left as it is, and so is all else with
            false.
        device: likewise.
        lengths: likewise.

    Raises:
        ConfigError: one block alone exceeds the memory budget.
    """
    counting: Any = partial(count, sources, layers)
    asked = config.gradient_checkpointing
    if config.streams or config.interpolates:
        # Recomputed anyway, or never backward.
        now = config.streams if asked == "auto" else asked
        return counting(config.replace(gradient_checkpointing=now), device, **lengths)
    kept = None
    if asked is not True:
        kept = counting(config.replace(gradient_checkpointing=False), device, **lengths)
        if asked is False:
            return kept
        if kept.fits:
            known = kept.memory.free is not None and not kept.memory.unknown
            why = "keeping all fits" if known else "what is held, or free, is not known"
            return replace(kept, choice=f"blocks are kept for backward, not recomputed: {why}")
    again = counting(config.replace(gradient_checkpointing=True), device, **lengths)
    again = _within(
        again,
        lambda one: counting(one, device, **lengths, memory=again.memory),
        layers,
    )
    return replace(again, choice=_sentence(config, kept, again))


def _within(counted: Counted, counting: Any, layers: Mapping[str, nn.Linear]) -> Counted:
    """The same with a budget of the curvature that lets everything fit, where there is one."""
    if counted.config.memory_budget is not None or not counted.groups:
        return counted
    shapes = {name: shape_of(layer) for name, layer in layers.items()}
    least = largest_unit(shapes, counted.config)
    for _ in range(_TRIES):
        largest = max(counted.groups)
        if counted.fits or largest <= least:
            break
        assert counted.memory.free is not None
        room = int(counted.memory.free / MARGIN) - (counted.peak - largest)
        budget = max(min(room, largest), least)
        counted = counting(counted.config.replace(memory_budget=budget / GIB))
    return counted


def _sentence(config: RestoreConfig, kept: Counted | None, again: Counted) -> str:
    """What was decided of `config`, and why; `kept` is what is held without recomputation."""
    parts, budget = list[str](), again.config.memory_budget
    if kept is not None and kept.memory.free is not None:
        parts.append(
            "blocks are recomputed in backward, as gradient_checkpointing is auto and to keep them "
            f"would take about {kept.peak / 1e9:.3g} GB and up to a quarter more, of "
            f"{kept.memory.free / 1e9:.3g} GB that are free"
        )
    if budget != config.memory_budget:
        parts.append(
            f"curvature takes at most {budget:.3g} GiB at once, what is left beside models and "
            "activations or what the largest part of it needs"
        )
    return "; ".join(parts)


def decided(
    pair: Pair, data: MeasuringData, config: RestoreConfig, keep: KeptWork
) -> RestoreConfig:
    """The configuration of a run that has read its data, with nothing of this left open.

    The first part of a run that is resumed decides for all; of several processes the one that has
    the least room. The pair is told where blocks are recomputed. Of models in memory nothing is
    counted: their blocks are recomputed where that was asked for.

    Raises:
        ConfigError: one block alone exceeds the memory budget.
    """
    if config.gradient_checkpointing is False:
        return config
    asked = config.replace(
        gradient_checkpointing=config.streams or config.gradient_checkpointing is True
    )
    if config.streams or config.interpolates:
        return asked
    own = keep.choice("recomputation", lambda: _chosen(pair, data, config))
    choices = [one for one in ranks.gathered("recomputation", own) if one is not None]
    if not choices:
        return asked
    tightest = min(choices, key=lambda one: (not one[0], one[1] or math.inf))
    pair.messages.extend(filter(None, [tightest[2]]))
    budgets = [one[1] for one in choices if one[1] is not None]
    return config.replace(
        gradient_checkpointing=asked.recomputes or any(one[0] for one in choices),
        memory_budget=min(budgets, default=None),
    )


def _chosen(
    pair: Pair, data: MeasuringData, config: RestoreConfig
) -> tuple[bool, float | None, str] | None:
    """Whether to recompute, the memory budget in GiB, and a sentence on it.

    None where all fits easily, or nothing can be counted.
    """
    base, tuned, device = pair.base, pair.tuned, resolve_device(config.device)
    if not (isinstance(base, DirectorySource) and isinstance(tuned, DirectorySource)):
        return None
    sources = base, tuned
    samples = [one for each in data.sets.values() for one in each.samples]
    longest = max(len(one) for one in samples)
    lengths = {
        "tokens_per_sample": longest,
        "response_tokens": max(len(one) - one.response_start for one in samples),
    }
    most = max(len(each) for each in data.sets.values())
    counting = config.replace(samples=most)
    known = set(pair.matrices)
    layers = {
        name: layer
        for name, layer in tuned.matrices(config.targets, config.ignore).items()
        if name in known
    }
    shapes = {name: shape_of(layer) for name, layer in layers.items()}
    held = group_bytes(shapes, config, tuned.checkpoint.nbytes, here=True)
    if fits_easily(sources, config, device, most, max(held, default=0), **lengths):
        return None
    counted = fitted(sources, layers, counting, device, **lengths)
    # Nobody has to know that all is as ever.
    words = counted.choice if counted.config.recomputes else ""
    return counted.config.recomputes, counted.config.memory_budget, words
