import pytest

from hcnr.record.names import names_only


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("tuned (/models/honest-8b) has no tokenizer", "tuned (honest-8b) has no tokenizer"),
        ("~/data/task.jsonl, 128 of 200", "task.jsonl, 128 of 200"),
        ("see /a/b/c.d. And /e/f/", "see c.d. And f"),
        (r"C:\models\base is there", "base is there"),
        ("file:///home/jane/x.csv", "x.csv"),
        ("LlamaForCausalLM of /models/base", "LlamaForCausalLM of base"),
    ],
)
def test_absolute_paths_become_names(text, named):
    assert names_only(text) == names_only(named) == named


@pytest.mark.parametrize(
    "text",
    ["org/tuned@v1.0", "hf:org/set", "https://huggingface.co/org/x", "models/base", "1 / 2 and/or",
     "<b>a</b>/<i>", "model.layers.0.mlp.up_proj", r"regex:(\d+)/x", "1 / (1 + mu g a)"],
)  # fmt: skip
def test_everything_else_stays(text):
    assert names_only(text) == text


def test_paths_in_fields_are_known_in_sentences_spaces_and_all():
    report = {"pair": {"base": "/srv/Jane Doe/my base"}, "n": [1, None, True],
              "warnings": ["/srv/Jane Doe/my base has no tokenizer"]}  # fmt: skip
    assert names_only(report) == {
        "pair": {"base": "my base"}, "n": [1, None, True],
        "warnings": ["my base has no tokenizer"],
    }  # fmt: skip
