"""Plain interpolation towards base as a repair of its own, with a coefficient given or searched."""

import itertools
import math
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hcnr.checkpoint import write_copy
from hcnr.checkpoint.kept_work import KeptWork
from hcnr.config import RestoreConfig
from hcnr.curvature.statistics import Statistics
from hcnr.data.repair_data import MeasuringData
from hcnr.errors import ModelError
from hcnr.kinds import DataSet
from hcnr.models.directory import DirectorySource
from hcnr.models.open_models import OpenModels
from hcnr.models.overlay import Overlay, mixed
from hcnr.models.pair import Pair, shared_tensors
from hcnr.progress import MIX, MIX_MODEL, SAVE, SEARCH_COEFFICIENT, Adding, Stages
from hcnr.record.files.restoration import (
    AdapterRecord,
    CoefficientTrial,
    Interpolated,
    PatchRecord,
)
from hcnr.repair.coefficient import MOST_TRIES, TriedCoefficient, search_coefficient
from hcnr.repair.patch_output import PatchOutput
from hcnr.repair.selection import Selection
from hcnr.repair.summary import build_report
from hcnr.repair.task_weight import retention_of
from hcnr.repair.verdict import EndLosses

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hcnr.repair.output_form import OutputForm
    from hcnr.repair.verdict import Verdict


class Interpolation:
    """The weights of one interpolated model, made one tensor at a time by whoever writes them."""

    def __init__(
        self,
        pair: Pair,
        config: RestoreConfig,
        stages: Stages,
        *,
        data: MeasuringData | None = None,
    ) -> None:
        """Take everything that decides the weights, and say which tensors base does not share.

        Args:
            pair: base and tuned.
            config: its coefficient a number, or yet to be searched.
            stages: told about progress.
            data: what losses are taken on, for the report.
        """
        self._pair, self._config, self._stages = pair, config, stages
        self._data, self._tried = data, list[TriedCoefficient]()
        self.shared, self.left = shared_tensors(pair)

    @classmethod
    def find(
        cls,
        pair: Pair,
        data: MeasuringData | None,
        ends: Mapping[DataSet, EndLosses] | None,
        config: RestoreConfig,
        stages: Stages,
        models: OpenModels,
        keep: KeptWork,
    ) -> "tuple[RestoreConfig, Interpolation]":
        """Search the coefficient where it is auto.

        Args:
            pair: base and tuned.
            data: both data sets; None where the coefficient is given and nothing is judged.
            ends: losses of base and tuned on samples that were held back.
            config: of the run.
            stages: told about progress.
            models: of the pair.
            keep: holds the coefficient for a run after this one was interrupted.

        Returns:
            The configuration, its coefficient a number; and the interpolation.

        Raises:
            ConfigError: no coefficient keeps the task.
        """
        job = cls(pair, config, stages, data=data)
        if job.left:
            named = ", ".join(job.left[:5]) + (
                f" and {len(job.left) - 5} more" if job.left[5:] else ""
            )
            pair.messages.append(
                f"{len(job.left)} tensors stay as tuned, because base lacks them or has them in "
                f"another shape: {named}"
            )
        if config.searches:
            assert ends is not None
            coefficient, job._tried = keep.of(
                "coefficient", partial(job._search, ends["task"], models), (TriedCoefficient,)
            )
            job._config = config = config.replace(coefficient=coefficient)
        return config, job

    @property
    def coefficient(self) -> float:
        """The coefficient c as a number."""
        assert self._config.coefficient != "auto"
        return self._config.coefficient

    def mix(self, name: str, tuned: Tensor, coefficient: float) -> Tensor:
        """One tensor of the interpolated model, in tuned's dtype and on its device."""
        base = self._pair.base.parameter(name)
        assert base is not None
        return mixed(tuned, base.to(tuned.device), coefficient)

    def put(self, overlay: Overlay, coefficient: float) -> None:
        """Put all tensors into tuned's model, with the bytes that are written of it."""
        own = dict(overlay.model.named_parameters(remove_duplicate=False))
        for name in self.shared:
            if name in own:
                overlay.put(name, self.mix(name, self._tuned(name, overlay), coefficient))

    def _tuned(self, name: str, overlay: Overlay) -> Tensor:
        if isinstance(self._pair.tuned, DirectorySource):
            # As stored: the model in memory may be in another dtype.
            stored = self._pair.tuned.parameter(name)
            assert stored is not None
            return stored
        # The source is the very model that is being changed.
        return overlay.original(name)

    def _search(self, ends: EndLosses, models: OpenModels) -> tuple[float, list[TriedCoefficient]]:
        config = self._config
        with (
            self._stages.stage(SEARCH_COEFFICIENT) as watcher,
            Overlay(model := models.model("tuned")) as overlay,
        ):
            count = itertools.count(1)

            def retention(coefficient: float) -> float:
                watcher.advance(next(count), MOST_TRIES)
                self.put(overlay, coefficient)
                try:
                    return retention_of(ends.loss_of(model, config), ends.base, ends.tuned)
                except ModelError:
                    # A model that overflows keeps nothing; others may do better.
                    return -math.inf

            return search_coefficient(retention, config.max_task_drop_percent)

    def model(self) -> "PreTrainedModel":
        """The interpolated model in memory; a source that is a model is copied, not changed."""
        with self._stages.stage(MIX_MODEL), torch.no_grad():
            model = self._pair.copy_of_tuned(self._config)
            own = dict(model.named_parameters(remove_duplicate=False))
            # A tied parameter under one of its names only: mixed twice it would be another.
            seen: set[int] = set()
            for name in self.shared:
                if name in own and id(own[name]) not in seen:
                    seen.add(id(own[name]))
                    own[name].copy_(self.mix(name, own[name], self.coefficient))
        return model

    def write(
        self,
        directory: Path,
        tokenizer: Any,
        form: "OutputForm | None" = None,
        *,
        files: Collection[str] | None = None,
    ) -> PatchRecord | None:
        """Write weights and everything `from_pretrained` needs into `directory`, or a patch.

        Of several processes each writes the weight `files` of these names; see `Repairs.write`.

        Returns:
            What the report says of the patch; None where a whole checkpoint was written.
        """
        tuned = self._pair.tuned
        if not isinstance(tuned, DirectorySource):
            model = self.model()
            with self._stages.stage(SAVE):
                self._pair.save(model, directory, tokenizer)
            return None
        checkpoint, chosen = tuned.checkpoint, set(self.shared)

        def weight(name: str) -> Tensor:
            stored = tuned.parameter(name)
            assert stored is not None
            return self.mix(name, stored, self.coefficient)

        with self._stages.stage(MIX) as watcher:
            progress = Adding(watcher, checkpoint.bytes_of(files))
            replacement = tuned.placed.replacing(weight, chosen)
            if isinstance(form, PatchOutput):
                return form.write(directory, replacement, progress)
            write_copy(checkpoint, directory, replacement, progress, files)
        return None

    def gather(self) -> None:
        """Nothing is known of single tensors."""

    def report(
        self,
        verdict: "Verdict | None" = None,
        form: AdapterRecord | PatchRecord | None = None,
    ) -> dict[str, Any]:
        """Everything that happened, as plain values for JSON.

        Args:
            verdict: where losses were taken.
            form: what `write` returned.
        """
        pair, config = self._pair, self._config
        held_back = None if self._data is None else self._data.held_back.get("task")
        facts = Interpolated(
            coefficient=self.coefficient,
            max_task_drop_percent=config.max_task_drop_percent,
            search=[CoefficientTrial.model_validate(one) for one in self._tried],
            held_back=0 if held_back is None else len(held_back),
            held_back_sha256=None if held_back is None else held_back.sha256,
            tensors=len(self.shared),
            left=self.left,
        )
        return build_report(
            base=str(pair.base),
            tuned=str(pair.tuned),
            messages=pair.messages,
            config=config,
            statistics=Statistics(
                axis=config.axis,
                scores={},
                halves={},
                fingerprints=pair.fingerprints,
                data={} if self._data is None else self._data.facts,
                settings={},
            ),
            selection=Selection(config.axis, {}, {}, [], {}, None),
            records=[],
            seconds=self._stages.seconds,
            target_parameters=0,
            interpolation=facts,
            verdict=None if verdict is None else verdict.as_dict(),
            form=form,
        )
