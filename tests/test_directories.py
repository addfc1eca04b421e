"""What is written is no input and lies in none."""

from pathlib import Path

import pytest

from hcnr.directories import check_outside
from hcnr.errors import OutputError


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("input", "input is the input itself, .*input; choose another --out"),
        ("input/deep/out.json", "out.json is inside the input .*input; choose another --out"),
        ("link/out.json", "is inside the input"),
        ("data.jsonl", "is the input itself, .*data.jsonl"),
        ("input/../input/x", "is inside the input"),
    ],
)
def test_an_output_in_an_input_is_refused(tmp_path: Path, out: str, sentence: str) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "link").symlink_to("input")
    (tmp_path / "data.jsonl").write_text("{}")
    with pytest.raises(OutputError, match=sentence):
        check_outside(tmp_path / out, [tmp_path / "data.jsonl", tmp_path / "input"])


def test_beside_an_input_and_above_it_there_is_room(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    for out in ("output", "inputs", "input-2/x", "."):
        check_outside(tmp_path / out, [tmp_path / "input", tmp_path / "absent"])
    with pytest.raises(OutputError, match=r"; choose another place$"):
        check_outside(tmp_path / "input" / "x", [tmp_path / "input"], "choose another place")
