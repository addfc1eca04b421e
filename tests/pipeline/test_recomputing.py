"""Blocks are recomputed where they have to be, and the result is the same bytes."""

from pathlib import Path
from typing import Any

import pytest

import hcnr
from hcnr.checkpoint.kept_work import KeptWork
from hcnr.config import RestoreConfig, load_config
from hcnr.data.repair_data import read_data
from hcnr.models.device_memory import GIB
from hcnr.models.pair import Pair
from hcnr.pipeline import recomputing
from hcnr.pipeline.memory import MARGIN
from hcnr.pipeline.recomputing import Counted
from hcnr.progress import Stages
from hcnr.record.writing import read_report

SETTINGS: dict[str, Any] = {"samples": 16, "token_budget": 256, "device": "cpu"}
KINDS: dict[str, dict[str, Any]] = {
    "sum": {"compensation": "sum"},
    "spectral": {"compensation": "spectral", "task_weight": 2.0},
}


@pytest.fixture
def free(monkeypatch):
    """Say what the device has free."""

    def set_free(nbytes: int) -> None:
        for module in ("hcnr.pipeline.memory", "hcnr.curvature.groups"):
            monkeypatch.setattr(f"{module}.free_memory", lambda _: nbytes)

    return set_free


@pytest.fixture
def counted(monkeypatch) -> list[Counted]:
    """Everything that is counted from now on."""
    found, real = list[Counted](), recomputing.count

    def noted(*arguments: Any, **settings: Any) -> Counted:
        found.append(real(*arguments, **settings))
        return found[-1]

    monkeypatch.setattr(recomputing, "count", noted)
    return found


def chosen(learned: dict[str, Any], keep: KeptWork | None = None, **settings: Any) -> Any:
    """The configuration that a run over a pair ends up with, and its messages."""
    config = RestoreConfig(**{**SETTINGS, **settings})
    pair = Pair.open(learned["base"], learned["tuned"], config, Stages())
    data = read_data(pair, learned["honesty"], learned["task"], config, None, Stages())
    found = recomputing.decided(pair, data, config, keep or KeptWork(None))
    return found, [message for message in pair.messages if "recomputed" in message]


def between(learned: dict[str, Any], counted: list[Counted], **settings: Any) -> int:
    """So much memory that all fits where blocks are recomputed, and not where they are kept."""
    config, _ = chosen(learned, **settings)
    kept, again = counted[0], counted[1]
    assert config.recomputes
    assert again.memory.backward and kept.memory.backward
    assert again.memory.backward < kept.memory.backward
    counted.clear()
    return int(MARGIN * (again.peak + kept.peak) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_switches_by_itself_and_gives_the_same_bytes(learned, tmp_path, free, counted, kind):
    places = {name: tmp_path / name for name in ("roomy", "tight", "refused")}
    config = RestoreConfig(**SETTINGS, **KINDS[kind])
    hcnr.restore(**learned, out=places["roomy"], config=config)
    assert not counted
    free(1)
    room = between(learned, counted, **KINDS[kind], memory_budget=0.01)
    free(room)
    hcnr.restore(**learned, out=places["tight"], config=config.replace(memory_budget=0.01))
    assert [one.config.recomputes for one in counted] == [False, True]
    unset = config.replace(gradient_checkpointing=False)
    hcnr.restore(**learned, out=places["refused"], config=unset)
    expected = weights(places["roomy"])
    assert weights(places["tight"]) == expected == weights(places["refused"])
    notes = [
        [note for note in read_report(place)["warnings"] if "blocks are recomputed" in note]
        for place in places.values()
    ]
    assert [len(one) for one in notes] == [0, 1, 0]
    assert "gradient_checkpointing is auto" in notes[1][0] and "that are free" in notes[1][0]
    done = [load_config(place / "hcnr_config.yaml", {}) for place in places.values()]
    assert [one.gradient_checkpointing for one in done] == [False, True, False]
    assert read_report(places["tight"])["config"]["gradient_checkpointing"] is True
    selections = [read_report(place).get("selection") for place in places.values()]
    assert selections[0] == selections[1] == selections[2]


def weights(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.safetensors"))}


def test_the_curvature_gets_what_is_left_and_one_block_at_the_least(learned, free, counted):
    free(1)
    config, (note,) = chosen(learned, compensation="spectral", task_weight=2.0, memory_budget=1.0)
    assert config.recomputes and config.memory_budget == 1.0 and "curvature" not in note
    again = counted[-1]
    # So little that a half of what is free is more than is left.
    largest = max(again.groups)
    free(int(MARGIN * (again.peak - largest // 3)))
    counted.clear()
    config, (note,) = chosen(learned, compensation="spectral", task_weight=2.0)
    assert config.recomputes and config.memory_budget is not None
    assert config.memory_budget * GIB < largest and "curvature takes at most" in note
    assert max(counted[-1].groups) <= config.memory_budget * GIB
    assert len(counted[-1].groups) > 1 and counted[-1].fits


def test_what_was_asked_for_stays(learned, free, counted):
    free(1)
    asked, notes = chosen(learned, gradient_checkpointing=False, compensation="none")
    assert asked.gradient_checkpointing is False and not notes and not counted
    free(10**15)
    asked, notes = chosen(learned, gradient_checkpointing=True)
    assert asked.gradient_checkpointing is True and asked.memory_budget is None and not notes


def test_the_first_part_of_a_run_decides(learned, tmp_path, free):
    tight: dict[str, Any] = {"compensation": "sum", "memory_budget": 0.01}
    place = tmp_path / "out.unfinished"
    free(1)
    with pytest.raises(KeyboardInterrupt), KeptWork(place) as keep:
        keep.open({})
        assert chosen(learned, keep, **tight)[0].recomputes
        keep.of("a pass", lambda: 1)
        raise KeyboardInterrupt
    free(10**15)
    assert not chosen(learned, **tight)[0].recomputes
    with KeptWork(place) as keep:
        keep.open({})
        assert chosen(learned, keep, **tight)[0].recomputes
        assert keep.kept == ["a-pass"] and not keep.taken_over


def test_the_process_with_least_room_decides_for_all(learned, free, monkeypatch):
    def others(name: str, own: Any) -> list[Any]:
        assert name == "recomputation" and own is None
        return [None, (True, 0.5, "of 1"), (True, 0.25, "of 2")]

    free(10**15)
    monkeypatch.setattr(recomputing.ranks, "gathered", others)
    config = RestoreConfig(**SETTINGS)
    pair = Pair.open(learned["base"], learned["tuned"], config, Stages())
    data = read_data(pair, learned["honesty"], learned["task"], config, None, Stages())
    found = recomputing.decided(pair, data, config, KeptWork(None))
    assert found.recomputes and found.memory_budget == 0.25
    assert "of 2" in pair.messages
