from pathlib import Path
from typing import Any

import pytest
import torch

from hcnr.checkpoint import Checkpoint, check_pair
from hcnr.checkpoint.quantised import REVERSIBLE
from hcnr.errors import CheckpointError

from .helpers import CONFIG, save, targets, weights

TARGET = "model.layers.1.q_proj.weight"


class Pair:
    """Base and tuned, equal but for what a test changes."""

    def __init__(self, tmp_path: Path):
        self.path = tmp_path
        self.tensors = {"base": weights(1), "tuned": weights(2)}
        self.config: dict[str, dict[str, Any]] = {"base": dict(CONFIG), "tuned": dict(CONFIG)}

    def check(self) -> list[str]:
        base, tuned = (
            Checkpoint.open(save(self.path / side, self.tensors[side], 1, self.config[side]))
            for side in ("base", "tuned")
        )
        return check_pair(base, tuned, targets())

    def refused(self, *words: str) -> None:
        with pytest.raises(CheckpointError) as caught:
            self.check()
        for word in words:
            assert word in str(caught.value)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_nothing_to_say(pair: Pair):
    assert pair.check() == []


def test_different_model_types(pair: Pair):
    pair.config["tuned"]["model_type"] = "mistral"
    pair.refused(
        "model_type is llama", "mistral", str(pair.path / "base"), str(pair.path / "tuned")
    )


def test_another_label_of_architectures_is_said(pair: Pair):
    pair.config["tuned"]["architectures"] = ["PeftModelForCausalLM"]
    (message,) = pair.check()
    assert "architectures is LlamaForCausalLM in base and PeftModelForCausalLM in tuned" in message


def test_architectures_left_out_of_one(pair: Pair):
    del pair.config["base"]["architectures"]
    assert pair.check() == []


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_missing_target(pair: Pair, side: str):
    del pair.tensors[side][TARGET]
    pair.refused(f"{TARGET!r} is missing in {side}", str(pair.path / side))
    del pair.tensors[side]["model.layers.2.q_proj.weight"]
    pair.refused(f"{TARGET!r} is missing (with 1 more) in {side}")


def test_different_shapes(pair: Pair):
    pair.tensors["tuned"][TARGET] = torch.zeros(6, 5)
    pair.refused(repr(TARGET), "[6, 4] in base", "[6, 5] in tuned")


@pytest.mark.parametrize("side", ["base", "tuned"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.complex64])
def test_dtype_that_is_no_plain_float(pair: Pair, side: str, dtype: torch.dtype):
    pair.tensors[side][TARGET] = torch.zeros(6, 4).to(dtype)
    if dtype == torch.complex64:
        pair.refused(repr(TARGET), "is stored as complex64 in", "bfloat16 was expected")
    else:
        pair.refused(repr(TARGET), "is quantised", str(dtype)[6:], str(pair.path / side))


@pytest.mark.parametrize(
    ("tensor", "dtype", "kind"),
    [
        ("model.layers.0.q_proj.qweight", torch.int32, "GPTQ or AWQ"),
        ("model.layers.0.q_proj.weight.absmax", torch.float32, "bitsandbytes"),
        ("model.layers.0.q_proj.weight.quant_state.bitsandbytes__nf4", torch.uint8, "bitsandbytes"),
        ("model.layers.0.q_proj.weight_scale_inv", torch.float32, "FP8"),
        ("model.layers.0.mlp.experts.gate_up_proj_blocks", torch.uint8, "MXFP4"),
    ],
)
@pytest.mark.parametrize("said", [True, False])
def test_quantised(pair: Pair, tensor: str, dtype: torch.dtype, kind: str, said: bool):
    pair.tensors["tuned"][tensor] = torch.zeros(2, dtype=dtype)
    if said:
        pair.config["tuned"]["quantization_config"] = {"quant_method": "some"}
    named = "quant_method: some" if said else "config.json does not say so"
    pair.refused(f"quantised ({named})", repr(tensor), kind, str(pair.path / "tuned"))


@pytest.mark.parametrize(
    ("method", "cure"),
    [
        ("bitsandbytes", "`model.dequantize()`, then"),
        ("gptq", "no way back from gptq"),
        ("awq", "no way back from awq"),
        (None, "put the quantization_config back"),
    ],
)
def test_the_cure_is_that_of_the_format(pair: Pair, method: str | None, cure: str):
    pair.tensors["tuned"]["model.layers.0.q_proj.weight_scale"] = torch.zeros(2)
    if method is not None:
        pair.config["tuned"]["quantization_config"] = {"quant_method": method}
    pair.refused("before quantisation", cure)


@pytest.mark.parametrize("method", ["gptq", "awq", "mxfp4", "bitsandbytes", "higgs"])
def test_transformers_has_the_ways_back_that_are_told(method: str):
    quantizers = pytest.importorskip("transformers.quantizers.auto").AUTO_QUANTIZER_MAPPING
    named = [name for name in quantizers if name.startswith(method)]
    own = {"_dequantize" in vars(quantizers[name]) for name in named}
    assert own == {method in REVERSIBLE}


@pytest.mark.parametrize("tensor", ["layers.0.q_proj.weight_qdata", "layers.0.q_proj.codes"])
def test_codes_of_any_name(pair: Pair, tensor: str):
    pair.tensors["tuned"][tensor] = torch.zeros(2, dtype=torch.int8)
    pair.config["tuned"]["quantization_config"] = {"quant_method": "torchao"}
    pair.refused("quantised (quant_method: torchao)", repr(tensor), "no way back from torchao")


def test_a_quantisation_that_is_only_said(pair: Pair):
    pair.config["tuned"]["quantization_config"] = {"quant_method": "gptq"}
    pair.refused("quant_method: gptq", "although its weights are plain bfloat16", "delete",
                 str(pair.path / "tuned"))  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_differing_dtypes_are_said(pair: Pair, dtype: torch.dtype):
    for name in targets()[:2]:
        pair.tensors["tuned"][name] = pair.tensors["tuned"][name].to(dtype)
    assert pair.check() == [
        f"2 targets are bfloat16 in base and {str(dtype)[6:]} in tuned; the output keeps tuned's "
        "dtype."
    ]


def test_differing_vocabulary_is_said(pair: Pair):
    pair.config["tuned"]["vocab_size"] = 10
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        pair.tensors["tuned"][name] = torch.zeros(10, 4, dtype=torch.bfloat16)
    vocabulary, *others = pair.check()
    assert "8 entries in base and 10 in tuned" in vocabulary
    assert len(others) == 2
    assert all("[8, 4] in base and [10, 4] in tuned" in message for message in others)


def test_tied_in_base_only_is_said(pair: Pair):
    del pair.tensors["base"]["lm_head.weight"]
    pair.config["base"]["tie_word_embeddings"] = True
    (message,) = pair.check()
    assert "'lm_head.weight' exists in tuned only, because the other ties it" in message


def test_tied_in_tuned_only_is_said(pair: Pair):
    del pair.tensors["tuned"]["lm_head.weight"]
    pair.config["tuned"]["tie_word_embeddings"] = True
    (message,) = pair.check()
    assert "'lm_head.weight' exists in base only, because the other ties it" in message


def test_other_tensors_in_one_only_are_said(pair: Pair):
    for name in "abcd":
        pair.tensors["base"][name] = torch.zeros(1)
    pair.tensors["tuned"]["z"] = torch.zeros(1)
    first, second = pair.check()
    assert "4 tensors that are no target exist in base only (a, b, c, ...)" in first
    assert "1 tensor that is no target exists in tuned only (z)" in second


def test_settings_that_change_the_meaning_are_said(pair: Pair):
    pair.config["base"]["text_config"] = {"rope_theta": 1e4}
    pair.config["tuned"]["rope_theta"] = 5e5
    (message,) = pair.check()
    assert "rope_theta is 10000.0 in base and 500000.0 in tuned" in message


def test_same_directory_is_said(tmp_path: Path):
    save(tmp_path / "a")
    (tmp_path / "link").symlink_to("a")
    base, tuned = Checkpoint.open(tmp_path / "a"), Checkpoint.open(tmp_path / "link")
    (message,) = check_pair(base, tuned, targets())
    assert "the same directory" in message
