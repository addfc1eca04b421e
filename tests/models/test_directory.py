"""A checkpoint directory behind the face of a source."""

import pytest
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
