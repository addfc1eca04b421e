import numpy as np
import torch

from hcnr.curvature.statistics import Statistics
from hcnr.record.quantiles import LEVELS, score_quantiles


def test_quantiles_by_hand():
    hundred = torch.arange(101, dtype=torch.float32)[torch.randperm(101)]
    scores = {"honesty": {"m": hundred}, "task": {"m": torch.tensor([2.0, 4.0])}}
    found = score_quantiles(Statistics("output", scores, {}))
    assert found == {"m": {"honesty": [5, 25, 50, 75, 95], "task": [2.1, 2.5, 3.0, 3.5, 3.9]}}


def test_quantiles_of_measured_scores_against_numpy(statistics):
    measured = statistics["input"]
    found = score_quantiles(measured)
    assert list(found) == measured.matrices
    for name in measured.matrices:
        for data_set in ("honesty", "task"):
            expected = np.quantile(measured.scores[data_set][name].numpy(), LEVELS)
            np.testing.assert_allclose(found[name][data_set], expected, rtol=6e-4)
