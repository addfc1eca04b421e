"""The repairs of one run: a weight at a time, a whole model or directory, and the report."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hcnr import ranks
from hcnr.checkpoint import Spliced, write_copy
from hcnr.config import RestoreConfig
from hcnr.curvature.statistics import Statistics
from hcnr.models.directory import DirectorySource
from hcnr.models.experts import layer_of
from hcnr.models.linear import as_stored, shape_of
from hcnr.models.model import resolve_device
from hcnr.models.pair import Pair
from hcnr.progress import MERGE, SAVE, WRITE, WRITE_ADAPTER, Adding, Stages
from hcnr.record.files.matrix_record import MatrixRecord
from hcnr.record.files.restoration import AdapterRecord, PatchRecord
from hcnr.record.files.two_sided import WholeMatrixRecord
from hcnr.repair.adapter_output import AdapterOutput
from hcnr.repair.compensate import final_weight, repair
from hcnr.repair.restored import restored_record
from hcnr.repair.selection import Selecting, Selection
from hcnr.repair.summary import build_report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hcnr.repair.output_form import OutputForm
    from hcnr.repair.verdict import Verdict
    from hcnr.repair.whole import WholeRepairs

Finished = dict[str, tuple[Tensor, MatrixRecord]]
"""Matrix -> its final weight `[out, in]` and how it was obtained."""


class Repairs:
    """The repairs of one run, carried out one matrix at a time by whoever writes them down."""

    def __init__(
        self,
        pair: Pair,
        statistics: Statistics,
        selection: Selection | Selecting,
        config: RestoreConfig,
        stages: Stages,
        whole: "WholeRepairs | None" = None,
        finished: Finished | None = None,
    ) -> None:
        """Take everything that decides the weights.

        Args:
            pair: base and tuned.
            statistics: curvature along one axis, for the kinds that use it.
            selection: matrices and neurons; one that is still to look at the weights does so as
                each is written, where all matrices are repaired and none is compensated.
            config: kind, damping, task weight as a number.
            stages: told about progress.
            whole: what was repaired or searched for beforehand.
            finished: matrices whose neurons were repaired beforehand.
        """
        self._pair, self._statistics = pair, statistics
        self._selecting = selection if isinstance(selection, Selecting) else None
        self._selection = selection.beforehand if isinstance(selection, Selecting) else selection
        self._config, self._stages, self._whole = config, stages, whole
        self._finished = finished or {}
        self._records: dict[str, MatrixRecord] = {}
        self._by_bytes = False  # whether progress is told by whoever writes

    def weight(self, matrix: str) -> Tensor:
        """Final weight of a selected matrix; its record is kept."""
        if self._whole is not None and matrix in self._whole.weights:
            weight = self._whole.weights[matrix]
            self._records[matrix] = self._record_whole(matrix, weight)
        elif matrix in self._finished:
            weight, self._records[matrix] = self._finished[matrix]
        elif self._selecting is not None:
            base, tuned = (one.view(matrix) for one in (self._pair.base, self._pair.tuned))
            mask = self._looked_at(matrix, base, tuned)
            if not mask.any():
                return tuned
            weight = final_weight(matrix, base, tuned, mask, self._statistics, self._config).weight
        else:
            weight, self._records[matrix] = repair(
                matrix,
                self._pair.base.view(matrix),
                self._pair.tuned.view(matrix),
                self._statistics,
                self._selection,
                self._config,
            )
        if not self._by_bytes:
            self._stages.watcher.advance(len(self._records), len(self._selection.selected))
        return weight

    def _spliced(self, matrix: str) -> Spliced | None:
        """The same of restored rows that stay base's as they are: nothing has to be put together.

        Both weights are finite by now, and none is rounded.
        """
        config, taken = self._config, self._finished if self._whole is None else self._whole.weights
        if config.kind.applied() is not None or config.axis != "output" or matrix in taken:
            return None
        base, tuned = (one.view(matrix) for one in (self._pair.base, self._pair.tuned))
        if base.dtype != tuned.dtype:
            return None
        if self._selecting is not None:
            return Spliced(tuned, base, self._looked_at(matrix, base, tuned))
        self._records[matrix] = restored_record(matrix, tuned.shape, self._selection)
        return Spliced(tuned, base, self._selection.masks[matrix])

    def _looked_at(self, matrix: str, base: Tensor, tuned: Tensor) -> Tensor:
        """Neurons to restore of a matrix that the selection sees now; none where it never moved."""
        assert self._selecting is not None
        self._selecting.look(matrix, base, tuned)
        mask = self._selection.masks[matrix]
        return mask if self._selecting.check(matrix) else torch.zeros_like(mask)

    def _complete(self) -> None:
        """Know the selection, once it has looked at all that was written."""
        if self._selecting is None:
            return
        for matrix in self._selecting.waiting:
            self._selecting.look(
                matrix, self._pair.base.view(matrix), self._pair.tuned.view(matrix)
            )
        self._selection = self._selecting.finish()
        layers = self._pair.tuned.matrices(self._config.targets, self._config.ignore)
        self._records = {
            name: restored_record(name, shape_of(layers[name]), self._selection)
            for name in self._selection.selected
        }

    def _record_whole(self, matrix: str, weight: Tensor) -> MatrixRecord:
        assert self._whole is not None
        neurons = self._selection.masks[matrix].shape[0]
        return MatrixRecord(
            name=matrix,
            neurons=neurons,
            restored=neurons,
            parameters=weight.numel(),
            perturbation=self._selection.perturbation[matrix],
            half_overlap=self._selection.overlap.get(matrix),
            device=str(resolve_device(self._config.device)),
            two_sided=WholeMatrixRecord.model_validate(self._whole.records[matrix]),
        )

    def model(self) -> "PreTrainedModel":
        """A restored model in memory; a source that is a model is copied, not changed."""
        with self._stages.stage(MERGE), torch.no_grad():
            model = self._pair.copy_of_tuned(self._config)
            for matrix in self._selection.selected:
                layer = layer_of(model, matrix)
                layer.get_parameter("weight").copy_(as_stored(layer, self.weight(matrix)))
        return model

    def write(
        self,
        directory: Path,
        tokenizer: Any,
        form: "OutputForm | None" = None,
        *,
        files: Collection[str] | None = None,
    ) -> AdapterRecord | PatchRecord | None:
        """Write weights and everything `from_pretrained` needs into `directory`.

        Args:
            directory: an existing directory.
            tokenizer: of a model in memory.
            form: an adapter or a patch, which is written in their place.
            files: names of the weight files that this process writes, of a directory's copy; all
                when None. What lies beside them goes with the first.

        Returns:
            What the report says of that form; None where a whole checkpoint was written.
        """
        tuned = self._pair.tuned
        if isinstance(form, AdapterOutput):
            with self._stages.stage(WRITE_ADAPTER):
                return form.write(directory, self._selection.selected, self.weight, self._config)
        if isinstance(tuned, DirectorySource):
            with self._stages.stage(WRITE) as watcher:
                self._by_bytes = True
                checkpoint, chosen = tuned.checkpoint, self._selection.selected
                progress = Adding(watcher, checkpoint.bytes_of(files))
                if form is not None:
                    return form.write(directory, tuned.replacing(self.weight, chosen), progress)
                replacement = tuned.replacing(self.weight, chosen, self._spliced)
                write_copy(checkpoint, directory, replacement, progress, files)
                self._complete()
            return None
        model = self.model()
        with self._stages.stage(SAVE):
            self._pair.save(model, directory, tokenizer)
        return None

    def gather(self) -> None:
        """Have the records of all processes, after each has written its files."""
        self._records = ranks.merged("records", self._records)

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
        layers = self._pair.tuned.matrices(self._config.targets, self._config.ignore)
        return build_report(
            target_parameters=sum(
                layer.weight.numel()
                for name, layer in layers.items()
                if name not in self._selection.untouched
            ),
            base=str(self._pair.base),
            tuned=str(self._pair.tuned),
            messages=self._pair.messages,
            config=self._config,
            statistics=self._statistics,
            selection=self._selection,
            records=[self._records[name] for name in self._selection.selected],
            seconds=self._stages.seconds,
            two_sided=None if self._whole is None else self._whole.facts,
            out_of_reach=None if (reach := self._pair.tuned.reach) is None else reach.as_dict(),
            verdict=None if verdict is None else verdict.as_dict(),
            sources=self._pair.facts.get("sources"),
            form=form,
        )
