"""The registry of repairs: what each kind repairs, what it needs to be measured, who applies it.

Needs no torch. A kind of one's own is an entry point of the group `hcnr.repairs` whose function
returns a `RepairKind`; everything else, from the command line to the report, asks this table.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Axis = Literal["output", "input"]
Scope = Literal["neurons", "matrices", "tensors"]
DataSet = Literal["honesty", "task"]
Basis = Literal["spectral", "natural"]


@dataclass(frozen=True)
class RepairKind:
    """A way to repair.

    Attributes:
        name: as settings and options call it.
        scope: `neurons` restores chosen neurons of each selected matrix to base, with a
            compensation for the others, which stay as tuned; `matrices` repairs whole matrices in
            the bases of method.md (10); `tensors` mixes every tensor of the model with base's.
        about: what it does, in a few words with the number in method.md.
        needs: data sets whose curvature along the neuron axis it asks for, of `neurons` alone.
        bases: bases of method.md (10) that it works in, of `matrices` alone.
        weighs_task: whether the setting `task_weight` is its own.
        apply: of `neurons`: the compensation, E of method.md (14), so that restored neurons become
            `W0 + E`. Called once per matrix as `apply(kind, delta, mask, hessian,
            task_hessian, axis=, task_weight=, damping=, block_size=)` with this kind,
            `W1 - W0` float32 `[out, in]`, the restored neurons bool `[d']` and
            curvature float32 `[d', d']` (None where it is not needed); returns a
            `hcnr_kernels.Compensation`. Or `module:function` to import when it is first called.
            None restores base itself.
    """

    name: str
    scope: Scope
    about: str
    needs: tuple[DataSet, ...] = ()
    bases: tuple[Basis, ...] = ()
    weighs_task: bool = False
    apply: Callable[..., Any] | str | None = None

    def applied(self) -> Callable[..., Any] | None:
        """`apply` as a function."""
        if not isinstance(self.apply, str):
            return self.apply
        module, _, function = self.apply.partition(":")
        return getattr(importlib.import_module(module), function)


_ONE_AXIS = "hcnr.repair.compensate:along_one_axis"

KINDS: dict[str, RepairKind] = {
    kind.name: kind
    for kind in (
        RepairKind("none", "neurons", "base itself (6)"),
        RepairKind("sum", "neurons", "the paper's (7)", ("honesty",), apply=_ONE_AXIS),
        RepairKind("joint", "neurons", "exact (8)", ("honesty",), apply=_ONE_AXIS),
        RepairKind(
            "balanced",
            "neurons",
            "weighed against the task (9)",
            ("honesty", "task"),
            weighs_task=True,
            apply=_ONE_AXIS,
        ),
        RepairKind(
            "spectral",
            "matrices",
            "direction by direction, by curvature of both axes on both data sets (10)",
            bases=("spectral",),
            weighs_task=True,
        ),
        RepairKind(
            "natural",
            "matrices",
            "steps down the honesty loss (12)",
            bases=("natural",),
            weighs_task=True,
        ),
        RepairKind(
            "spectral+natural",
            "matrices",
            "spectral (10), then natural steps (12)",
            bases=("spectral", "natural"),
            weighs_task=True,
        ),
        RepairKind("interpolate", "tensors", "every tensor mixed with base's (11)"),
    )
}
"""The kinds that come with hcnr, by name."""


def plain_name(name: str) -> str:
    """A kind's name as the table has it; a sequence was once written with a comma."""
    return name.replace(",", "+").replace(" ", "")


def kind_names() -> tuple[str, ...]:
    """Names of all kinds, those of installed packages last."""
    from hcnr import plugins

    return (*KINDS, *(name for name in plugins.names("hcnr.repairs") if name not in KINDS))


def repair_kind(name: str) -> RepairKind:
    """The kind of a name.

    Raises:
        KeyError: there is none.
        ConfigError: a package registered something else under the name.
    """
    if name in KINDS:
        return KINDS[name]
    return _registered(name)


def _registered(name: str) -> RepairKind:
    from hcnr import plugins
    from hcnr.errors import ConfigError

    make = plugins.load("hcnr.repairs", name)
    if make is None:
        raise KeyError(name)
    try:
        kind = make()
    except Exception as error:  # whatever the other package raises
        raise ConfigError(
            f"the repair {name!r} that a package registered in hcnr.repairs cannot be made: "
            f"{type(error).__name__}: {error}; repair or uninstall that package"
        ) from error
    if not isinstance(kind, RepairKind) or kind.name != name or kind.scope != "neurons":
        raise ConfigError(
            f"the repair {name!r} that a package registered in hcnr.repairs is {kind!r}, expected "
            "a RepairKind of that name whose scope is 'neurons'; repair or uninstall that package"
        )
    return kind
