import pytest

from hcnr.data.records import check_source
from hcnr.data.samples import load_samples
from hcnr.errors import DataError


def test_csv(tmp_path):
    path = tmp_path / "d.csv"
    path.write_bytes(
        b"\xef\xbb\xbfinstruction,input,output,id\r\n"
        b'"Say ""hi"",\r\nplease",,hi,1\r\n\r\nAdd,1 2,3,\r\n'
    )
    found = load_samples(path)
    assert [(one.prompt, one.response) for one in found.samples] == [
        ('Say "hi",\r\nplease', "hi"),
        ("Add\n1 2", "3"),
    ]
    assert found.locations == (f"{path}, line 2", f"{path}, line 5")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("prompt;response\na;b\n", "line 1 separates its columns by ';', expected commas"),
        ("prompt,response\na,b,c\n", "line 2 has 3 cells, expected 2"),
        ("prompt,response\na\n", "line 2 has 1 cells, expected 2"),
        ("prompt,prompt\na,b\n", "line 1 names the column 'prompt' twice"),
        ("prompt,response\na,\n", "line 2 has no 'response'"),
        ('prompt,response\n"a,b\n', "line 2 is not valid csv"),
        ("prompt,response\n", "holds no samples"),
        ("", "holds no samples"),
    ],
)
def test_bad_csv(tmp_path, content, expected):
    path = tmp_path / "d.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=expected) as caught:
        load_samples(path)
    assert str(path) in str(caught.value)


def test_what_needs_no_file_is_a_source(tmp_path):
    for source in ("starter", "starter-validation", "hf:squad:train", str(tmp_path), None):
        check_source(source)
    with pytest.raises(DataError, match="does not exist; check the path"):
        check_source("h.jsonl")
