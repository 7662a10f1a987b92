"""Chat messages to token ids, injection-safe (number rule 3).

Purpose: the one way in which prompts, answers and judge prompts become token ids, in judging, rollout and training alike.
The template's own text may hold control tokens; text from models or data never may: an answer that spells `<|im_end|>`
becomes ordinary tokens. Prompt and answer are encoded apart and put together, so that training sees exactly the tokens
that serving sees.

Must not: import transformers; a tokenizer is given. Neighbours: the trainer and the sampler use it; Prepare checks it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""

DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'user' %}### User:\n{{ message['content'] }}\n\n"
    "{% else %}### Assistant:\n{{ message['content'] }}{{ eos_token }}\n\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
"""The template for a tokenizer that has none: no control tokens but the end-of-sequence token."""


class ChatTemplateError(ValueError):
    """A chat template cannot be used; the text says why and what to change."""


class Tokenizer(Protocol):
    """The part of transformers' tokenizers that is used here."""

    chat_template: Any
    eos_token_id: int | None

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """Control tokens by their ids."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> Mapping[str, Any]:
        """`input_ids` of a text."""

    def apply_chat_template(self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool) -> Any:
        """The conversation as the template writes it."""


@dataclass(frozen=True)
class Example:
    """A prompt with its target."""

    input_ids: list[int]
    """Prompt, then target; shape [length]."""
    prompt_length: int
    """The first target token's index."""

    @property
    def target_mask(self) -> list[int]:
        """1 on tokens that the loss counts (the answer and its end-of-turn token), 0 on the prompt; shape [length]."""
        return [0] * self.prompt_length + [1] * (len(self.input_ids) - self.prompt_length)


class ChatEncoder:
    """Encodes with one tokenizer and its chat template. Raises ChatTemplateError if the template cannot work."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        if tokenizer.chat_template is None:
            tokenizer.chat_template = DEFAULT_TEMPLATE
        self._control = {
            token_id: str(getattr(token, "content", token))
            for token_id, token in tokenizer.added_tokens_decoder.items()
        }
        spelled = sorted(
            (re.escape(text) for text in set(self._control.values()) if len(text) > 1), key=len, reverse=True
        )
        self._spelled = re.compile("|".join(spelled)) if spelled else None
        self._end_of_turn = self._find_end_of_turn()

    @property
    def stop_token_ids(self) -> list[int]:
        """Tokens that end an answer: the template's end of turn, and the tokenizer's end of sequence."""
        ends = [self._end_of_turn[-1]]
        eos = self._tokenizer.eos_token_id
        return ends if eos is None or eos in ends else [*ends, eos]

    def text(self, text: str) -> list[int]:
        """Token ids of text from models or data; never a control token."""
        ids = self._encode(text)
        if not any(token_id in self._control for token_id in ids):
            return ids
        pieces = self._cut(text)
        ids = [token_id for piece in pieces for token_id in self._encode(piece)]
        if any(token_id in self._control for token_id in ids):
            ids = [token_id for character in text for token_id in self._encode(character)]
        return [token_id for token_id in ids if token_id not in self._control]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation that ends where the assistant's answer begins."""
        return self._render(messages, generate=True)

    def completion(self, text: str) -> list[int]:
        """Token ids of an answer with its end-of-turn token."""
        return [*self.text(text), *self._end_of_turn]

    def example(self, messages: Sequence[Message]) -> Example:
        """A conversation whose last message is the target; raises ValueError if that is not the assistant's."""
        if not messages or messages[-1]["role"] != "assistant":
            raise ValueError("the last message of an example must be the assistant's")
        prompt = self.prompt(messages[:-1])
        return Example(
            input_ids=[*prompt, *self.completion(messages[-1]["content"])], prompt_length=len(prompt)
        )

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _cut(self, text: str) -> list[str]:
        """The text in pieces, cut inside every place that spells a control token."""
        if self._spelled is None:
            return [text]
        cuts = [match.start() + 1 for match in self._spelled.finditer(text)]
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        return [
            part
            for piece in pieces
            for part in (self._cut(piece) if self._spelled.search(piece) else [piece])
        ]

    def _render(self, messages: Sequence[Message], *, generate: bool) -> list[int]:
        """The template is rendered around marks, then each mark is replaced by the ids of its message's text."""
        marked = [{**message, "content": f"\ue000{index}\ue001"} for index, message in enumerate(messages)]
        try:
            rendered = self._tokenizer.apply_chat_template(
                marked, tokenize=False, add_generation_prompt=generate
            )
        except Exception as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ChatTemplateError(f"the chat template fails on the roles {roles}: {error}") from error
        parts = re.split("\ue000(\\d+)\ue001", rendered)
        found = [int(index) for index in parts[1::2]]
        if found != list(range(len(messages))):
            raise ChatTemplateError(
                f"the chat template shows the messages {found} of {len(messages)}: it must show each message once, in order"
            )
        ids: list[int] = []
        for position, part in enumerate(parts):
            ids += self.text(messages[int(part)]["content"]) if position % 2 else self._encode(part)
        return ids

    def _find_end_of_turn(self) -> list[int]:
        """What the template writes after an answer, up to and with its first control token."""
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        prompt, whole = self._render(turn[:1], generate=True), self._render(turn, generate=False)
        answer = self.text("b")
        rest = whole[len(prompt) :]
        if whole[: len(prompt)] != prompt or rest[: len(answer)] != answer:
            tail = self._tail_after_last_mark(turn)
        else:
            tail = rest[len(answer) :]
        for position, token_id in enumerate(tail):
            if token_id in self._control:
                return tail[: position + 1]
        raise ChatTemplateError(
            "the chat template does not end the assistant's turn in a control token (such as the tokenizer's "
            "end-of-sequence token), so an answer would never stop: end it in {{ eos_token }}"
        )

    def _tail_after_last_mark(self, turn: Sequence[Message]) -> list[int]:
        """For templates whose generation prompt is not a prefix of the whole (e.g. one that adds an empty thought)."""
        marked = [{**message, "content": f"\ue000{index}\ue001"} for index, message in enumerate(turn)]
        rendered = self._tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=False)
        return self._encode(rendered.rpartition("\ue001")[2])
