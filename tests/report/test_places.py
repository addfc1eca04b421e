from hcnr.report.places import Place, places


def test_block_and_kind_of_a_llama():
    found = places(["model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj"])
    assert list(found.values()) == [Place(0, "q_proj"), Place(11, "down_proj")]


def test_kinds_stay_long_where_the_last_part_is_ambiguous():
    found = places(["h.0.attn.c_proj", "h.0.mlp.c_proj", "h.0.attn.c_attn"])
    assert [place.kind for place in found.values()] == ["attn.c_proj", "mlp.c_proj", "attn.c_attn"]


def test_experts_share_a_kind():
    found = places(["m.layers.3.mlp.experts.0.up", "m.layers.3.mlp.experts.15.up"])
    assert set(found.values()) == {Place(3, "up")}


def test_a_matrix_outside_the_blocks():
    assert places(["score"]) == {"score": Place(None, "score")}
