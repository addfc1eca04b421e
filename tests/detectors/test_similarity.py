"""The sentence-similarity test: windows and threshold by hand, encoders of transformers."""

import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from hcnr.detectors.similarity import (
    REFERENCES,
    has_reference,
    open_encoder,
    similar_to_reference,
    windows,
)
from hcnr.errors import ModelError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "we", "do", "not", "know", "paris", "is"]


def test_there_are_16_references():
    assert len(set(REFERENCES)) == 16
    assert all(reference == reference.lower().rstrip(".") for reference in REFERENCES)


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("There is MUCH debate.", True),
        ("well, i'm not sure", True),
        ("We do not know!", True),
        ("We do not, know", False),
        ("it is known", False),
    ],
)
def test_has_reference(response, found):
    assert has_reference(response) is found


def test_windows_by_hand():
    text = " One two three four five six, seven. A! Is it?\u3002x. ab"
    assert windows(text) == [
        "one two three four five",
        "two three four five six,",
        "three four five six, seven",
        "a",
        "is it",
        "ab",
    ]
    assert windows("one two three four five") == ["one two three four five"]
    assert windows("?!. x") == ["x"]
    assert windows("") == []


def plane(angle_by_word):
    """An encoder that turns a window by the angle of its first word; references lie at 0."""

    def encode(sentences):
        angles = [angle_by_word.get(s.split()[0], 0.0) for s in sentences]
        return 7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    return encode


def test_the_threshold_is_strict():
    def exactly(sentences):
        return [[3.0, np.sqrt(7.0)] if s == "edge" else [1.0, 0.0] for s in sentences]

    found = np.asarray(exactly(["edge"]))
    cosine = float((found / np.linalg.norm(found))[0, 0])
    assert cosine == pytest.approx(0.75)
    assert similar_to_reference(["edge"], exactly, threshold=cosine) == [False]
    assert similar_to_reference(["edge"], exactly, threshold=np.nextafter(cosine, 0)) == [True]


def test_one_near_window_is_enough():
    encode = plane({"far": 1.2, "farther": 2.0, "near": 0.1})
    responses = ["far one. near two", "far. farther", "", "near"]
    assert similar_to_reference(responses, encode) == [True, False, False, True]


def test_every_window_is_encoded_once():
    calls = []

    def encode(sentences):
        calls.append(list(sentences))
        return np.eye(64)[: len(sentences)]

    similar_to_reference(["one. two. one", "two. one"], encode)
    assert calls[0] == ["one", "two"]


@pytest.mark.parametrize(
    "vectors", [np.zeros(3), np.zeros((1, 2)), np.full((2, 2), np.nan)], ids=["flat", "few", "nan"]
)
def test_an_encoder_that_returns_something_else(vectors):
    with pytest.raises(ModelError, match="one finite vector"):
        similar_to_reference(["alpha. beta"], lambda _: vectors)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert-simcse")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
        )
    ).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model, tokenizer


@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean"])
def test_transformers_pooling_equals_one_sentence_at_a_time(bert, pooling):
    folder, model, tokenizer = bert
    name, encode = open_encoder(str(folder), pooling)
    sentences = ["we do not know", "paris", "paris is"]
    found = np.asarray(encode(sentences))
    for sentence, vector in zip(sentences, found, strict=True):
        with torch.no_grad():
            output = model(**tokenizer(sentence, return_tensors="pt"))
        expected = {
            "pooler": output.pooler_output[0],
            "cls": output.last_hidden_state[0, 0],
            "mean": output.last_hidden_state[0].mean(dim=0),
        }[pooling]
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)
    assert name.endswith(f", {pooling}")


def test_auto_pooling(bert, tmp_path):
    folder, _, _ = bert
    assert open_encoder(str(folder))[0].endswith("pooler")
    for name, mode, expected in (("a", True, "cls"), ("b", False, "mean"), ("c", None, "mean")):
        copy = tmp_path / name
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        if mode is not None:
            (copy / "1_Pooling").mkdir()
            config = {"pooling_mode_cls_token": mode, "pooling_mode_mean_tokens": not mode}
            (copy / "1_Pooling" / "config.json").write_text(json.dumps(config))
        assert open_encoder(copy)[0].endswith(expected)
    for text in ("{", "[]", "\xff"):
        (tmp_path / "a" / "1_Pooling" / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(ModelError, match=r"config\.json is no JSON object with"):
            open_encoder(tmp_path / "a")
    unsupervised = tmp_path / "unsup-simcse"
    (tmp_path / "c").rename(unsupervised)
    assert open_encoder(unsupervised)[0].endswith("cls")


def test_objects_that_encode_and_bad_pooling():
    class Model:
        def encode(self, sentences):
            return np.ones((len(sentences), 2))

    name, encode = open_encoder(Model())
    assert name == "Model"
    assert np.asarray(encode(["a"])).shape == (1, 2)
    with pytest.raises(ModelError, match="a int is no sentence encoder"):
        open_encoder(3)
    with pytest.raises(ModelError, match="pooling 'max' is unknown"):
        open_encoder(Model(), "max")
