from pathlib import Path

import pytest

from hcnr.checkpoint import Checkpoint, companions, copy_companions
from hcnr.errors import CheckpointError, OutputError

from .helpers import save, tree

COPIED = [
    "LICENSE",
    "NOTICE.txt",
    "added_tokens.json",
    "additional_chat_templates/rag.jinja",
    "chat_template.jinja",
    "config.json",
    "configuration_mine.py",
    "generation_config.json",
    "merges.txt",
    "modeling_mine.py",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tokenizer_config.json",
    "vocab.json",
]
LEFT = [
    ".gitattributes",
    ".hidden.json",
    "README.md",
    "all_results.json",
    "checkpoint-500/config.json",
    "flax_model.msgpack",
    "global_step5/states.pt",
    "hcnr_config.yaml",
    "hcnr_report.json",
    "image.png",
    "metrics.json",
    "model.fp16.safetensors",
    "model.gguf",
    "model.onnx",
    "optimizer.bin",
    "optimizer.pt",
    "original/params.json",
    "probe.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "report.html",
    "rng_state.pth",
    "runs/events.json",
    "scheduler.pt",
    "sweep.json",
    "tf_model.h5",
    "trainer_state.json",
    "training_args.bin",
]


@pytest.mark.parametrize("linked", [False, True], ids=["files", "links"])
def test_what_is_copied_and_what_is_not(tmp_path: Path, linked: bool):
    source = save(tmp_path / "a", shards=2)
    for name in COPIED + LEFT:
        if name == "config.json":
            continue
        path = source / name
        path.parent.mkdir(exist_ok=True)
        if linked:
            blob = tmp_path / name.replace("/", "-")
            blob.write_bytes(name.encode())
            path.symlink_to(blob)
        else:
            path.write_bytes(name.encode())
    before = tree(source)
    out = tmp_path / "out"
    out.mkdir()
    assert sorted(copy_companions(Checkpoint.open(source), out)) == sorted(COPIED)
    assert tree(out) == {name: before[name] for name in COPIED}
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert tree(source) == before


def test_large_files_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = save(tmp_path / "a")
    (source / "data.json").write_bytes(b"x" * 300)
    monkeypatch.setattr(companions, "MAX_BYTES", 299)
    (tmp_path / "out").mkdir()
    assert copy_companions(Checkpoint.open(source), tmp_path / "out") == ["config.json"]


def test_broken_link(tmp_path: Path):
    source = save(tmp_path / "a")
    (source / "tokenizer.json").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json' is a link to a missing file"):
        copy_companions(Checkpoint.open(source), tmp_path)


def test_output_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(OutputError, match=r"cannot write .*config\.json"):
        copy_companions(Checkpoint.open(save(tmp_path / "a")), tmp_path / "missing" / "deep")
