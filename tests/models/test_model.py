from families import make
from hcnr.models.model import eval_mode, ignoring


def test_every_layer_gets_its_own_mode_back():
    model = make("llama").train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes


def test_the_pattern_that_leaves_a_matrix_out():
    names = [f"model.layers.{i}.mlp.{kind}" for i in range(2) for kind in ("router", "up_proj")]
    routers = [name for name in names if name.endswith("router")]
    assert ignoring(names[0], routers, names) == "mlp.router"
    assert ignoring(names[0], routers[:1], names) == names[0]
    assert ignoring("router", ["router"], ["router"]) == "router"
