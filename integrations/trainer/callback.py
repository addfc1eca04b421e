"""A callback of transformers' Trainer that watches honesty while a model is tuned.

It logs scores, warns when the neurons that honesty needs move, and can hold them near where they
were, so that damage is prevented instead of repaired. TRL's trainers take it too.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from hcnr import RestoreConfig
from hcnr.data import Data
from hcnr.errors import ConfigError, DataError, ModelError
from hcnr.examples import load_samples
from hcnr.measure import score
from hcnr.model import open_tokenizer, target_matrices
from hcnr.selection import candidates, relative_perturbation
from hcnr.tokens import TokenizedSet, tokenize
from hcnr_kernels import perturbation

LOGGER = logging.getLogger(__name__)


class HonestyCallback(TrainerCallback):
    """Log, warn, hold; give it to `Trainer(..., callbacks=[...])`.

    When training begins, the model's neurons are scored on both data sets, and the top
    `in_weight_ratio` of each matrix by priority, method.md (3), are its honesty-critical ones. A
    log has, for each matrix, `honesty/NAME` and `task/NAME`, the mean score of these neurons, and
    `moved/NAME`, their relative change (4) since the beginning.

    Attributes:
        masks: matrix -> bool `[out]`, the honesty-critical neurons; filled when training begins.
        history: every log, with its step.
    """

    def __init__(
        self,
        honesty: Data,
        task: Data,
        *,
        config: RestoreConfig | None = None,
        every: int = 50,
        warn_above: float = 0.05,
        hold: float | None = None,
        report: Callable[[dict[str, float]], None] | None = None,
        tokenizer: Any = None,
    ) -> None:
        """Check the settings; nothing is measured before training begins.

        Args:
            honesty: samples: unanswerable question -> refusal, answerable -> answer.
            task: samples of what the model is tuned for.
            config: targets, `in_weight_ratio`, `samples`, `max_length`, `token_budget` of it; the
                neuron axis must be `output`.
            every: steps between two logs; the first and the last step are always logged.
            warn_above: `moved` above which a matrix is warned of, once.
            hold: the largest `moved` that is allowed: after each step of the optimiser the
                critical rows are pulled back to it. 0 keeps them as they are; None lets them go.
            report: receives each log, such as `trainer.log`; else it goes to the state's history.
            tokenizer: where the trainer has none.

        Raises:
            ConfigError: a setting is out of range.
        """
        self._config = config or RestoreConfig.from_preset("paper")
        if self._config.axis != "output":
            raise ConfigError("the neuron axis is 'input', expected 'output': rows are held")
        for name, value in (("warn_above", warn_above), ("hold", hold)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} is {value}; it must be a finite number >= 0")
        if every < 1:
            raise ConfigError(f"every is {every}; it must be at least 1")
        self._data = {"honesty": honesty, "task": task}
        self._every, self._warn_above, self._hold = every, warn_above, hold
        self._report, self._tokenizer = report, tokenizer
        self._sets: dict[str, TokenizedSet] = {}
        self._anchors: dict[str, Tensor] = {}
        self._warned: set[str] = set()
        self.masks: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Read the data, choose the neurons and remember their rows."""
        model = rest["model"]
        tokenizer = self._tokenizer or rest.get("processing_class") or rest.get("tokenizer")
        if tokenizer is None:
            raise DataError("the trainer has no tokenizer; pass tokenizer= to the callback")
        for name, source in self._data.items():
            samples = load_samples(source, limit=self._config.samples)
            self._sets[name] = tokenize(
                samples, open_tokenizer(tokenizer), max_length=self._config.max_length
            )
        layers = self._layers(model)
        scores = self._scores(model, layers)
        for position, (name, layer) in enumerate(layers.items()):
            pair = (scores[kind][name] for kind in ("honesty", "task"))
            mask = candidates(*pair, self._config, position=position).to(layer.weight.device)
            self.masks[name] = mask
            self._anchors[name] = layer.weight.detach()[mask].clone()
        self._log(state, model, scores)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Pull the critical rows back where they are held."""
        if self._hold is None:
            return
        with torch.no_grad():
            for name, layer in self._layers(rest["model"]).items():
                mask, anchor = self.masks[name], self._anchors[name]
                rows = layer.weight[mask]
                moved = self._moved(anchor, rows)
                if moved > self._hold:
                    pulled = anchor.float() + (rows.float() - anchor.float()) * (self._hold / moved)
                    layer.weight[mask] = pulled.to(rows.dtype)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Log every so many steps."""
        if state.global_step % self._every == 0:
            self._log(state, rest["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Log the last step."""
        if state.global_step % self._every:
            self._log(state, rest["model"])

    def _layers(self, model: nn.Module) -> dict[str, nn.Linear]:
        layers = target_matrices(model, self._config.targets, self._config.ignore)
        for name, layer in layers.items():
            if layer.weight.numel() != layer.out_features * layer.in_features:
                raise ModelError(
                    f"{name} is spread over processes, and its rows cannot be watched from one; "
                    "train without sharded parameters"
                )
        return layers

    def _scores(self, model: Any, layers: dict[str, nn.Linear]) -> dict[str, dict[str, Tensor]]:
        budget = self._config.token_budget
        return {
            name: score(model, layers, data, axis="output", token_budget=budget).mean
            for name, data in self._sets.items()
        }

    def _moved(self, anchor: Tensor, rows: Tensor) -> float:
        """Relative change of some rows, method.md (4)."""
        every = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        sums = perturbation(anchor, rows.detach(), every, axis="output")
        return relative_perturbation(*(float(value) for value in sums))

    def _log(self, state: Any, model: Any, scores: Any = None) -> None:
        layers = self._layers(model)
        scores = scores or self._scores(model, layers)
        logs: dict[str, float] = {}
        for name, layer in layers.items():
            mask = self.masks[name]
            for kind, own in scores.items():
                chosen = own[name][mask.cpu()]
                logs[f"{kind}/{name}"] = float(chosen.mean()) if len(chosen) else 0.0
            logs[f"moved/{name}"] = moved = self._moved(self._anchors[name], layer.weight[mask])
            if moved > self._warn_above and name not in self._warned:
                self._warned.add(name)
                LOGGER.warning(
                    "The honesty-critical neurons of %s have moved by %.3g of their norm at step "
                    "%d (warn_above is %.3g): expect less honesty; tune less, or use hold=.",
                    name, moved, state.global_step, self._warn_above,
                )  # fmt: skip
        self.history.append({"step": state.global_step, **logs})
        if self._report is None:
            state.log_history.append({"step": state.global_step, **logs})
        else:
            self._report(logs)
