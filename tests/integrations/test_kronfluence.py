"""Factors from our taps inside the real kronfluence, against its own."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import hosts
from families import VOCABULARY, make
from hcnr.errors import HcnrError

ours = hosts.load("kronfluence", "kronfluence.factors")
pytestmark = pytest.mark.filterwarnings("ignore")  # the tool's own

with hosts.silent():
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments
    from kronfluence.task import Task


class Rows(torch.utils.data.Dataset):
    """Token rows with padding on the right, and their masks."""

    def __init__(self, count: int, longest: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randint(3, VOCABULARY, (count, longest), generator=generator)
        lengths = torch.randint(2, longest + 1, (count,), generator=generator)
        self.mask = (torch.arange(longest) < lengths[:, None]).long()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return {"ids": self.rows[index], "mask": self.mask[index]}


class Language(Task):
    """Sum over samples of the mean loss of their tokens."""

    names: list[str] | None = None

    def compute_train_loss(self, batch, model, sample=False):
        logits = model(input_ids=batch["ids"], attention_mask=batch["mask"]).logits[:, :-1]
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["ids"][:, 1:].flatten(), reduction="none"
        ).view(len(logits), -1)
        real = batch["mask"][:, 1:]
        return ((losses * real).sum(1) / real.sum(1)).sum()

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self):
        return self.names

    def get_attention_mask(self, batch):
        return batch["mask"]


def analyzer_of(folder, family="llama"):
    task = Language()
    model = make(family)
    task.names = [name for name, one in model.named_modules()
                  if isinstance(one, nn.Linear) and "layers" in name]  # fmt: skip
    return Analyzer(
        "test", prepare_model(model, task), task, output_dir=str(folder), cpu=True,
        disable_tqdm=True,
    )  # fmt: skip


def check(theirs, found):
    assert theirs.keys() == found.keys()
    for table, own in theirs.items():
        assert own.keys() == found[table].keys() and len(own) > 4
        for name, exact in own.items():
            scale = exact.abs().max().float()
            torch.testing.assert_close(
                found[table][name], exact, rtol=1e-4, atol=float(2e-6 * scale)
            )


@pytest.mark.parametrize("family", ["llama", "qwen2"])  # without and with biases
def test_factors_are_kronfluences(tmp_path, family):
    analyzer, rows = analyzer_of(tmp_path, family), Rows(7, 9)
    arguments = FactorArguments(strategy="ekfac", use_empirical_fisher=True)
    analyzer.fit_covariance_matrices("theirs", rows, per_device_batch_size=3, factor_args=arguments)
    loader = torch.utils.data.DataLoader(rows, batch_size=2)
    returned = ours.fit_covariance(analyzer, "ours", loader, use_empirical_fisher=True)
    found = analyzer.load_covariance_matrices("ours")
    check(analyzer.load_covariance_matrices("theirs"), found)
    check(returned, found)


def test_the_analyzer_goes_on_from_our_factors(tmp_path):
    analyzer, rows = analyzer_of(tmp_path), Rows(6, 8)
    loader = torch.utils.data.DataLoader(rows, batch_size=6)
    ours.fit_covariance(analyzer, "ours", loader, use_empirical_fisher=True)
    arguments = FactorArguments(strategy="ekfac", use_empirical_fisher=True)
    analyzer.fit_all_factors("theirs", rows, per_device_batch_size=6, factor_args=arguments)
    analyzer.fit_all_factors("ours", rows, per_device_batch_size=6, factor_args=arguments)
    scores = []
    for name in ("theirs", "ours"):
        analyzer.compute_pairwise_scores(
            f"of {name}", name, rows, rows, per_device_query_batch_size=6,
            per_device_train_batch_size=6,
        )  # fmt: skip
        scores.append(analyzer.load_pairwise_scores(f"of {name}")["all_modules"])
    scale = float(scores[0].abs().max())
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-2, atol=1e-3 * scale)


def test_the_diagonal_is_kronfluences(tmp_path):
    analyzer, rows = analyzer_of(tmp_path), Rows(7, 9)
    arguments = FactorArguments(strategy="diagonal", use_empirical_fisher=True)
    analyzer.fit_lambda_matrices("theirs", rows, per_device_batch_size=3, factor_args=arguments)
    loader = torch.utils.data.DataLoader(rows, batch_size=4)
    ours.fit_diagonal(analyzer, "ours", loader, use_empirical_fisher=True)
    check(analyzer.load_lambda_matrices("theirs"), analyzer.load_lambda_matrices("ours"))


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return self.convolution(x)


def test_bad_input_is_one_sentence(tmp_path):
    loader = torch.utils.data.DataLoader(Rows(2, 4))
    analyzer = analyzer_of(tmp_path)
    with pytest.raises(HcnrError, match="covariance is for kfac and ekfac"):
        ours.fit_covariance(analyzer, "ours", loader, strategy="diagonal")
    with pytest.raises(HcnrError, match="yields no batch"):
        ours.fit_covariance(analyzer, "ours", [])
    task = Language()
    images = Analyzer(
        "images", prepare_model(Images(), task), task, output_dir=str(tmp_path), cpu=True
    )
    with pytest.raises(HcnrError, match="convolution is a Conv2d"):
        ours.fit_covariance(images, "ours", loader)
    with pytest.raises(HcnrError, match="call kronfluence's prepare_model first"):
        ours.fit_covariance(SimpleNamespace(model=make("llama"), task=task), "ours", loader)
    analyzer.task.get_attention_mask = lambda batch: {"layer": batch["mask"]}
    with pytest.raises(HcnrError, match="one for all is supported"):
        ours.fit_covariance(analyzer, "ours", loader)
    analyzer.task.get_attention_mask = lambda batch: batch["mask"][0]
    with pytest.raises(HcnrError, match=r"the mask of batch 0 is of shape \[4\]"):
        ours.fit_covariance(analyzer, "ours", loader)
    analyzer = analyzer_of(tmp_path)
    analyzer.task.compute_train_loss = lambda batch, model, sample: torch.tensor(float("nan"))
    with pytest.raises(HcnrError, match="the loss of batch 0 is nan"):
        ours.fit_covariance(analyzer, "ours", loader)
