"""The scoring pass and what it is raced against: bare passes, a batch-1 loop, kronfluence."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hcnr.curvature.layouts import TokenLayout
from hcnr.curvature.moments import curvature
from hcnr.curvature.passes import prepared, sample_losses
from hcnr.curvature.scores import score
from hcnr.curvature.taps import Taps
from hcnr.data.batches import Batch, collate, plan_batches
from hcnr.data.tokens import TokenCounts, TokenizedSample, TokenizedSet
from hcnr.models.targets import target_matrices
from hcnr_kernels.checks import Axis


class Race(NamedTuple):
    """A model, data, and the padded tokens of a micro-batch."""

    model: LlamaForCausalLM
    data: TokenizedSet
    budget: int

    @property
    def layers(self) -> dict[str, nn.Linear]:
        return target_matrices(self.model)

    def batches(self) -> Iterator[Batch]:
        """The micro-batches of `score`, and of whatever else measures all samples."""
        lengths = self.data.lengths
        for members in plan_batches(lengths, self.budget):
            yield collate(self.data.samples, members, pad_token_id=0).to(self.model.device)


def llama(device: torch.device, dtype: torch.dtype, **sizes: int) -> LlamaForCausalLM:
    """A Llama with random weights, made on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes), dtype=dtype)  # pyright: ignore[reportArgumentType]
    return model.eval()


def random_samples(lengths: list[int], response: int, vocabulary: int) -> TokenizedSet:
    """Samples of random tokens whose last `response` (at most half of them) carry loss."""
    source = random.Random(1)
    samples = tuple(
        TokenizedSample(
            tuple(source.randrange(vocabulary) for _ in range(length)),
            length - min(response, length // 2),
        )
        for length in lengths
    )
    carried = sum(len(sample) - sample.response_start for sample in samples)
    counts = TokenCounts(len(lengths), sum(lengths), carried, 0, 0, False)
    return TokenizedSet(samples, counts, "-")


def scoring(race: Race, axis: Axis) -> dict[str, Tensor]:
    return score(race.model, race.layers, race.data, axis=axis, token_budget=race.budget).mean


def bare(race: Race) -> None:
    """The passes of `score` with nothing collected: no weight gradient is formed."""
    with prepared(race.model):
        for batch in race.batches():
            sample_losses(race.model, batch).sum().backward()


def bare_forward(race: Race) -> None:
    """The passes of `curvature` on the input axis with nothing collected."""
    with prepared(race.model), torch.no_grad():
        for batch in race.batches():
            sample_losses(race.model, batch)


def curving(race: Race, axis: Axis) -> dict[str, Tensor]:
    return curvature(race.model, race.layers, race.data, axis=axis, token_budget=race.budget)


def keeping_inputs(race: Race) -> None:
    """The bare passes, but every linear layer's input is kept, as in ordinary training."""
    taps = Taps(race.layers, on_gradient=lambda *_: None)
    with prepared(race.model), taps:
        for batch in race.batches():
            taps.begin(TokenLayout(batch.attention_mask))
            sample_losses(race.model, batch).sum().backward()


def batch_one_loop(race: Race, axis: Axis) -> dict[str, Tensor]:
    """What EWC codes do when they do it right: one backward pass per sample, `grad.pow(2)`."""
    model, layers = race.model, race.layers
    along = 1 if axis == "output" else 0
    scores = {}
    model.requires_grad_(False)
    for name, layer in layers.items():
        layer.weight.requires_grad_(True)
        neurons = layer.out_features if axis == "output" else layer.in_features
        scores[name] = torch.zeros(neurons, device=layer.weight.device)
    count = len(race.data.samples)
    for index in range(count):
        batch = collate(race.data.samples, [index], pad_token_id=0).to(model.device)
        sample_losses(model, batch).sum().backward()
        for name, layer in layers.items():
            assert layer.weight.grad is not None
            scores[name] += layer.weight.grad.pow(2).sum(along, dtype=torch.float32)
            layer.weight.grad = None
    model.requires_grad_(False)
    return {name: total / count for name, total in scores.items()}


def kronfluence_diagonal(race: Race, response: int, directory: Path) -> Callable[[], None] | None:
    """Element-wise diagonal factors of the same matrices, kronfluence's nearest offer.

    None where it or what it needs is not installed. Samples must be of one length. What it would
    write to disk, a copy of every weight in float32, is not written: our scores are not either.
    `directory` takes its settings alone.
    """
    try:
        from kronfluence.analyzer import Analyzer, prepare_model  # pyright: ignore[reportMissingImports]
        from kronfluence.arguments import FactorArguments  # pyright: ignore[reportMissingImports]
        from kronfluence.computer import factor_computer  # pyright: ignore[reportMissingImports]
        from kronfluence.task import Task  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    import copy

    from torch.utils.data import Dataset

    samples, layers = race.data.samples, race.layers
    length = len(samples[0])

    class Rows(Dataset):
        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, index: int) -> Tensor:
            return torch.tensor(samples[index].input_ids)

    class Language(Task):
        def compute_train_loss(
            self, batch: Tensor, model: nn.Module, sample: bool = False
        ) -> Tensor:
            logits = model(input_ids=batch).logits[:, length - response - 1 : -1].float()
            labels = batch[:, length - response :]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
            return loss * len(batch)

        def compute_measurement(self, batch: Tensor, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return list(layers)

    rival = prepare_model(copy.deepcopy(race.model), Language())
    analyzer = Analyzer(
        "bench", rival, Language(), output_dir=str(directory), disable_tqdm=True,
        cpu=race.model.device.type == "cpu",
    )  # fmt: skip

    def diagonal() -> None:
        with mock.patch.object(factor_computer, "save_lambda_matrices", lambda **_: None):
            fit()

    def fit() -> None:
        analyzer.fit_all_factors(
            "diagonal", Rows(), factor_args=FactorArguments(strategy="diagonal"),
            per_device_batch_size=max(1, race.budget // length), overwrite_output_dir=True,
        )  # fmt: skip

    return diagonal
