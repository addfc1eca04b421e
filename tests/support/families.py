"""Tiny random models of every family the measuring is tested on, and data for them."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hcnr.data.tokens import TokenCounts, TokenizedSample, TokenizedSet

VOCABULARY = 67
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED: dict[str, Any] = {**COMMON, "num_key_value_heads": 2}

FAMILIES: dict[str, Callable[..., PreTrainedModel]] = {
    "llama": lambda **k: LlamaForCausalLM(LlamaConfig(**GROUPED, **k)),
    "mistral": lambda **k: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=8, **k)),
    "qwen2": lambda **k: Qwen2ForCausalLM(Qwen2Config(**GROUPED, **k)),
    "qwen3": lambda **k: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=6, **k)),
    "gemma2": lambda **k: Gemma2ForCausalLM(
        Gemma2Config(**GROUPED, head_dim=6, query_pre_attn_scalar=6, sliding_window=8, **k)
    ),
    "gemma3": lambda **k: Gemma3ForCausalLM(
        Gemma3TextConfig(**GROUPED, head_dim=6, query_pre_attn_scalar=6, sliding_window=8, **k)
    ),
    "phi3": lambda **k: Phi3ForCausalLM(Phi3Config(**GROUPED, **k)),
    "gpt_neox": lambda **k: GPTNeoXForCausalLM(GPTNeoXConfig(**COMMON, **k)),
}

# More layers than the text has, and wider ones: a tower is not to be taken for the blocks.
TOWER: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
RENAMED: dict[str, Callable[..., PreTrainedModel]] = {
    "gemma3_vision": lambda **k: Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={**GROUPED, "head_dim": 6, "query_pre_attn_scalar": 6, "sliding_window": 8},
            vision_config=TOWER,
            mm_tokens_per_image=4,
            **k,
        )
    ),
    "llava": lambda **k: LlavaForConditionalGeneration(
        LlavaConfig(
            text_config={**GROUPED, "model_type": "llama"},
            vision_config={**TOWER, "model_type": "clip_vision_model", "projection_dim": 16},
            **k,
        )
    ),
    "qwen2_5_vl": lambda **k: Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                **GROUPED,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 1]},
            },
            vision_config={
                "depth": 2,
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_heads": 2,
                "out_hidden_size": 24,
            },
            **k,
        )
    ),
    "mixtral": lambda **k: MixtralForCausalLM(MixtralConfig(**GROUPED, num_local_experts=4, **k)),
    "gpt2": lambda **k: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=24,
            n_inner=40,
            n_layer=2,
            n_head=4,
            n_positions=64,
            bos_token_id=1,
            eos_token_id=2,
            **k,
        )
    ),
}
"""Families whose files bear other names than their parameters; GPT-2's once its prefix is gone."""


def attentions(family: str) -> list[str]:
    """Attention implementations the family has: Gemma 2 caps its logits, which sdpa cannot."""
    return ["eager"] if family == "gemma2" else ["sdpa", "eager"]


def make(family: str, *, seed: int = 0, attention: str | None = None) -> PreTrainedModel:
    """A small random model with weights large enough that nothing is close to linear."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = {**FAMILIES, **RENAMED}[family](
            attn_implementation=attention or attentions(family)[0]
        )
        for parameter in model.parameters():
            if parameter.dim() in (2, 3):
                parameter.data.normal_(0, 0.25)
            elif parameter.dim() == 1:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def perturbed(model: PreTrainedModel, *, seed: int = 1, scale: float = 0.05) -> PreTrainedModel:
    """A copy with every weight moved a little: a stand-in for fine-tuning."""
    import copy

    generator = torch.Generator().manual_seed(seed)
    tuned = copy.deepcopy(model)
    for parameter in tuned.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        parameter.data.add_((scale * noise).to(parameter.dtype))
    return tuned


def tokens(count: int, *, seed: int = 0, shortest: int = 2, longest: int = 13) -> TokenizedSet:
    """Random tokenised samples of very different lengths."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    samples = []
    for _ in range(count):
        length = whole(shortest, longest + 1)
        ids = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        samples.append(TokenizedSample(tuple(ids), whole(1, length)))
    total = sum(map(len, samples))
    response = sum(len(s) - s.response_start for s in samples)
    return TokenizedSet(tuple(samples), TokenCounts(count, total, response, 0, 0, False), "-")
