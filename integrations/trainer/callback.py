"""A callback of transformers' Trainer that watches honesty while a model is tuned.

It logs scores, warns when the neurons that honesty needs move, and can hold them near where they
were. On a tiny model that prevents damage, on a pretrained one it did not (docs/operators.md).
"""

import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback

from hcnr import RestoreConfig
from hcnr.curvature.scores import score
from hcnr.data.repair_data import Data
from hcnr.data.samples import load_samples
from hcnr.data.tokens import TokenizedSet, tokenize
from hcnr.errors import ConfigError, DataError
from hcnr.models.model import open_tokenizer
from integrations.trainer.neurons import CriticalRows, check_settings, check_trained, layers_of

LOGGER = logging.getLogger(__name__)


class HonestyCallback(TrainerCallback):
    """Log, warn, hold; give it to `Trainer(..., callbacks=[...])`.

    When training begins, the model's neurons are scored on both data sets, and the top
    `in_weight_ratio` of each matrix by priority, method.md (3), are its honesty-critical ones. A
    log has, for each matrix, `honesty/NAME` and `task/NAME`, the mean score of these neurons, and
    `moved/NAME`, their relative change (4) since the beginning; `history` has every log.
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
        """Check the settings; ConfigError where one is out of range.

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
        """
        self._config = config or RestoreConfig.from_preset("paper")
        check_settings(self._config, warn_above, hold, every)
        self._data = {"honesty": honesty, "task": task}
        self._every, self._warn_above, self._hold = every, warn_above, hold
        self._report, self._tokenizer = report, tokenizer
        self._sets: dict[str, TokenizedSet] = {}
        self._rows: dict[str, CriticalRows] = {}
        self._warned: set[str] = set()
        self.history: list[dict[str, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Read the data, choose the neurons and remember their rows; HcnrError where it cannot."""
        if state.global_step:
            raise ConfigError(
                f"the training goes on from step {state.global_step}, and the neurons are those of "
                "the model before the first; start it anew, or leave the callback out"
            )
        model, tokenizer = rest["model"], self._tokenizer or rest.get("processing_class")
        if tokenizer is None:
            raise DataError("the trainer has no tokenizer; pass tokenizer= to the callback")
        for name, source in self._data.items():
            samples = load_samples(source, limit=self._config.samples)
            self._sets[name] = tokenize(
                samples, open_tokenizer(tokenizer), max_length=self._config.max_length
            )
        layers = layers_of(model, self._config)
        check_trained(layers)
        scores = self._scores(model, layers)
        for position, (name, layer) in enumerate(layers.items()):
            self._rows[name] = CriticalRows(
                layer, scores["honesty"][name], scores["task"][name], self._config, position
            )
        self._log(state, layers, scores)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Pull the critical rows back where they are held."""
        if self._hold is not None:
            for name, layer in layers_of(rest["model"], self._config).items():
                self._rows[name].pull(layer, self._hold)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Log every so many steps."""
        if state.global_step % self._every == 0:
            self._measure(state, rest["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Log the last step."""
        if state.global_step % self._every:
            self._measure(state, rest["model"])

    @property
    def masks(self) -> dict[str, Tensor]:
        """Matrix -> bool `[out]`, the honesty-critical neurons, once training has begun."""
        return {name: rows.mask for name, rows in self._rows.items()}

    def _measure(self, state: Any, model: Any) -> None:
        layers = layers_of(model, self._config)
        self._log(state, layers, self._scores(model, layers))

    def _scores(self, model: Any, layers: dict[str, nn.Linear]) -> dict[str, dict[str, Tensor]]:
        budget = self._config.token_budget
        return {
            name: score(model, layers, data, axis="output", token_budget=budget).mean
            for name, data in self._sets.items()
        }

    def _log(self, state: Any, layers: dict[str, nn.Linear], scores: Any) -> None:
        logs: dict[str, float] = {}
        for name, layer in layers.items():
            for kind, own in scores.items():
                chosen = own[name][self._rows[name].mask.cpu()]
                logs[f"{kind}/{name}"] = float(chosen.mean()) if len(chosen) else 0.0
            logs[f"moved/{name}"] = moved = self._rows[name].moved(layer)
            # Rows that are held at the same value are there up to rounding.
            if moved > self._warn_above * (1 + 1e-3) and name not in self._warned:
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
