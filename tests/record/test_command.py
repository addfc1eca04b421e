import shlex

import pytest
from typer.testing import CliRunner

from hcnr.config import RestoreConfig
from hcnr.record.command import restore_command
from hcnr.record.files.restoration import AGAIN, AdapterRecord, PairRecord, RestorationRecord


def report(data=True, **settings):
    config = RestoreConfig(**settings).model_dump(mode="json")
    facts = {name: {"source": f"/data/{name}.jsonl"} for name in ("honesty", "task")}
    pair = {"base": "/models/base", "tuned": "org/tuned@v1"}
    numbers = ("target_matrices", "selected_matrices", "restored_neurons", "restored_parameters",
               "target_parameters")  # fmt: skip
    content = {
        "pair": pair, "config": config, "data": facts if data else {}, "matrices": [],
        "summary": dict.fromkeys(numbers, 1), "perturbation": {}, "seconds": {}, "versions": {},
    }  # fmt: skip
    return RestorationRecord.of(content, "the report", AGAIN)


def test_only_what_is_not_the_default_is_said_and_no_path():
    assert restore_command(report(), "out") == (
        "hcnr restore base org/tuned@v1 --honesty honesty.jsonl --task task.jsonl --out out"
    )
    adapter = AdapterRecord(on="base", base="b", rank=16, error=0.0, exact=True, matrices={})
    written = report(data=False).model_copy(update={"adapter": adapter})
    assert restore_command(written, "my out") == (
        "hcnr restore base org/tuned@v1 --out-format adapter --adapter-rank 16 --out 'my out'"
    )
    memory = PairRecord(base="LlamaForCausalLM of x", tuned="")
    memory = report(data=False).model_copy(update={"pair": memory})
    assert restore_command(memory, "o") == "hcnr restore BASE TUNED --out o"


@pytest.mark.parametrize(
    "settings",
    [
        {"compensation": "spectral+natural", "task_weight": 3.1622776601683795, "steps": 2},
        {"targets": ("*.q_proj", "*up*"), "all_hessians": True, "block_size": 128, "damping": 0.1},
        {"compensation": "interpolate", "coefficient": 0.25, "device": "cpu", "shuffle_seed": 7},
    ],
)  # fmt: skip
def test_the_command_line_reads_the_same_settings(settings, monkeypatch):
    import hcnr.cli
    from hcnr.commands import restore

    read = {}

    def stop(config, given, preset_name=None):
        read.update(given)
        raise SystemExit(0)

    monkeypatch.setattr(restore, "load_config", stop)
    monkeypatch.setattr(restore, "check_command_line", lambda **_: None)
    monkeypatch.setattr(restore, "named_pair", lambda base, tuned: (base, tuned))
    words = shlex.split(restore_command(report(**settings), "out"))
    CliRunner().invoke(hcnr.cli.app, words[1:])
    assert RestoreConfig(**read) == RestoreConfig(**settings)
