"""A full hash sees what a fingerprint of a few rows does not."""

import pytest
import torch

from families import make
from hcnr.evaluation.hashes import model_sha256, weights_sha256
from hcnr.models.source import open_source


def changed(model, name, row):
    with torch.no_grad():
        model.get_parameter(name)[row] += 1
    return model


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
def test_one_row_that_is_not_sampled(tmp_path, name):
    one, other = make("llama"), changed(make("llama"), name, 1)
    assert open_source(one).fingerprint() == open_source(other).fingerprint()
    assert model_sha256(one) == model_sha256(make("llama"))
    assert model_sha256(one) != model_sha256(other)
    one.save_pretrained(tmp_path / "one")
    other.save_pretrained(tmp_path / "other")
    first = weights_sha256(open_source(tmp_path / "one"))
    assert len(first) == 64
    assert first != weights_sha256(open_source(tmp_path / "other"))
    # The same path with another content is read again.
    source = tmp_path / "other" / "model.safetensors"
    (tmp_path / "one" / "model.safetensors").write_bytes(source.read_bytes())
    assert weights_sha256(open_source(tmp_path / "one")) != first


def test_dtypes_and_buffers_count():
    model = make("llama")
    found = {model_sha256(model), model_sha256(make("llama").bfloat16())}
    next(model.buffers()).add_(1)
    assert len({*found, model_sha256(model)}) == 3
