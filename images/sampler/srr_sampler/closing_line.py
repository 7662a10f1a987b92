"""The last line of a structured judgement: its opening is appended to the free text, and one label is chosen.

Purpose: the second step of `format: Structured` (number rule 4), for scores and for preferences alike: always well-formed,
whatever the model wrote before. Where each label is one token of its own the choice is among those tokens and their
probabilities come back; else it is among the labels as texts.
Must not: send anything, or know what a label means.
Neighbours: `judging` and `referee` ask; `sampling` makes the document, `client` sends it.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from selfrewarding.contract.program import BadConfiguration
from srr_sampler.client import Sample
from srr_sampler.encoders import Encoder
from srr_sampler.sampling import CompletionRequest, Sampling

Label = TypeVar("Label", bound=Hashable)

_CONTEXT = "."


def label_tokens(tokenizer: Any, opening: str, labels: Sequence[Label]) -> dict[Label, int] | None:
    """Label → token id, where each label is one token of its own after the opening; None if the tokenizer splits one.

    Some tokenizers join the space before the label to it; then that joined token is the label's.
    """
    ids = [_ids(tokenizer, f"{_CONTEXT}{opening}{label}") for label in labels]
    before = len(ids[0]) - 1
    tokens = {label: found[-1] for label, found in zip(labels, ids, strict=True)}
    alike = all(len(found) == before + 1 and found[:before] == ids[0][:before] for found in ids)
    return tokens if alike and len(set(tokens.values())) == len(tokens) else None


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def label_probabilities(logprobs: Mapping[int, float], tokens: Mapping[Label, int]) -> dict[Label, float]:
    """The labels' renormalised probabilities.

    Log probabilities are the model's own (vLLM: raw_logprobs, before temperature and nucleus); whether they were
    normalised over the whole vocabulary or over the allowed tokens only makes no difference. Raises KeyError if one
    is missing.
    """
    highest = max(logprobs[token] for token in tokens.values())
    weights = {label: math.exp(logprobs[token] - highest) for label, token in tokens.items()}
    total = math.fsum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


class ClosingLine(Generic[Label]):
    """See the module.

    Args:
        encoder: of the judge's model.
        opening: of the line, with the line break before it and the space after it.
        labels: what may follow; their texts are `str(label)`.
        what: the labels are, in the plural, for messages.
        field: of the spec that asks for this format, for messages.
    """

    def __init__(
        self, encoder: Encoder, opening: str, labels: Sequence[Label], *, what: str, field: str
    ) -> None:
        self._encoder, self.opening, self._labels = encoder, opening, labels
        self._what, self._field = what, field
        self.tokens = label_tokens(encoder.tokenizer, opening, labels)
        """The labels' tokens; None if the tokenizer splits one."""

    @property
    def stop(self) -> str:
        """Where the free text ends."""
        return self.opening.rstrip()

    @property
    def room(self) -> int:
        """Tokens of the whole line, at most."""
        return max(len(self._encoder.chat.text(f"{self.opening}{label}")) for label in self._labels)

    def request(
        self, ids: Sequence[int], written: str, *, temperature: float, top_p: float, seed: int
    ) -> CompletionRequest:
        """What asks for the label; the free text goes back to the judge as ordinary tokens.

        Args:
            ids: of the judge's prompt.
            written: the free text that followed it, without white space at its end.
            temperature: of the choice.
            top_p: of the choice.
            seed: of the choice.
        """
        text = self._encoder.chat.text
        if self.tokens is None:
            longest = max(len(text(str(label))) for label in self._labels)
            return CompletionRequest(
                prompt=[*ids, *text(written + self.opening)],
                sampling=Sampling(temperature, top_p, longest),
                seed=seed,
                choices=tuple(str(label) for label in self._labels),
            )
        some = self._labels[0]
        whole = text(f"{written}{self.opening}{some}")
        if whole[-1] != self.tokens[some]:
            # This text's end joins with the opening in a way of its own: encode the two apart.
            whole = [*text(written), *text(f"{self.opening}{some}")]
        return CompletionRequest(
            prompt=[*ids, *whole[:-1]],
            sampling=Sampling(temperature, top_p, max_tokens=1),
            seed=seed,
            among=tuple(self.tokens.values()),
        )

    def chosen(self, sample: Sample) -> tuple[Label, dict[Label, float] | None]:
        """The chosen label, and the probabilities of all where each is one token. Raises BadConfiguration."""
        try:
            if self.tokens is None:
                return {str(label): label for label in self._labels}[sample.text], None
            by_token = {token: label for label, token in self.tokens.items()}
            label = by_token[-1 if sample.token is None else sample.token]
            return label, label_probabilities(sample.logprobs or {}, self.tokens)
        except KeyError as error:
            raise BadConfiguration(
                f"the judge's server does not keep to the allowed {self._what} (it chose {sample.text!r}): {self._field} "
                f"Structured needs vLLM 0.32 or later; set {self._field} to Free"
            ) from error
