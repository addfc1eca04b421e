"""What earlier revisions left on disk: results that are published, names of cached models."""

import json
from pathlib import Path

import pytest

from experiments.trial import real_recipe
from experiments.trial.candidate_specs import FineTuned, Interpolated, Samples, candidate_key
from experiments.trial.real_recipe import RealRecipe
from experiments.trial.seed_result import SeedResult
from experiments.trial.text_recipe import TextRecipe
from experiments.trial.trial_files import finished_results

RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "trial" / "results"
SEEDS = sorted(RESULTS.glob("*/seed-*.json"))


@pytest.mark.parametrize("file", SEEDS, ids=lambda file: f"{file.parent.name} {file.stem}")
def test_a_published_seed_is_read_and_written_as_it_was(file: Path):
    text = file.read_text(encoding="utf-8")
    result = SeedResult.from_dict(json.loads(text))
    assert json.dumps(result.as_dict(), indent=1) + "\n" == text
    assert list(result.references) == ["base", "tuned", "refuse all"]
    selected = result.method_results["interpolation"].selections[90.0]
    assert selected is not None and selected.candidate.validation.retention >= 90.0


def test_every_published_trial_is_collected():
    folders = {file.parent for file in SEEDS}
    assert len(folders) >= 3
    for folder in folders:
        assert len(finished_results(folder)) == len(list(folder.glob("seed-*.json")))


def test_names_of_cached_models_and_keys_of_candidates_stay(monkeypatch: pytest.MonkeyPatch):
    """Another one would train for hours what is there; a wanted change of it raises a FORMAT."""
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2")
    monkeypatch.setattr(real_recipe, "fast_bfloat16", lambda: False)
    files, real, text = {"a": "b"}, RealRecipe.of("nq", 1), TextRecipe(seed=1)
    assert [real.key("m", files), real.base_key("m", files)] == [
        "real-nq-1-a14f0ae90215",
        "real-base-f1d7c35c8bcf",
    ]
    assert [text.key(files), text.base_key(files)] == [
        "text-6fc09a7114e9a13f",
        "text-base-496e68f515210be2",
    ]
    assert candidate_key(FineTuned("both", 1e-4, 3, Interpolated(0.1)), Samples()) == (
        '{"after": {"coefficient": 0.1, "made": "interpolated"}, "count": 128, "epochs": 3, '
        '"honesty": "mixed", "made": "fine-tuned", "on": "both", "rate": 0.0001}'
    )
