"""A whole Hugging Face folder of a random Llama of 40,000 parameters, made in a blink and without torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 260
HIDDEN, LAYERS, INNER = 32, 2, 64
POSITIONS = 16384
"""Much, since a token is a byte here: the judge prompt alone has more than 2,000."""


def byte_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """256 bytes and three control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = template
    return tokenizer


def make_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: 256 bytes and four control tokens."""
    tokenizer = byte_tokenizer(template)
    tokenizer.add_tokens(["<tool>"])
    return tokenizer


def make_weights(seed: int = 0) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Tensors by their names in transformers' LlamaForCausalLM with tied embeddings, float32."""
    random = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return (random.standard_normal(shape) * 0.02).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN),
        "model.norm.weight": np.ones(HIDDEN, np.float32),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        tensors |= {f"{at}self_attn.{name}_proj.weight": matrix(HIDDEN, HIDDEN) for name in "qkvo"}
        tensors |= {f"{at}mlp.{name}_proj.weight": matrix(INNER, HIDDEN) for name in ("gate", "up")}
        tensors[f"{at}mlp.down_proj.weight"] = matrix(HIDDEN, INNER)
        tensors[f"{at}input_layernorm.weight"] = np.ones(HIDDEN, np.float32)
        tensors[f"{at}post_attention_layernorm.weight"] = np.ones(HIDDEN, np.float32)
    return tensors


PARAMETERS = sum(tensor.size for tensor in make_weights().values())


def make_model(folder: Path, *, template: str | None = CHATML, seed: int = 0, **config: object) -> Path:
    """Write the folder; `config` goes over config.json."""
    folder.mkdir(parents=True)
    save_file(make_weights(seed), folder / "model.safetensors", metadata={"format": "pt"})
    make_tokenizer(template).save_pretrained(str(folder))
    eos = make_tokenizer().eos_token_id
    document = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "max_position_embeddings": POSITIONS,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "eos_token_id": eos,
        "dtype": "float32",
    } | config
    (folder / "config.json").write_text(json.dumps(document))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    return folder
