import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hcnr.curvature.statistics import Statistics, check_destination
from hcnr.errors import OutputError, StatisticsError

NAMES = ["model.layers.10.q", "model.layers.2.q", "model.layers.2.k"]


def example() -> Statistics:
    shared = torch.rand(3, 3)
    return Statistics(
        axis="input",
        scores={s: {n: torch.rand(3) for n in NAMES} for s in ("honesty", "task")},
        halves={s: {n: torch.rand(2, 3) for n in NAMES} for s in ("honesty", "task")},
        hessians={"honesty": {NAMES[1]: shared, NAMES[2]: shared}},
        fingerprints={"base": "0123", "tuned": "4567"},
        settings={"axis": "input", "targets": ["*"]},
        data={"honesty": {"samples": 3}, "task": {"samples": 4}},
    )


def rewrite(path, **changes):
    """Change the header of a statistics file, tensors untouched."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["hcnr_statistics"])
    save_file(tensors, path, metadata={"hcnr_statistics": json.dumps({**header, **changes})})


def test_what_is_saved_comes_back(tmp_path):
    statistics = example()
    statistics.save(tmp_path / "s.safetensors")
    loaded = Statistics.load(tmp_path / "s.safetensors")
    assert loaded.matrices == NAMES  # the model's order, not the file's
    for kind in ("scores", "halves", "hessians"):
        found, wanted = getattr(loaded, kind), getattr(statistics, kind)
        assert list(found) == list(wanted)
        for data_set, by_matrix in wanted.items():
            assert list(found[data_set]) == list(by_matrix)
            for name, tensor in by_matrix.items():
                assert found[data_set][name].dtype == torch.float32
                assert torch.equal(found[data_set][name], tensor)
    for field in ("axis", "fingerprints", "settings", "data"):
        assert getattr(loaded, field) == getattr(statistics, field)


def test_the_file_is_as_readable_as_others_of_the_user(tmp_path):
    example().save(tmp_path / "s.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "s.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_shared_curvature_is_stored_once_and_stays_shared(tmp_path):
    example().save(tmp_path / "s.safetensors")
    with safe_open(tmp_path / "s.safetensors", "pt") as file:
        assert sum(key.startswith("hessians") for key in file.keys()) == 1  # noqa: SIM118
    loaded = Statistics.load(tmp_path / "s.safetensors").hessians["honesty"]
    assert loaded[NAMES[1]] is loaded[NAMES[2]]


def test_saving_over_an_old_file_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "s.safetensors"
    example().save(path)
    before = path.read_bytes()

    def fails(*_, **__):
        raise RuntimeError("disk on fire")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(RuntimeError):
        example().save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]


class TestBadFiles:
    def refused(self, path, match):
        with pytest.raises(StatisticsError, match=match):
            Statistics.load(path)

    def test_missing(self, tmp_path):
        self.refused(tmp_path / "none", r"no statistics file at .*hcnr measure")

    def test_something_else(self, tmp_path):
        save_file({"a": torch.zeros(2)}, tmp_path / "w.safetensors")
        self.refused(tmp_path / "w.safetensors", "is no statistics file of hcnr")
        (tmp_path / "t").write_text("hello")
        self.refused(tmp_path / "t", "is no statistics file of hcnr")

    @pytest.mark.parametrize("keep", [3, 50, 400, -1])
    def test_truncated(self, tmp_path, keep):
        path = tmp_path / "s"
        example().save(path)
        path.write_bytes(path.read_bytes()[:keep])
        self.refused(path, "is damaged")

    @pytest.mark.parametrize(
        "change",
        [{"shared": {"hessians.honesty.x": "nowhere"}}, {"matrices": 3}, {"data": None},
         {"axis": "diagonal"}, {"fingerprints": 7}],
    )  # fmt: skip
    def test_a_header_that_makes_no_sense(self, tmp_path, change):
        example().save(tmp_path / "s")
        rewrite(tmp_path / "s", **change)
        self.refused(tmp_path / "s", "is no statistics file of hcnr or is damaged")

    def test_a_newer_format(self, tmp_path):
        example().save(tmp_path / "s")
        rewrite(tmp_path / "s", format=99)
        self.refused(tmp_path / "s", "has format 99, this version reads format 1")

    def test_values_that_cannot_be_scores(self, tmp_path):
        for bad in (float("nan"), -1.0):
            statistics = example()
            statistics.scores["task"][NAMES[1]][0] = bad
            statistics.save(tmp_path / "s")
            self.refused(tmp_path / "s", rf"task scores of {NAMES[1]} are not finite")

    def test_a_matrix_without_task_scores(self, tmp_path):
        statistics = example()
        del statistics.scores["task"][NAMES[2]]
        statistics.save(tmp_path / "s")
        self.refused(tmp_path / "s", f"task scores of {NAMES[2]} are missing")

    def test_a_header_that_is_no_mapping(self, tmp_path):
        save_file({"a": torch.zeros(2)}, tmp_path / "s", metadata={"hcnr_statistics": "[1]"})
        self.refused(tmp_path / "s", "is damaged")

    def test_no_matrix_at_all(self, tmp_path):
        example().save(tmp_path / "s")
        rewrite(tmp_path / "s", matrices=[])
        self.refused(tmp_path / "s", "cover no matrix")

    @pytest.mark.parametrize(
        ("kind", "data_set", "bad"),
        [("scores", "task", torch.rand(2)), ("scores", "task", torch.rand(3, 1)),
         ("halves", "task", torch.rand(3)), ("hessians", "honesty", torch.rand(3, 2)),
         ("scores", "task", torch.rand(3, dtype=torch.float64))],
    )  # fmt: skip
    def test_shapes_and_dtypes_that_do_not_fit(self, tmp_path, kind, data_set, bad):
        statistics = example()
        getattr(statistics, kind)[data_set][NAMES[1]] = bad
        statistics.save(tmp_path / "s")
        self.refused(tmp_path / "s", rf"{kind} of {NAMES[1]} are .*expected float32 \[")

    def test_halves_of_one_set_only(self, tmp_path):
        statistics = example()
        del statistics.halves["task"]
        statistics.save(tmp_path / "s")
        self.refused(tmp_path / "s", "task halves of .* are missing")


class TestDestination:
    def test_only_statistics_are_replaced_and_only_on_request(self, tmp_path):
        path, data = tmp_path / "s", tmp_path / "honesty.jsonl"
        check_destination(path)
        example().save(path)
        with pytest.raises(OutputError, match="pass --overwrite"):
            check_destination(path)
        check_destination(path, overwrite=True)
        data.write_text("{}")
        with pytest.raises(OutputError, match="is no statistics file, so it is not replaced"):
            check_destination(data, overwrite=True)

    def test_inputs_are_never_written_into(self, tmp_path):
        (tmp_path / "tuned").mkdir()
        with pytest.raises(OutputError, match="inside the input"):
            check_destination(tmp_path / "tuned" / "s", inputs=[tmp_path / "tuned"])
        check_destination(tmp_path / "nowhere" / "s")
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match=r"'.*file' is no directory"):
            check_destination(tmp_path / "file" / "s")
