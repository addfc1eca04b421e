"""GPTQ of the real llm-compressor with our Hessians and inverses, against its own."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import logging

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import hosts
from hcnr_kernels import FactorizationError, HcnrError
from pairs import tokenizer

ours = hosts.load("llmcompressor", "llmcompressor.gptq")
pytestmark = pytest.mark.filterwarnings("ignore")  # the tool's own

with hosts.silent():
    from compressed_tensors.quantization import QuantizationArgs
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier, gptq_quantize
    from llmcompressor.modifiers.gptq.helpers import factorize_hessian


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model on disk, where llm-compressor looks for what belongs to it."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=67, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, pad_token_id=0,
        )
    ).save_pretrained(folder)  # fmt: skip
    tokenizer().save_pretrained(folder)
    return folder


def quantised(checkpoint, kind, tokens=16, samples=32, **options):
    """The model's weights after GPTQ, and the modifier."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, 67, (samples, tokens), generator=generator)
    masks = [[1] * tokens] * samples
    data = Dataset.from_dict({"input_ids": rows.tolist(), "attention_mask": masks})
    modifier = kind(scheme="W4A16", targets="Linear", ignore=["lm_head"], block_size=8, **options)
    model = oneshot(
        model=str(checkpoint), dataset=data, recipe=modifier, pipeline="sequential",
        num_calibration_samples=samples, max_seq_length=tokens,
    )  # fmt: skip
    return {name: one.detach().clone() for name, one in model.named_parameters()}, modifier


def test_weights_are_llmcompressors_where_it_succeeds(checkpoint):
    theirs, plain = quantised(checkpoint, GPTQModifier)
    assert plain._rtn_fallback_module_names == []
    found, modifier = quantised(checkpoint, ours.DampedGPTQModifier)
    assert gptq_quantize.factorize_hessian is factorize_hessian
    assert len(modifier.records) == 14
    assert {record.damping for record in modifier.records} == {0.01}
    assert not any(record.raised for record in modifier.records)
    assert theirs.keys() == found.keys()
    same = total = 0
    for name, weight in theirs.items():
        same += int((found[name] == weight).sum())
        total += weight.numel()
    # A factor that differs in its last bit may round a weight the other way.
    assert same / total > 0.9999, f"{same} of {total} weights are the same"
    print(f"{same} of {total} weights are the same")


def indefinite(size=32):
    """Rank one with a negative rounding error: "not positive-definite", as users report it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, size, generator=generator) * 100
    return x.T @ x - 150 * torch.eye(size)


def arguments(hessian):
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(1, 8, hessian.shape[0], generator=generator)
    scale = weights.abs().amax(-1, keepdim=True) / 7
    return {
        "weights": weights, "hessians": hessian[None].clone(), "scale": scale,
        "zero_point": torch.zeros_like(scale), "global_scale": None,
        "quant_args": QuantizationArgs(num_bits=4, symmetric=True, strategy="channel"),
        "blocksize": 8,
    }  # fmt: skip


def error(hessian, found):
    weights = arguments(hessian)["weights"][0]
    change = (found[0] - weights).double()
    return float(((change @ hessian.double()) * change).sum())


def test_where_it_falls_back_ours_is_damped_and_told():
    hessian = indefinite()
    rounded, _, fallback = gptq_quantize.quantize_weight(**arguments(hessian))
    assert bool(fallback[0])
    records = []
    with ours.factorised(["layer"], records.append):
        found, _, fallback = gptq_quantize.quantize_weight(**arguments(hessian))
    assert not bool(fallback[0])
    (record,) = records
    assert record.name == "layer" and record.raised and record.damping > 0.01
    assert record.damping in [pytest.approx(level) for level in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)]
    positive = indefinite() + 150 * torch.eye(32)
    assert error(positive, found) < error(positive, rounded)


def refused(percdamp):
    """A Hessian of 31 tokens in 64 inputs whose inverse has no factor in fp32."""
    for seed in range(200):
        x = torch.randn(31, 64, generator=torch.Generator().manual_seed(seed))
        hessian = x.T @ x
        try:
            factorize_hessian(
                torch.zeros(1, 8, 64), hessian[None].clone(), percdamp, torch.zeros(1).bool()
            )
        except RuntimeError:  # of torch's LinAlgError
            return hessian
    pytest.skip("no Hessian of 200 is refused here")


def test_where_it_raises_ours_is_damped_and_told():
    hessian, records = refused(3e-7), []
    with pytest.raises(RuntimeError, match="positive-definite"):
        gptq_quantize.quantize_weight(**arguments(hessian), percdamp=3e-7)
    with ours.factorised(["layer"], records.append):
        found, _, _ = gptq_quantize.quantize_weight(**arguments(hessian), percdamp=3e-7)
    assert records[0].raised and records[0].damping in (0.01, 0.02)
    assert torch.isfinite(found).all()


def test_nan_is_an_error_that_names_the_module():
    hessian = torch.full((16, 16), float("nan"))
    with (
        pytest.raises(FactorizationError, match=r"q_proj holds NaN or infinity"),
        ours.factorised(["q_proj"], lambda _: None),
    ):
        gptq_quantize.quantize_weight(**arguments(hessian))
    assert gptq_quantize.factorize_hessian is factorize_hessian


def test_the_factor_is_that_of_the_inverse():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 24, generator=generator, dtype=torch.float64)
    hessian = x.T @ x
    factor, inverse = ours.inverse_factor(hessian, damping=0.01)
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(24)
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(damped))
    assert torch.equal(factor, factor.triu()) and float(inverse.damping) == 0.01


@pytest.mark.parametrize(
    ("hessian", "damping", "sentence"),
    [
        (torch.ones(3, 4), 0.01, "square"),
        (torch.eye(3), -1.0, "damping must be a finite number >= 0"),
        (torch.eye(3, dtype=torch.int64), 0.01, "float32"),
        (-torch.eye(3), 0.01, "of mine is not positive definite"),
    ],
)
def test_bad_input_is_one_sentence(hessian, damping, sentence):
    with pytest.raises(HcnrError, match=sentence):
        ours.inverse_factor(hessian, damping=damping, name="mine")


def test_few_tokens_raise_the_damping_in_a_whole_run(checkpoint, caplog):
    with caplog.at_level(logging.WARNING, logger=ours.LOGGER.name):
        found, modifier = quantised(
            checkpoint, ours.DampedGPTQModifier, tokens=4, samples=2, dampening_frac=1e-9
        )
    raised = [record.name for record in modifier.records if record.raised]
    assert raised and "needed more damping" in caplog.text
    assert all(torch.isfinite(weight).all() for weight in found.values())
