from families import make
from hcnr.models.model import eval_mode


def test_every_layer_gets_its_own_mode_back():
    model = make("llama").train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes
