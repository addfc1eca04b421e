"""Pairs of random checkpoints for whole jobs: made on the device, written to files in memory."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bench.passes import llama
from hcnr.scratch import remove_abandoned, scratch_directory

Sample = dict[str, str]

LLAMA_8B = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
            "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256}  # fmt: skip
LLAMA_70B = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64,
             "num_key_value_heads": 8, "num_hidden_layers": 80, "vocab_size": 128256}  # fmt: skip
SMALL = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4,
         "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 128}  # fmt: skip

PLACES = ("/dev/shm", tempfile.gettempdir())
"""Where files may lie, the first with room for them; the first is memory."""

SPARE_BYTES = 2 * 2**30
WORDS = 64
CHANGE = 2e-3
"""What fine-tuning adds to each weight, a tenth of its spread."""


class PairFiles(NamedTuple):
    """Two checkpoints and the data that belong to them.

    Attributes:
        base: Directory.
        tuned: Directory.
        honesty: Samples.
        task: Samples.
        out: A name for what is written.
        weights: Bytes of the weights of one of the two.
        where: they lie, in words.
    """

    base: Path
    tuned: Path
    honesty: list[Sample]
    task: list[Sample]
    out: Path
    weights: int
    where: str

    @property
    def arguments(self) -> dict[str, Any]:
        """What `hcnr.restore` and `hcnr.sweep` are given."""
        names = ("base", "tuned", "honesty", "task")
        return {name: getattr(self, name) for name in names}


def weight_bytes(sizes: dict[str, int]) -> int:
    """Bytes of the weights of a bfloat16 Llama of these sizes, norms aside."""
    hidden, wide = sizes["hidden_size"], sizes["intermediate_size"]
    shared = hidden * sizes["num_key_value_heads"] // sizes["num_attention_heads"]
    block = hidden * (2 * hidden + 2 * shared + 3 * wide)
    return 2 * (sizes["num_hidden_layers"] * block + 2 * sizes["vocab_size"] * hidden)


def tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i + 3 for i in range(WORDS)}}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def samples(count: int, length: int, response: int, seed: int) -> list[Sample]:
    """Random words, the last `response` of `length` the answer."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, WORDS, (count, length), generator=generator).tolist()
    lines = [[f"w{word}" for word in line] for line in words]
    return [
        {"prompt": " ".join(line[:-response]), "response": " ".join(line[-response:])}
        for line in lines
    ]


def room_for(nbytes: int) -> Path:
    """The first of `PLACES` with so much room, once what killed processes left there is gone.

    Raises:
        RuntimeError: None has.
    """
    for folder in PLACES:
        remove_abandoned(Path(folder))
    free = {folder: shutil.disk_usage(folder).free for folder in PLACES if Path(folder).is_dir()}
    for folder, room in free.items():
        if room >= nbytes:
            return Path(folder)
    held = ", ".join(f"{folder} has {room / 1e9:.0f} GB" for folder, room in free.items())
    raise RuntimeError(f"the checkpoints of this section need {nbytes / 1e9:.0f} GB; {held}")


@contextlib.contextmanager
def written(
    device: torch.device, sizes: dict[str, int], count: int, length: int, response: int
) -> Iterator[PairFiles]:
    """Write a pair of random bfloat16 Llamas; it is deleted at the end, or by the next `room_for`.

    Args:
        device: Where the weights are drawn.
        sizes: Of the configuration.
        count: Samples of each data set.
        length: Words of each sample.
        response: Of these, words of the answer.
    """
    weights = weight_bytes(sizes)
    folder = room_for(3 * weights + SPARE_BYTES)
    kind = "memory" if str(folder) == PLACES[0] else "on a disk"
    with scratch_directory(folder) as root:
        model = llama(device, torch.bfloat16, max_position_embeddings=2 * length, **sizes)
        for role in ("base", "tuned"):
            model.save_pretrained(root / role, max_shard_size="5GB")
            tokenizer().save_pretrained(root / role)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=CHANGE)
        del model
        if device.type == "cuda":
            torch.cuda.empty_cache()
        yield PairFiles(
            root / "base", root / "tuned",
            samples(count, length, response, 0), samples(count, length, response, 1),
            root / "out", weights, f"files in {folder} ({kind})",
        )  # fmt: skip
