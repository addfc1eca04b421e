"""Which disk an output is made on, where several processes write it."""

from hcnr.pipeline import destination


def test_another_disk_is_told_by_its_token(tmp_path):
    """Two machines may have a directory of the same name, and each a run's token in it."""
    (tmp_path / destination._TOKEN).write_text("theirs")
    assert destination._sees(tmp_path, "theirs")
    assert not destination._sees(tmp_path, "ours")
    assert not destination._sees(tmp_path / "nowhere", "theirs")
