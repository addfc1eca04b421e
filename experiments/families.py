"""Every causal language model of transformers that a tiny configuration builds: exact, or refused.

A pair of random models of the family is written, restored from its directories and from memory, and
the two results are compared bit for bit; before that the run's own check compares scores and
gradients with autograd's. A tiny configuration that the model itself cannot run says `no` too, with
what it raised. `python -m experiments.families --out docs/models.md` writes the table,
`--only llama,gpt2` tries some.
"""

import argparse
import contextlib
import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import hcnr
from hcnr.errors import HcnrError
from hcnr.models.directory import DirectorySource
from hcnr.models.linear import kind_of
from hcnr.models.model import open_model

VOCABULARY = 64
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "embed_dim": 32, "word_embed_proj_dim": 32,
    "intermediate_size": 40, "n_inner": 40, "ffn_dim": 40, "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24, "ffn_hidden_size": 40,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "depth": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4,
    "decoder_attention_heads": 4, "num_key_value_heads": 2, "num_kv_heads": 2, "head_dim": 8,
    "decoder_layers": 2,
    "decoder_ffn_dim": 40, "max_position_embeddings": 64, "n_positions": 64,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "state_size": 8, "conv_kernel": 4, "expand": 2, "time_step_rank": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "image_size": 28, "patch_size": 14,
    "sliding_window": 8,
}  # fmt: skip
HONESTY = [{"prompt": f"w{i} w{i + 7} w{i + 1}", "response": f"w{i % 5} w{i % 3}"}
           for i in range(9)]  # fmt: skip
TASK = [{"prompt": f"w{2 * i} w{i} w{i + 3}", "response": f"w{i + 20}"} for i in range(9)]


def families() -> Iterator[tuple[str, type]]:
    """Model types of transformers' causal language models, with their classes."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    for kind, label in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()):
        found = getattr(transformers, label if isinstance(label, str) else label[0], None)
        if isinstance(found, type):
            yield kind, found


def tiny(kind: Any) -> Any:
    """A small configuration of a configuration class: its defaults, with every size made small."""
    known = kind().to_dict()
    changed = {key: value for key, value in TINY.items() if key in known}
    for key, sub in (getattr(kind, "sub_configs", None) or {}).items():
        if isinstance(known.get(key), dict) and isinstance(sub, type):
            with contextlib.suppress(Exception):
                changed[key] = tiny(sub).to_dict()
    for key in ("layer_types", "mlp_layer_types"):
        if isinstance(known.get(key), list):
            changed[key] = list(dict.fromkeys(known[key]))[:2] * (
                2 if len(set(known[key])) < 2 else 1
            )
    return kind(**changed)


def words() -> Any:
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i + 3 for i in range(VOCABULARY - 3)}
    raw: Any = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def pair_of(kind: Any, root: Path) -> int:
    """Write base and tuned; returns the number of parameters."""
    torch.manual_seed(0)
    model = kind(tiny(kind.config_class)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    tuned = copy.deepcopy(model)
    for parameter in tuned.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    for name, one in (("base", model), ("tuned", tuned)):
        one.save_pretrained(root / name)
        words().save_pretrained(root / name)
    return sum(parameter.numel() for parameter in model.parameters())


def compared(root: Path, config: hcnr.RestoreConfig) -> str:
    """Restore from directories and from memory; what came out, or AssertionError."""
    base, tuned = root / "base", root / "tuned"
    out = hcnr.restore(base, tuned, HONESTY, TASK, root / "out", config, overwrite=True)
    ours, theirs = (open_model(path, device="cpu") for path in (base, tuned))
    model = hcnr.restore(ours, theirs, HONESTY, TASK, config=config, tokenizer=words())
    source, before = DirectorySource(out), DirectorySource(tuned)
    assert list(source.checkpoint.tensors) == list(before.checkpoint.tensors), "names differ"
    changed = 0
    for name, parameter in model.named_parameters():
        written, own = source.parameter(name), before.parameter(name)
        assert written is not None and own is not None, f"{name} is not stored"
        assert torch.equal(written, parameter), f"{name} differs between disk and memory"
        changed += not torch.equal(written, own)
    assert changed, "nothing was changed"
    names = list(before.matrices(("*",), ()))
    reach = before.reach
    kinds = ", ".join(dict.fromkeys(map(kind_of, names)))
    return f"{len(names)} | {kinds} | {'' if reach is None else f'{reach.share:.0%}'}"


def attempt(step: Callable[[], Any]) -> tuple[bool, Any]:
    """Result of a step, or what stood in its way, in one line."""
    try:
        return True, step()
    except HcnrError as error:
        return False, f"refused: {error}"
    except AssertionError as error:
        return False, f"WRONG: {error}"
    except Exception as error:  # whatever a family's code raises is a row of the table
        return False, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def row(name: str, kind: Any, config: hcnr.RestoreConfig) -> str:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(place)
        built, what = attempt(lambda: pair_of(kind, root))
        if not built:
            return f"| {name} | not built | | | {what} |"
        works, what = attempt(lambda: compared(root, config))
    text = what.replace(place, "").replace("|", "/") if not works else ""
    return f"| {name} | exact | {what} | |" if works else f"| {name} | no | | | {text} |"


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="model types, separated by commas")
    parser.add_argument("--compensation", default="joint")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = hcnr.RestoreConfig(
        compensation=arguments.compensation, cross_weight_ratio=1.0, task_weight=1.0,
        samples=9, token_budget=64, device="cpu",
    )  # fmt: skip
    chosen = set(filter(None, arguments.only.split(",")))
    lines = ["| model type | | matrices | kinds | out of reach | |", "|---|---|---|---|---|---|"]
    for name, kind in families():
        if chosen and name not in chosen:
            continue
        lines.append(row(name, kind, config))
        print(lines[-1], flush=True)
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
