"""A toy model directory: architecture configuration and a word-level tokenizer. Runs in the serving environment.

The weights are random (the engine draws them, ``load_format=dummy``); the words are ``w0`` … so that a prompt of n
words has about n tokens. The default is the paper's family, Falcon-H1 (hybrid attention and Mamba), at toy size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ("<|end|>", "<|user|>", "<|assistant|>", "<|unknown|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_model(
    directory: Path, *, architecture: str, layers: int, hidden_size: int, vocabulary: int, max_model_len: int
) -> None:
    """Write ``config.json`` and the tokenizer of a random model into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    config = _architecture(architecture, hidden_size) | {
        "vocab_size": vocabulary,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden_size // 32,
        "num_key_value_heads": max(1, hidden_size // 64),
        "max_position_embeddings": max_model_len,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    _build_tokenizer(directory, vocabulary, max_model_len)


def _architecture(name: str, hidden_size: int) -> dict[str, Any]:
    match name:
        case "falcon-h1":
            return {
                "architectures": ["FalconH1ForCausalLM"],
                "model_type": "falcon_h1",
                "head_dim": 32,
                "rope_theta": 10000.0,
                "mamba_d_ssm": hidden_size,
                "mamba_n_heads": hidden_size // 32,
                "mamba_d_head": 32,
                "mamba_n_groups": 1,
                "mamba_d_state": 16,
                "mamba_d_conv": 4,
                "mamba_expand": 2,
                "mamba_chunk_size": 64,
                "mamba_conv_bias": True,
                "mamba_proj_bias": False,
                "mamba_norm_before_gate": False,
                "mamba_rms_norm": False,
            }
        case "llama":
            return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rope_theta": 10000.0}
        case "qwen2":
            return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rope_theta": 10000.0}
        case _:
            raise ValueError(f"unknown architecture '{name}'; allowed: falcon-h1, llama, qwen2")


def _build_tokenizer(directory: Path, vocabulary: int, max_model_len: int) -> None:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(vocabulary - len(SPECIAL_TOKENS)))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIAL_TOKENS[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL_TOKENS[0],
        "pad_token": SPECIAL_TOKENS[0],
        "unk_token": SPECIAL_TOKENS[3],
        "model_max_length": max_model_len,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
