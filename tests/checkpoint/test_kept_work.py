"""Finished passes of an interrupted run: kept, verified, taken over, gone at the end."""

from typing import Any, NamedTuple

import pytest
import torch

from hcnr.checkpoint import kept_work
from hcnr.checkpoint.kept_work import KeptWork
from hcnr.errors import DataError, OutputError

KEY = {"models": ["a", "b"], "samples": 4}


class Numbers(NamedTuple):
    mean: dict[str, torch.Tensor]
    sum: int


class Unknown(NamedTuple):
    value: int


@pytest.fixture(autouse=True)
def always_worth_it(monkeypatch):
    monkeypatch.setattr(kept_work, "_RATE", 1e18)


def make(total=3):
    return Numbers({"a": torch.arange(4.0)}, total)


def interrupted(place, key: Any = KEY, name="score honesty", **options):
    with pytest.raises(KeyboardInterrupt) as raised, KeptWork(place, **options) as keep:
        keep.open(key)
        keep.of(name, make, (Numbers,))
        raise KeyboardInterrupt
    return raised.value


def resumed(place, key: Any = KEY, name="score honesty", **options):
    """What the next run finds: its sentences, whether it had to compute, the result."""
    computed = []

    def again():
        computed.append(name)
        return make(7)

    with KeptWork(place, **options) as keep:
        notes = keep.open(key)
        found = keep.of(name, again, (Numbers,))
        notes += [keep.note] if keep.note else []
    return notes, bool(computed), found


def test_a_finished_pass_is_taken_over_and_gone_at_the_end(tmp_path):
    place = tmp_path / "out.unfinished"
    error = interrupted(place)
    assert vars(error)["kept_work"] == place
    notes, computed, found = resumed(place)
    assert notes == [
        "1 finished pass is taken over from out.unfinished, which an interrupted run left: the "
        "seconds are without them; --fresh begins anew"
    ]
    assert not computed and found.sum == 3
    assert torch.equal(found.mean["a"], torch.arange(4.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", ["key", "fresh", "name"])
def test_what_belongs_to_another_run_is_not_used(tmp_path, other):
    place = tmp_path / "out.unfinished"
    interrupted(place)
    options: dict[str, dict[str, Any]] = {
        "key": {"key": {**KEY, "samples": 5}},
        "fresh": {"fresh": True},
        "name": {"name": "score task"},
    }
    notes, computed, found = resumed(place, **options[other])
    assert computed and found.sum == 7
    reasons = {"key": "models, data, settings or versions differ", "fresh": "--fresh was given"}
    if other in reasons:
        assert notes[0].endswith(reasons[other])


@pytest.mark.parametrize("damage", ["flip", "cut", "no hash", "no text", "empty"])
def test_what_was_damaged_is_computed_again(tmp_path, damage):
    place = tmp_path / "out.unfinished"
    interrupted(place)
    (file,) = place.glob("*.pt")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    elif damage == "cut":
        del content[-1]
    elif damage == "empty":
        content.clear()
    elif damage == "no text":
        next(place.glob("*.sha256")).write_bytes(b"\xff\xfe")
    else:
        next(place.glob("*.sha256")).unlink()
    file.write_bytes(content)
    notes, computed, found = resumed(place)
    assert computed and found.sum == 7
    assert notes == [], "nothing was taken over"


def test_other_classes_are_not_made(tmp_path):
    """A file is data, not code: what was not asked for is not built."""
    place = tmp_path / "out.unfinished"
    with pytest.raises(KeyboardInterrupt), KeptWork(place) as keep:
        keep.open(KEY)
        keep.of("score honesty", lambda: Unknown(3), (Unknown,))
        raise KeyboardInterrupt
    assert list(place.glob("*.pt"))
    assert resumed(place)[1]


@pytest.mark.parametrize("name", ["notes.txt", "key", kept_work.KEY])
def test_a_folder_of_the_user_is_left_alone(tmp_path, name):
    place = tmp_path / "out.unfinished"
    place.mkdir()
    (place / name).write_bytes(b"mine \xff")
    notes, computed, _ = resumed(place)
    assert computed and "not of hcnr" in notes[0]
    assert (place / name).read_bytes() == b"mine \xff"


def test_a_run_that_needs_none_of_it_removes_it(tmp_path):
    """Such as one with statistics, after one without was interrupted."""
    place = tmp_path / "out.unfinished"
    interrupted(place)
    with KeptWork(place):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_runs_at_once_do_not_share_it(tmp_path):
    place = tmp_path / "out.unfinished"
    with KeptWork(place) as one:
        one.open(KEY)
        one.of("score honesty", make, (Numbers,))
        with pytest.raises(OutputError, match="another run is writing"), KeptWork(place) as other:
            other.open(KEY)
        assert place.is_dir()


def test_what_cannot_be_removed_stays_without_a_word(tmp_path, monkeypatch):
    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    place = tmp_path / "out.unfinished"
    with KeptWork(place) as keep:
        keep.open(KEY)
        keep.of("score honesty", make, (Numbers,))
        monkeypatch.setattr("os.rename", refused)
    assert place.is_dir()


@pytest.mark.parametrize("out", ["/", "/proc/self/none/out", "x" * 250])
def test_a_place_that_cannot_be_keeps_nothing(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with KeptWork.beside(out) as keep:
        keep.open(KEY)
        assert keep.of("losses", lambda: 5) == 5
    assert list(tmp_path.iterdir()) == []


def test_more_than_half_of_the_free_disk_is_not_taken(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 31})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert not hasattr(interrupted(tmp_path / "out.unfinished"), "kept_work")


def test_of_a_view_all_is_counted_once():
    whole = torch.zeros(100)
    assert kept_work.bytes_of({"a": whole[:3], "b": [whole[5:]], "c": make()}) == 400 + 16


def test_what_costs_more_to_write_than_it_saves_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_work, "_RATE", 1e-9)
    place = tmp_path / "out.unfinished"
    assert not hasattr(interrupted(place), "kept_work")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_nothing_but_the_head_start(tmp_path, monkeypatch):
    def full(*_args: Any, **_settings: Any) -> None:
        raise OSError(28, "No space left on device")

    place = tmp_path / "out.unfinished"
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        interrupted(place)
    assert resumed(place)[1]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_kept_without_a_place(tmp_path):
    with KeptWork.beside(None) as keep:
        assert keep.open(KEY) == []
        assert keep.of("losses", lambda: 5) == 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "stays"), [(DataError, False), (OutputError, True)])
def test_an_error_that_wants_another_input_leaves_nothing(tmp_path, error, stays):
    """A full disk wants none: the same command will do."""
    place = tmp_path / "new" / "out.unfinished"
    with pytest.raises(error), KeptWork(place) as keep:
        keep.open(KEY)
        keep.of("losses", lambda: 5)
        raise error("one sentence")
    assert place.exists() == stays
    assert place.parent.exists() == stays


def test_the_folder_appears_with_its_key(tmp_path, monkeypatch):
    """Killed in between it would be taken for the user's, and never be removed."""
    place = tmp_path / "out.unfinished"
    seen = []
    rename = type(place).rename

    def watched(one, to):
        seen.append((one / kept_work.KEY).is_file())
        return rename(one, to)

    monkeypatch.setattr(type(place), "rename", watched)
    interrupted(place)
    assert seen == [True] and (place / kept_work.KEY).is_file()
