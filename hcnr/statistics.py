"""`Statistics`: everything measured on one pair of checkpoints, as one publishable file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hcnr._version import __version__
from hcnr.errors import StatisticsError

FORMAT = 1
DataSet = Literal["honesty", "task"]
_KEY = "hcnr_statistics"


@dataclass(frozen=True)
class Statistics:
    """Scores and curvature of one pair (base, tuned) on one honesty and one task data set.

    Attributes:
        axis: the neuron axis, `output` or `input`, that all of it was measured along.
        scores: `scores["honesty"][matrix]` and `scores["task"][matrix]`, float32 `[d']`,
            method.md (1), already divided by the number of samples.
        halves: the same over the samples with even and with odd index, float32 `[2, d']`.
        hessians: `hessians["honesty"][matrix]`, float32 `[d', d']`, method.md (5), not damped,
            for the matrices where it was collected; `["task"]` only for `balanced`. Matrices
            that read the same input share one tensor object on the input axis.
        fingerprints: fingerprints of the target weights of `base` and `tuned`.
        settings: the configuration that the numbers depend on.
        data: per data set: samples, tokens, what was cut, hashes.
    """

    axis: Literal["output", "input"]
    scores: dict[str, dict[str, Tensor]]
    halves: dict[str, dict[str, Tensor]]
    hessians: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def matrices(self) -> list[str]:
        """Names of the measured matrices in the model's order."""
        return list(self.scores["honesty"])

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, completely or not at all.

        Raises:
            OutputError: the place cannot be written to.
        """
        from safetensors.torch import save_file

        from hcnr.checkpoint import atomic_file

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

    @classmethod
    def load(cls, path: str | Path) -> "Statistics":
        """Read a file written by `save`.

        Raises:
            StatisticsError: missing, not such a file, damaged, or of a newer format.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise StatisticsError(f"no statistics file at {path}; write one with `hcnr measure`")
        tensors: dict[str, Tensor] = {}
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})[_KEY])
                for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    tensors[key] = file.get_tensor(key)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise StatisticsError(
                f"{path} is no statistics file of hcnr or is damaged ({type(error).__name__}: "
                f"{error}); measure again with `hcnr measure`"
            ) from error
        if header.get("format") != FORMAT:
            raise StatisticsError(
                f"{path} has format {header.get('format')}, this version reads format {FORMAT}; "
                "measure again with `hcnr measure`"
            )
        try:
            statistics = cls._assemble(header, tensors)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StatisticsError(
                f"{path} is no statistics file of hcnr or is damaged (its header makes no sense: "
                f"{error!r}); measure again with `hcnr measure`"
            ) from error
        statistics._validate(path)
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
                found = {name: tensors[key] for name, key in keys.items() if key in tensors}
                if found:
                    groups[kind][data_set] = found
        return cls(
            axis=header["axis"],
            fingerprints=dict(header["fingerprints"]),
            settings=dict(header["settings"]),
            data=dict(header["data"]),
            **groups,
        )

    def _validate(self, path: Path) -> None:
        for data_set in ("honesty", "task"):
            for matrix, scores in self.scores.get(data_set, {}).items():
                if not torch.isfinite(scores).all() or (scores < 0).any():
                    raise StatisticsError(
                        f"{path}: the {data_set} scores of {matrix} are not finite and "
                        "non-negative; measure again with `hcnr measure`"
                    )
            missing = set(self.matrices) - set(self.scores.get(data_set, {}))
            if missing:
                raise StatisticsError(
                    f"{path} has no {data_set} scores of {min(missing)}; measure again with "
                    "`hcnr measure`"
                )
