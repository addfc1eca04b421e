"""Packages that carry files, as wheels and as installed ones; and a tiny GGUF file for them."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, MLP, BLOCKS, HEADS, KEY_HEADS = 32, 64, 2, 4, 2
WORDS = ["<unk>", "<s>", "</s>", *"abcdefghĠ", "ab", "cd", "Ġa"]
SPECIAL = {"bos": 1, "eos": 2, "unk": 0, "pad": 2}
FIELDS = (
    ("License", "Apache-2.0"),
    ("Project-URL", "Source, https://example.org/source"),
    ("Project-URL", "Homepage, https://example.org/tiny"),
)


def metadata(name: str, fields: Sequence[tuple[str, str]] = FIELDS) -> str:
    lines = [("Metadata-Version", "2.1"), ("Name", name), ("Version", "1.2"), *fields]
    return "".join(f"{key}: {value}\n" for key, value in lines) + "\nLicense: of the text\n"


def wheel(
    folder: Path,
    name: str,
    files: Mapping[str, bytes],
    fields: Sequence[tuple[str, str]] = FIELDS,
) -> Path:
    """A wheel with files by their path in it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.2.dist-info/METADATA", metadata(name, fields))
        for place, content in files.items():
            archive.writestr(place, content)
    return path


def install(site: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """The same as pip leaves it; returns its dist-info folder."""
    for place, content in files.items():
        (site / place).parent.mkdir(parents=True, exist_ok=True)
        (site / place).write_bytes(content)
    info = site / f"{name}-1.2.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(metadata(name))
    (info / "RECORD").write_text("".join(f"{place},,\n" for place in files))
    return info


def halves(content: bytes, folder: str = "") -> list[dict[str, bytes]]:
    """Two files, each as the files of a package."""
    middle = len(content) // 2
    return [
        {f"{folder}tiny.gguf.part00": content[:middle]},
        {f"{folder}tiny.gguf.part01": content[middle:]},
    ]


def write_gguf(
    path: Path,
    *,
    special: Mapping[str, int] = SPECIAL,
    change: Mapping[str, np.ndarray | None] | None = None,
) -> dict[str, np.ndarray]:
    """Write a llama of two blocks with a byte-level tokenizer, most of its matrices quantised.

    Args:
        path: where.
        special: ids of the tokens that it names.
        change: tensors, by GGUF name, that are other ones, or left out where they are None.

    Returns:
        What its tensors mean, by the names of transformers.
    """
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny 32")
    writer.add_license("mit")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-3)
    writer.add_rope_freq_base(500.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3] + [1] * (len(WORDS) - 3))
    writer.add_token_merges(["a b", "c d", "Ġ a"])
    for name, number in special.items():
        getattr(writer, f"add_{name}_token_id")(number)
    rng = np.random.default_rng(0)
    kinds = gguf.GGMLQuantizationType
    meant: dict[str, np.ndarray] = {}
    changes = dict(change or {})

    def add(name: str, ours: str, shape: tuple[int, ...], kind: Any, heads: int = 0) -> None:
        values = (0.3 * rng.standard_normal(shape)).astype(np.float32)
        packed = gguf.quants.quantize(values, kind)
        meaning = gguf.quants.dequantize(packed, kind)
        # llama.cpp turns neighbouring rows of a head, transformers row i and row i + size / 2.
        if heads:
            pairs = meaning.reshape(heads, shape[0] // heads // 2, 2, shape[1])
            meaning = np.concatenate([pairs[:, :, 0], pairs[:, :, 1]], axis=1).reshape(shape)
        meant[ours] = meaning
        if name not in changes:
            writer.add_tensor(name, packed, raw_dtype=kind)
        elif (values := changes.pop(name)) is not None:
            writer.add_tensor(name, values)

    vocabulary = (len(WORDS), HIDDEN)
    add("token_embd.weight", "model.embed_tokens.weight", vocabulary, kinds.Q8_0)
    add("output_norm.weight", "model.norm.weight", (HIDDEN,), kinds.F32)
    add("output.weight", "lm_head.weight", vocabulary, kinds.F32)
    keys = HIDDEN // HEADS * KEY_HEADS
    for block in range(BLOCKS):
        for name, ours, shape, kind, heads in (
            ("attn_q", "self_attn.q_proj", (HIDDEN, HIDDEN), kinds.Q8_0, HEADS),
            ("attn_k", "self_attn.k_proj", (keys, HIDDEN), kinds.Q8_0, KEY_HEADS),
            ("attn_v", "self_attn.v_proj", (keys, HIDDEN), kinds.F16, 0),
            ("attn_output", "self_attn.o_proj", (HIDDEN, HIDDEN), kinds.Q4_1, 0),
            ("ffn_gate", "mlp.gate_proj", (MLP, HIDDEN), kinds.Q4_1, 0),
            ("ffn_up", "mlp.up_proj", (MLP, HIDDEN), kinds.Q4_0, 0),
            ("ffn_down", "mlp.down_proj", (HIDDEN, MLP), kinds.Q5_1, 0),
            ("attn_norm", "input_layernorm", (HIDDEN,), kinds.F32, 0),
            ("ffn_norm", "post_attention_layernorm", (HIDDEN,), kinds.F32, 0),
        ):
            place = f"model.layers.{block}.{ours}.weight"
            add(f"blk.{block}.{name}.weight", place, shape, kind, heads)
    for name, values in changes.items():
        if values is not None:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant
