"""What the examples run on: a tiny random model, a tokenizer and samples, in a second."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = 61
HONESTY = [
    {"prompt": f"w{i} w{i + 7} w{i + 1}", "response": f"w{i % 5} w{i % 3}"} for i in range(12)
]
TASK = [{"prompt": f"w{2 * i} w{i}", "response": f"w{i + 20}"} for i in range(12)]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, `w0` to `w60`."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i + 3 for i in range(WORDS)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def model(*, width: int = 32, layers: int = 2, tuned: bool = False) -> LlamaForCausalLM:
    """A random Llama; `tuned` is the same with every weight moved a little."""
    torch.manual_seed(0)
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS + 3, hidden_size=width, intermediate_size=2 * width,
            num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, max_position_embeddings=256,
        )
    ).eval()  # fmt: skip
    if tuned:
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
    return made


def write_pair(folder: Path) -> tuple[Path, Path]:
    """Directories of a base and a tuned model below `folder`."""
    for name in ("base", "tuned"):
        model(tuned=name == "tuned").save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    return folder / "base", folder / "tuned"


def race(contenders: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Median seconds of each, taken in turn after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}
