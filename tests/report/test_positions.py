from hcnr.report.figures.positions import Position, grid, group_label, positions, spot


def test_block_and_kind_of_a_llama():
    found = positions(["model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj"])
    assert list(found.values()) == [Position(0, "q_proj"), Position(11, "down_proj")]


def test_kinds_stay_long_where_the_last_part_is_ambiguous():
    found = positions(["h.0.attn.c_proj", "h.0.mlp.c_proj", "h.0.attn.c_attn"])
    assert [position.kind for position in found.values()] == [
        "attn.c_proj",
        "mlp.c_proj",
        "attn.c_attn",
    ]


def test_experts_share_a_kind():
    found = positions(["m.layers.3.mlp.experts.0.up", "m.layers.3.mlp.experts.15.up"])
    assert set(found.values()) == {Position(3, "up")}


def test_a_matrix_outside_the_blocks():
    assert positions(["score"]) == {"score": Position(None, "score")}


def test_a_grid_has_kinds_in_rows_and_blocks_in_columns():
    names = ["layers.10.x.up", "layers.2.x.up", "layers.2.x.down", "score"]
    experts = ["layers.2.mlp.0.gate", "layers.2.mlp.1.gate"]
    found = grid(names + experts)
    assert found.columns == ["2", "10", "other"]
    assert found.rows == ["up", "down", "score", "gate"]
    assert found.groups[3, 0] == experts
    assert found.groups[0, 1] == ["layers.10.x.up"] and len(found.groups) == 5


def test_a_group_is_named_by_its_first():
    assert group_label(["a.b"]) == "a.b"
    assert group_label(["a.0.b", "a.1.b", "a.2.b"]) == "block 0 and 2 like it"


def test_a_spot_has_every_number_of_the_name():
    assert spot("model.layers.3.self_attn.q_proj") == "block 3"
    assert spot("model.layers.3.mlp.experts.7.up_proj") == "block 3, experts 7"
    assert spot("0.weight") == "block 0" and spot("lm_head") == "lm_head"
