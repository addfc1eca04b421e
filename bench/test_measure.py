"""The scoring pass against bare forward + backward, and against what else computes such scores."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from hcnr.batches import collate, plan_batches
from hcnr.measure import prepared, sample_losses, score
from hcnr.model import target_matrices
from hcnr.tokens import TokenCounts, TokenizedSample, TokenizedSet

SAMPLES, LENGTH, RESPONSE, BUDGET = 32, 128, 32, 2048
Race = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Four blocks of hidden 512: the shape whose ratios performance targets name."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1376, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=8, vocab_size=1024, max_position_embeddings=LENGTH,
    )  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return LlamaForCausalLM(config).to(device).eval()  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def data() -> TokenizedSet:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, 1024, (SAMPLES, LENGTH), generator=generator).tolist()
    samples = tuple(TokenizedSample(tuple(row), LENGTH - RESPONSE) for row in rows)
    counts = TokenCounts(SAMPLES, SAMPLES * LENGTH, SAMPLES * RESPONSE, 0, 0, False)
    return TokenizedSet(samples, counts, "-")


def bare(model: LlamaForCausalLM, data: TokenizedSet) -> None:
    """The passes of `score` with nothing collected."""
    with prepared(model):
        for half in range(2):
            indices = range(half, SAMPLES, 2)
            for members in plan_batches([LENGTH] * len(indices), BUDGET):
                batch = collate(data.samples, [indices[i] for i in members], pad_token_id=0)
                sample_losses(model, batch.to(model.device)).sum().backward()


def batch_one_loop(model: LlamaForCausalLM, data: TokenizedSet) -> dict[str, Tensor]:
    """What EWC codes do when they do it right: one backward pass per sample, `grad.pow(2)`."""
    layers = target_matrices(model)
    model.requires_grad_(False)
    scores = {}
    for name, layer in layers.items():
        layer.weight.requires_grad_(True)
        scores[name] = torch.zeros(layer.out_features, device=layer.weight.device)
    for index in range(SAMPLES):
        batch = collate(data.samples, [index], pad_token_id=0).to(model.device)
        sample_losses(model, batch).sum().backward()
        for name, layer in layers.items():
            assert layer.weight.grad is not None
            scores[name] += layer.weight.grad.pow(2).sum(1)
            layer.weight.grad = None
    return {name: total / SAMPLES for name, total in scores.items()}


@pytest.mark.parametrize("axis", ["output", "input"])
def test_scoring_over_bare_passes(
    model: LlamaForCausalLM, data: TokenizedSet, axis: Any, race: Race
) -> None:
    layers = target_matrices(model)

    def scoring() -> dict[str, Tensor]:
        return score(model, layers, data, axis=axis, token_budget=BUDGET).mean

    if axis == "output":
        exact = batch_one_loop(model, data)
        for name, found in scoring().items():
            torch.testing.assert_close(found, exact[name].cpu(), rtol=1e-4, atol=0)
    contenders: dict[str, Callable[[], Any]] = {
        f"score ({axis})": scoring,
        "bare forward + backward": lambda: bare(model, data),
    }
    if axis == "output":
        contenders["batch-1 loop"] = lambda: batch_one_loop(model, data)
    race("scoring pass", contenders, rounds=7)


@pytest.mark.filterwarnings("ignore")  # the rival's own
def test_scoring_against_kronfluence(
    model: LlamaForCausalLM, data: TokenizedSet, race: Race, tmp_path: Path
) -> None:
    """Element-wise diagonal factors of the same matrices, its nearest offer."""
    pytest.importorskip("kronfluence", reason="pip install kronfluence to time against it")
    from kronfluence.analyzer import Analyzer, prepare_model  # pyright: ignore[reportMissingImports]
    from kronfluence.arguments import FactorArguments  # pyright: ignore[reportMissingImports]
    from kronfluence.task import Task  # pyright: ignore[reportMissingImports]
    from torch.utils.data import Dataset

    class Rows(Dataset):
        def __len__(self) -> int:
            return SAMPLES

        def __getitem__(self, index: int) -> Tensor:
            return torch.tensor(data.samples[index].input_ids)

    class Language(Task):
        def compute_train_loss(
            self, batch: Tensor, model: nn.Module, sample: bool = False
        ) -> Tensor:
            logits = model(input_ids=batch).logits[:, LENGTH - RESPONSE - 1 : -1].float()
            labels = batch[:, LENGTH - RESPONSE :]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
            return loss * len(batch)

        def compute_measurement(self, batch: Tensor, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return list(layers)

    layers = target_matrices(model)
    rival = prepare_model(copy.deepcopy(model), Language())
    analyzer = Analyzer(
        "bench", rival, Language(), output_dir=str(tmp_path), disable_tqdm=True,
        cpu=model.device.type == "cpu",
    )  # fmt: skip

    def diagonal() -> None:
        analyzer.fit_all_factors(
            "diagonal", Rows(), factor_args=FactorArguments(strategy="diagonal"),
            per_device_batch_size=BUDGET // LENGTH, overwrite_output_dir=True,
        )  # fmt: skip

    race(
        "scoring pass",
        {
            "score (output)": lambda: score(
                model, layers, data, axis="output", token_budget=BUDGET
            ),
            "kronfluence diagonal": diagonal,
        },
        rounds=5,
    )
