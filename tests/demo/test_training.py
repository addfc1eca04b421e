import dataclasses

import torch

from hcnr.demo.laboratory import make_lab
from hcnr.demo.recipe import Recipe
from hcnr.demo.tokenizer import build_tokenizer
from hcnr.demo.training import fixed_threads, new_model
from hcnr.demo.world import build_world

TINY = dataclasses.replace(Recipe(), hidden=32, mlp=48, blocks=2, base_steps=6, tuned_steps=4)
WORLD = build_world(TINY)
TOKENIZER = build_tokenizer(WORLD)


def test_a_laboratory_is_the_same_bytes_twice_and_leaves_global_state_alone(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    contents = []
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    for place in (tmp_path / "one", tmp_path / "two"):
        place.mkdir()
        make_lab(place, TINY, WORLD, TOKENIZER)
        files = [path for path in sorted(place.rglob("*")) if path.is_file()]
        contents.append(
            {str(p.relative_to(place)): p.read_bytes() for p in files if p.name != "lab.json"}
        )
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert contents[0] == contents[1]
    assert {"base/model.safetensors", "tuned/model.safetensors"} < set(contents[0])
    assert contents[0]["base/model.safetensors"] != contents[0]["tuned/model.safetensors"]


def test_another_seed_is_another_model():
    one = new_model(TINY, TOKENIZER).lm_head.weight
    other = new_model(dataclasses.replace(TINY, seed=1), TOKENIZER).lm_head.weight
    assert not torch.equal(one, other)


def test_the_model_has_the_promised_size():
    parameters = sum(p.numel() for p in new_model(Recipe(), TOKENIZER).parameters())
    assert 0.8e6 < parameters < 0.95e6


def test_progress_hears_of_every_step(tmp_path):
    heard: dict[str, list[tuple[int, int]]] = {}

    def stage(name: str):
        steps = heard.setdefault(name, [])
        return lambda done, total, loss: steps.append((done, total))

    make_lab(tmp_path, TINY, WORLD, TOKENIZER, stage)
    assert heard == {
        "base": [(step, 6) for step in range(1, 7)],
        "tuned": [(step, 4) for step in range(1, 5)],
    }


def test_threads_come_back_after_an_error():
    before = torch.get_num_threads()
    try:
        with fixed_threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise KeyError
    except KeyError:
        pass
    assert torch.get_num_threads() == before
