"""Small configurations of any configuration class, and the words of a tiny tokenizer."""

import re
from collections.abc import Iterator
from typing import Any

VOCABULARY = 64
# Names of configuration keys, as whole patterns, and what they become; the first that fits.
SIZES: tuple[tuple[str, Any], ...] = (
    (r"(.*_)?vocab_size|vocab_size_per_layer_input", VOCABULARY),
    (r"ngram_vocab_size_base|encoder_hash_byte_group_vocab|codebook_size", VOCABULARY),
    (r"(.*_)?(num_key_value_heads|num_kv_heads)|num_attention_groups|num_query_groups", 2),
    (r"num_(hidden_|decoder_|encoder_)?layers|n_layers?|(decoder|encoder)_layers|depth"
     r"|num_blocks|num_layers_per_stack|max_window_layers", 2),
    (r"(num_)?(.*_)?attention_heads|n_heads?|num_heads|linear_num_(key|value)_heads"
     r"|mamba_n(um)?_heads|lru_heads|linear_num_heads|index_n_heads", 4),
    (r"(.*_)?head_dim|d_head|dim_head|kv_channels|mamba_d_head|rotary_dim|head_size", 8),
    (r"(q|kv|o)_lora_rank|laurel_rank|adapter_rank|gated_norm_rank|hc_lowrank|d_rel", 16),
    (r"d_model|embed_dim|dim|.*embedding_size|embedding_dim|emb_dim|word_embed_proj_dim|model_dim"
     r"|(.*_)?hidden_size(_global)?|n_embd|lru_width|ple_embed_dim|dim_model_base", 32),
    (r"(moe|expert|shared_expert|moe_shared_expert).*intermediate_size|moe_ffn_hidden_size", 24),
    (r"(.*_)?intermediate_size(_mlp)?|n_inner|(decoder_|encoder_)?ffn_dim|d_inner|dff|dim_ff"
     r"|ffn_hidden_size|d_ff|ffn_.*_size|feed_forward_size|mlp_dim", 40),
    (r"num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts", 4),
    (r"num_experts_per_tok(en)?|moe_k|moe_top_?k|num_selected_experts", 2),
    (r"n_group|topk_group|num_expert_group|topk_expert_group|zero_expert_num", 1),
    (r"first_k_dense_replace|moe_layer_start_index|num_dense_layers", 1),
    (r"max_position_embeddings|n_positions|max_seq_len|max_sequence_length|n_ctx|context_length"
     r"|max_(target|source)_positions|model_max_length|original_max_position_embeddings", 64),
    (r"(.*_)?sliding_window(_size)?|attention_window(_size)?|index_topk(_blocks)?", 8),
    (r"state_size|ssm_state_size|mamba_d_state|hidden_size_per_layer_input|chunk_size"
     r"|mamba_chunk_size", 8),
    (r"image_size|crop_size", 28),
    (r"patch_size", 14),
    (r"(mamba_)?n_?groups", 1),
    (r"time_step_rank|mamba_dt_rank", 4),
    (r"(pad|decoder_start)_token_id", 0),
    (r"bos_token_id", 1),
    (r"eos_token_id", 2),
)  # fmt: skip
_MAMBA = ["mamba", "attention"]
_SHARED = {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 0,
           "vocab_size_per_layer_input": 0}  # fmt: skip
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], "mamba_d_head": 16},
    "codegen": {"rotary_dim": 4},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1],
            }
        }
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4},
    "dots3_note_text": {
        "num_key_value_heads": 4, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16, "swa_kv_lora_rank": 16, "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 8,
    },
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_d_head": 16},
    "gemma3n_text": {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types":
                     ["sliding_attention", "full_attention"] * 2, "intermediate_size": [40] * 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {
        "layer_types": _MAMBA, "layers_block_type": _MAMBA, "mamba_d_head": 16,
    },
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"qk_head_dim": 16, "head_dim": 8, "num_layers": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "nemotron_h": {"n_groups": 2, "mamba_num_heads": 4, "mamba_head_dim": 16},
    "qwen4_exp_text": {
        "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
        "indexer_compress_ratio": 2, "split_ngram_parts": 2,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "is_decoder": True, "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "lsh"], "num_buckets": 2, "hash_seed": 0,
    },
    "xlstm": {"hidden_size": 64, "num_heads": 4, "embedding_dim": 64},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
              "attention_hidden_size": 64, "attention_head_dim": 16,
              "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "hybrid"]},
    "zamba2": {"n_mamba_heads": 4, "attention_hidden_size": 64, "num_hidden_layers": 4,
               "attention_head_dim": 16, "layers_block_type": ["mamba", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
"""What a family's own rules ask for, beyond small sizes."""


def families() -> Iterator[tuple[str, Any]]:
    """Model types of transformers' causal language models, with their classes."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    for kind, label in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()):
        kind_class = getattr(transformers, label if isinstance(label, str) else label[0], None)
        if isinstance(kind_class, type):
            yield kind, kind_class


def tiny(kind: Any) -> Any:
    """A small configuration of a configuration class: its defaults, with every size made small."""
    from transformers import PreTrainedConfig

    usual = kind()
    known = usual.to_dict()
    changed = {key: new for key, old in known.items() if (new := _small(key, old)) is not None}
    heads, groups = (known.get(key) for key in ("num_attention_heads", "num_key_value_heads"))
    if heads is not None and heads == groups and "num_attention_heads" in changed:
        changed["num_key_value_heads"] = changed["num_attention_heads"]
    for key, value in vars(usual).items():
        if isinstance(value, PreTrainedConfig):
            changed[key] = tiny(type(value))
    for key in ("layer_types", "mlp_layer_types", "layers_block_type"):
        if isinstance(known.get(key), list):
            each = list(dict.fromkeys(map(str, known[key])))
            changed[key] = (each * 2)[: max(2, len(each))]
    if "is_decoder" in known:
        changed["is_decoder"] = True
    changed.update(EXCEPTIONS.get(kind.model_type, {}))
    types = [changed[key] for key in ("layer_types", "layers_block_type") if key in changed]
    for key in ("num_hidden_layers", "n_layer", "num_layers"):
        if types and key in known:
            changed[key] = len(types[0])
    if "mlp_layer_types" in changed and types:
        changed["mlp_layer_types"] = (changed["mlp_layer_types"] * 9)[: len(types[0])]
    return kind(**changed)


def _small(key: str, value: Any) -> Any:
    """The new value of a key; None where it stays as it is."""
    if isinstance(value, bool | str | dict | list):
        return None
    for pattern, new in SIZES:
        if re.fullmatch(pattern, key):
            return new
    return None


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
