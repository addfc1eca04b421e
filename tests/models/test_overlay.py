import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from families import make, perturbed
from hcnr.models.overlay import Overlay, interpolate, parameters_of
from hcnr.models.source import open_source
from pairs import bits


class Tied(nn.Module):
    """One parameter under two names, and two parameters over one memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2, bias=False)
        self.second = nn.Linear(3, 2, bias=False)
        self.second.weight = self.first.weight
        memory = torch.arange(6.0)
        self.whole = nn.Parameter(memory)
        self.part = nn.Parameter(memory[2:5])


AWKWARD = torch.tensor([[-0.0, float("inf"), float("-inf")], [1e-45, float("nan"), 3.0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_originals_come_back_bit_for_bit(dtype):
    layer = nn.Linear(3, 2).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(AWKWARD)
        # A NaN with a payload: only a copy of the bits keeps it.
        if dtype is torch.float32:
            layer.weight.view(torch.int32)[1, 1] = 0x7FC00123
    before, home = bits(layer), layer.weight.data_ptr()
    with Overlay(layer) as overlay:
        overlay.put("weight", torch.ones(2, 3))
        overlay.put("weight", torch.full((2, 3), 2.0))
        overlay.put("bias", torch.zeros(2))
        assert layer.weight.eq(2).all()
        assert not layer.bias.any()
    assert bits(layer) == before
    assert layer.weight.data_ptr() == home
    assert layer.weight.requires_grad


def test_tied_and_overlapping_parameters_come_back():
    model = Tied()
    before = bits(model)
    with Overlay(model) as overlay:
        overlay.put("first.weight", torch.ones(2, 3))
        overlay.put("second.weight", torch.zeros(2, 3))
        assert not model.first.weight.any()
        overlay.put("whole", torch.full((6,), 7.0))
        overlay.put("part", torch.full((3,), 8.0))
        assert model.whole.tolist() == [7, 7, 8, 8, 8, 7]
    assert bits(model) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_in_the_middle_undoes_everything(error):
    model = Tied()
    before = bits(model)
    with pytest.raises(error), Overlay(model) as overlay:
        overlay.put("first.weight", torch.ones(2, 3))
        overlay.put("part", torch.zeros(3))
        raise error
    assert bits(model) == before


def test_a_value_that_does_not_fit_changes_nothing():
    layer = nn.Linear(3, 2)
    before = bits(layer)
    with pytest.raises(RuntimeError), Overlay(layer) as overlay:
        overlay.put("weight", torch.ones(5, 5))
    assert bits(layer) == before


def test_the_original_can_be_read_while_it_is_replaced():
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    with Overlay(layer) as overlay:
        assert torch.equal(overlay.original("weight"), before)
        overlay.put("weight", torch.ones(2, 3))
        assert torch.equal(overlay.original("weight"), before)


def test_interpolation_is_exact_at_both_ends_and_linear_between():
    base = make("llama")
    tuned = perturbed(base).bfloat16()
    before = bits(tuned)
    values = parameters_of(open_source(base))
    with Overlay(tuned) as overlay:
        assert interpolate(tuned, overlay, values, 1.0) == []
        assert bits(tuned) == bits(base.bfloat16())
        base = make("llama")
        values = parameters_of(open_source(base))
        interpolate(tuned, overlay, values, 0.25)
        for name, honest in base.named_parameters():
            wanted = 0.75 * overlay.original(name).double() + 0.25 * honest.double()
            found = tuned.get_parameter(name).double()
            assert ((found - wanted).abs() <= wanted.abs() * 2**-8 + 1e-7).all()
        interpolate(tuned, overlay, values, 0.0)
        assert bits(tuned) == before
    assert bits(tuned) == before


def test_interpolation_of_directories_and_of_models_agree(pair):
    base, tuned = (AutoModelForCausalLM.from_pretrained(pair[r]) for r in ("base", "tuned"))
    found = []
    for source in (pair["base"], base):
        with Overlay(tuned) as overlay:
            assert interpolate(tuned, overlay, parameters_of(open_source(source)), 0.3) == []
            found.append(bits(tuned))
    assert found[0] == found[1]


def test_whole_numbers_stay_as_tuned():
    layer = nn.Linear(2, 2)
    layer.codes = nn.Parameter(torch.tensor([3, 4]), requires_grad=False)
    with Overlay(layer) as overlay:
        honest = {name: torch.zeros_like(p) for name, p in layer.named_parameters()}
        assert interpolate(layer, overlay, honest.get, 1.0) == []
        assert layer.codes.tolist() == [3, 4]
        assert not layer.weight.any()


def test_parameters_that_base_lacks_stay_as_tuned():
    tuned = make("llama")
    start = tuned.get_parameter("lm_head.weight").detach().clone()
    with Overlay(tuned) as overlay:
        honest = {n: torch.zeros_like(p) for n, p in tuned.named_parameters()}
        honest["lm_head.weight"] = torch.zeros(3, 3)
        del honest["model.norm.weight"]
        left = interpolate(tuned, overlay, honest.get, 0.5)
        assert sorted(left) == ["lm_head.weight", "model.norm.weight"]
        assert torch.equal(tuned.get_parameter("lm_head.weight"), start)
