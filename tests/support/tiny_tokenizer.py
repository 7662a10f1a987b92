"""A real tokenizer that is made in milliseconds: one token per byte, ChatML control tokens, a chat template.

Every id says what it stands for, so a scripted server can read prompts without transformers.
"""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL = (END_OF_TEXT, START, END)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _alphabet() -> list[str]:
    """The byte-level alphabet of GPT-2: the character that stands for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = {byte: chr(byte) for byte in printable}
    for offset, byte in enumerate(byte for byte in range(256) if byte not in characters):
        characters[byte] = chr(256 + offset)
    return [characters[byte] for byte in range(256)]


def control_id(token: str) -> int:
    """Id of a control token; bytes are their own ids."""
    return 256 + CONTROL.index(token)


def decode(ids: Sequence[int]) -> str:
    """Token ids as text; control tokens stand as ⟦<|im_end|>⟧, which no text can spell with ordinary tokens."""
    content = b"".join(bytes([i]) if i < 256 else f"⟦{CONTROL[i - 256]}⟧".encode() for i in ids)
    return content.decode("utf-8", "replace")


def save_tokenizer(folder: Path) -> Path:
    """Write the tokenizer as a folder that `AutoTokenizer.from_pretrained` reads."""
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: byte for byte, character in enumerate(_alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END_OF_TEXT, model_max_length=8192
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder
