"""The report of a training: one class writes and reads it. Nothing is trained here."""

import json

import pytest

import hcnr
from hcnr.errors import DataError
from hcnr.record.files.tuning import TuneRecord
from hcnr.record.front_matter import Origin
from hcnr.tuning.record import build_record, loss_lines, tuned_card
from hcnr.tuning.settings import TuneSettings

FACTS = {
    "source": "h.jsonl", "available": 9, "format": "prompt and response", "sha256": "a",
    "tokens_sha256": "b", "max_length": 64, "samples": 4, "tokens": 1024, "response_tokens": 12,
    "prompts_truncated": 0, "responses_truncated": 0, "chat_template": False,
}  # fmt: skip


def record(**settings) -> TuneRecord:
    return build_record(
        "models/tuned", "ebb4", TuneSettings(**settings), {"honesty": FACTS, "task": FACTS},
        {"honesty": 2.0, "task": 1.0}, {"honesty": 1.5, "task": 0.5},
        {"honesty": True, "task": False}, {"steps": 3, "loss": 1.25}, ["a note"],
        {"train": 1.0}, {"hcnr": "1"},
    )  # fmt: skip


def test_every_part_is_written_as_it_was_given():
    """In the order that reports have; whole numbers stay whole."""
    assert record(rate=1, epochs=4).as_dict() == {
        "tune": {
            "rate": 1, "epochs": 4, "lora": None, "batch_size": 8, "samples": 128, "seed": 0,
            "max_length": 1024, "chat_template": "auto", "steps": 3, "loss": 1.25,
        },
        "pair": {"tuned": "models/tuned", "fingerprints": {"tuned": "ebb4"}},
        "data": {"honesty": FACTS, "task": FACTS},
        "losses": {
            "honesty": {"tuned": 2.0, "result": 1.5, "held_back": True},
            "task": {"tuned": 1.0, "result": 0.5, "held_back": False},
        },
        "warnings": ["a note"],
        "seconds": {"train": 1.0},
        "versions": {"hcnr": "1"},
    }  # fmt: skip
    text = json.dumps(record(rate=1, epochs=4).as_dict())
    assert text.startswith('{"tune": {"rate": 1, "epochs": 4, "lora": null, "batch_size": 8')
    assert [*json.loads(text)] == list(TuneRecord.model_fields)


def test_settings_and_record_have_the_same_fields():
    made = record().as_dict()["tune"]
    assert made.keys() == {*TuneSettings().as_dict(), "steps", "loss"}


def test_a_written_report_is_read_again(tmp_path):
    written = record(lora=2)
    (tmp_path / "hcnr_report.json").write_text(json.dumps(written.as_dict()))
    report = hcnr.read_report(tmp_path)
    assert dict(report) == written.as_dict()
    assert TuneRecord.model_validate(report) == written
    assert dict(report.facts())["trained"] == "3 steps, rate 0.0002"
    assert loss_lines(written) == [
        "honesty loss on held-back samples: tuned 2.0000 -> result 1.5000",
        "task loss on trained samples: tuned 1.0000 -> result 0.5000",
    ]
    card = tuned_card(written, Origin())
    for text in ("LoRA, rank 2, merged", "4 samples, 1,024 tokens", "3 (3 steps of 8 samples)"):
        assert text in card


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tune": {"rate": "fast"}}, r"holds a str as 'tune\.rate"),
        ({"tune": {}}, "has no part 'tune.rate', expected one"),
        ({"pair": {}}, "has no part 'pair.tuned', expected one"),
        ({"losses": {"task": {"tuned": 1.0, "result": 1.0}}}, "no part 'losses.task.held_back'"),
        ({"losses": []}, "holds a list as 'losses', expected an object"),
    ],
)
def test_a_damaged_report_is_told_in_a_sentence(tmp_path, change, told):
    (tmp_path / "hcnr_report.json").write_text(json.dumps({**record().as_dict(), **change}))
    with pytest.raises(DataError, match=rf"hcnr_report\.json .*{told}.*; tune again"):
        hcnr.read_report(tmp_path)
