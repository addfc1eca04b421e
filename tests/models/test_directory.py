"""A checkpoint directory behind the face of a source."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from hcnr.checkpoint import fingerprint_tensors
from hcnr.models.directory import DirectorySource
from hcnr.models.source import ModelSource


@pytest.mark.parametrize("role", ["base", "tuned"])
def test_fingerprints_of_earlier_versions_are_known(pair, role):
    """They covered parameters of two dimensions only."""
    model = AutoModelForCausalLM.from_pretrained(pair[role])
    earlier = fingerprint_tensors({n: p for n, p in model.named_parameters() if p.dim() == 2})
    for source in (DirectorySource(pair[role]), ModelSource(model)):
        assert source.fingerprint() != earlier
        assert source.has_fingerprint(earlier) and source.has_fingerprint(source.fingerprint())
        assert not source.has_fingerprint("another")


def test_two_directories_that_differ_in_values_alone_share_their_structure(pair, tmp_path):
    base, tuned = DirectorySource(pair["base"]), DirectorySource(pair["tuned"])
    base.share_structure(tuned)
    assert base.structure is tuned.structure
    for file in pair["base"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 0.5}))
    other = DirectorySource(tmp_path)
    other.share_structure(tuned)
    assert other.structure is not tuned.structure


def test_a_view_is_the_weight(pair):
    source = DirectorySource(pair["tuned"])
    model = AutoModelForCausalLM.from_pretrained(pair["tuned"])
    for name in source.matrices(("*",), ()):
        for found in (source.view(name), ModelSource(model).view(name)):
            assert torch.equal(found, source.weight(name))
