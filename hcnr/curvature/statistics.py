"""`Statistics`: everything measured on one pair of checkpoints, as one publishable file."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hcnr._version import __version__
from hcnr.checkpoint.fingerprints import byte_view
from hcnr.directories import check_outside
from hcnr.errors import OutputError, StatisticsError
from hcnr.kinds import Axis
from hcnr.output.notebook import html_table

FORMAT = 1
_KEY = "hcnr_statistics"


@dataclass(frozen=True, repr=False)
class Statistics:
    """Scores and curvature of one pair (base, tuned) on one honesty and one task data set.

    Attributes:
        axis: the neuron axis, `output` or `input`, that all of it was measured along.
        scores: `scores["honesty"][matrix]` and `scores["task"][matrix]`, float32 `[d']`,
            method.md (1), already divided by the number of samples.
        halves: the same over two halves of the samples (`part_of`), float32 `[2, d']`; empty
            where a data set has a single sample.
        hessians: `hessians["honesty"][matrix]`, float32 `[d', d']`, method.md (5), not damped,
            for the matrices where it was collected; `["task"]` only for `balanced`. Matrices
            that read the same input share one tensor object on the input axis.
        fingerprints: fingerprints of `base` and `tuned`.
        settings: the configuration that the numbers depend on.
        data: per data set: samples, tokens, what was cut, hashes.
    """

    axis: Axis
    scores: dict[str, dict[str, Tensor]]
    halves: dict[str, dict[str, Tensor]]
    hessians: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Statistics({', '.join(f'{name}: {value}' for name, value in self._facts())})"

    def _repr_html_(self) -> str:
        return html_table("Statistics", self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        """What a person wants to know of it, in words."""
        facts = [("axis", str(self.axis)), ("matrices", str(len(self.matrices)))]
        for name, by_matrix in self.hessians.items():
            facts.append((f"{name} curvature", f"{len(by_matrix)} matrices"))
        for name, data in self.data.items():
            facts.append((name, f"{data.get('samples')} samples, {data.get('tokens')} tokens"))
        return facts

    @property
    def matrices(self) -> list[str]:
        """Names of the measured matrices in the model's order."""
        return list(self.scores.get("honesty", ()))

    @property
    def left(self) -> list[str]:
        """Matrices of experts that too few tokens reached, which were not measured."""
        return list(self.settings.get("few_tokens", ()))

    def sha256(self) -> str:
        """SHA-256 of all that was measured, and of what and how it was."""
        facts = (self.axis, self.fingerprints, self.settings, self.data)
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        for kind in (self.scores, self.halves, self.hessians):
            for data_set, by_matrix in sorted(kind.items()):
                for matrix, tensor in sorted(by_matrix.items()):
                    digest.update(
                        f"{data_set} {matrix} {tensor.dtype} {list(tensor.shape)}".encode()
                    )
                    digest.update(byte_view(tensor))
        return digest.hexdigest()

    @staticmethod
    def is_file(path: Path) -> bool:
        """Whether `path` is a file that `save` wrote."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                return _KEY in (file.metadata() or {})
        except (SafetensorError, OSError):
            return False

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, completely or not at all.

        What `measure` kept of its passes for that file goes.

        Raises:
            OutputError: the place cannot be written to.
        """
        from safetensors.torch import save_file

        from hcnr.checkpoint import atomic_file
        from hcnr.checkpoint.kept_work import KeptWork

        tensors: dict[str, Tensor] = {}
        shared: dict[str, str] = {}
        homes: dict[int, str] = {}
        for kind, sets in (
            ("scores", self.scores),
            ("halves", self.halves),
            ("hessians", self.hessians),
        ):
            for data_set, by_matrix in sets.items():
                for matrix, tensor in by_matrix.items():
                    key = f"{kind}.{data_set}.{matrix}"
                    home = homes.setdefault(id(tensor), key)
                    if home == key:
                        tensors[key] = tensor.detach().cpu().contiguous()
                    else:
                        shared[key] = home
        header = {
            "format": FORMAT,
            "hcnr": __version__,
            "axis": self.axis,
            "matrices": self.matrices,
            "shared": shared,
            "fingerprints": self.fingerprints,
            "settings": self.settings,
            "data": self.data,
        }
        with atomic_file(Path(path)) as temporary:
            save_file(tensors, temporary, metadata={_KEY: json.dumps(header)})
        KeptWork.release(path)

    @classmethod
    def load(cls, path: str | Path) -> "Statistics":
        """Read a file written by `save`.

        Raises:
            StatisticsError: missing, not such a file, damaged, or of a newer format.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path).expanduser()
        if not path.is_file():
            raise StatisticsError(f"no statistics file at {path}; write one with `hcnr measure`")
        tensors: dict[str, Tensor] = {}
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})[_KEY])
                for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    tensors[key] = file.get_tensor(key)
            version = header["format"]
            statistics = cls._assemble(header, tensors) if version == FORMAT else None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StatisticsError(
                f"{path} is no statistics file of hcnr or is damaged ({type(error).__name__}: "
                f"{error}); measure again with `hcnr measure`"
            ) from error
        if statistics is None:
            raise StatisticsError(
                f"{path} has format {version}, this version reads format {FORMAT}; measure again "
                "with `hcnr measure`"
            )
        statistics.validate(str(path))
        return statistics

    @classmethod
    def _assemble(cls, header: dict[str, Any], tensors: dict[str, Tensor]) -> "Statistics":
        """Put the parts of a file together."""
        if header["axis"] not in ("output", "input"):
            raise ValueError(f"axis {header['axis']!r}")
        for key, home in header["shared"].items():
            tensors[key] = tensors[home]
        groups: dict[str, dict[str, dict[str, Tensor]]] = {}
        for kind in ("scores", "halves", "hessians"):
            groups[kind] = {}
            for data_set in ("honesty", "task"):
                keys = {name: f"{kind}.{data_set}.{name}" for name in header["matrices"]}
                of_kind = {name: tensors[key] for name, key in keys.items() if key in tensors}
                if of_kind:
                    groups[kind][data_set] = of_kind
        return cls(
            axis=header["axis"],
            fingerprints=dict(header["fingerprints"]),
            settings=dict(header["settings"]),
            data=dict(header["data"]),
            **groups,
        )

    def validate(self, name: str = "the statistics") -> None:
        """Check that all parts are there and fit together.

        Args:
            name: what to call them in the error.

        Raises:
            StatisticsError: the first part that does not fit, named.
        """
        if not self.scores.get("honesty"):
            raise StatisticsError(f"{name} cover no matrix; measure again with `hcnr measure`")
        for kind, groups in (
            ("scores", self.scores),
            ("halves", self.halves),
            ("hessians", self.hessians),
        ):
            # Scores are always there; halves for both sets or none; curvature where collected.
            wanted = (
                ("honesty", "task") if kind == "scores" or (groups and kind == "halves") else ()
            )
            for data_set in dict.fromkeys((*wanted, *groups)):
                by_matrix = groups.get(data_set, {})
                for matrix in self.matrices if data_set in wanted else by_matrix:
                    self._check(name, kind, data_set, matrix, by_matrix.get(matrix))

    def _check(
        self, name: str, kind: str, data_set: str, matrix: str, tensor: Tensor | None
    ) -> None:
        what = f"the {data_set} {kind} of {matrix}"
        if tensor is None:
            raise StatisticsError(f"{name}: {what} are missing; measure again")
        size = self.scores["honesty"][matrix].numel() if matrix in self.scores["honesty"] else -1
        shape = {"scores": (size,), "halves": (2, size), "hessians": (size, size)}[kind]
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise StatisticsError(
                f"{name}: {what} are {tensor.dtype} {list(tensor.shape)}, expected float32 "
                f"{list(shape)}; measure again"
            )
        # Curvature is checked where it is factorised, which also names the failing minor.
        if kind != "hessians" and not (tensor.isfinite() & (tensor >= 0)).all():
            raise StatisticsError(f"{name}: {what} are not finite and non-negative; measure again")


def check_destination(path: Path, *, inputs: Iterable[Path] = (), overwrite: bool = False) -> None:
    """Check that a statistics file may be written, before anything is measured.

    Args:
        path: where it shall go. An existing file is replaced only if it is a statistics file.
        inputs: directories that are read meanwhile, and must not be written into.
        overwrite: whether an existing statistics file may be replaced.

    Raises:
        OutputError: saying why not and what to do.
    """
    from hcnr.checkpoint import check_parent

    path = path.expanduser()
    check_outside(path, inputs, "choose another place")
    check_parent(path.absolute())
    if not path.exists():
        return
    if not overwrite:
        raise OutputError(f"{path} exists already; choose another name or pass --overwrite")
    if not Statistics.is_file(path):
        raise OutputError(
            f"{path} exists and is no statistics file, so it is not replaced even with "
            "--overwrite; choose another name"
        )
