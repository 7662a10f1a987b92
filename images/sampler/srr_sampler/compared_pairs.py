"""Pairs of answers to compare, and what the referee was asked about each so far.

Purpose: the answers of two models to one prompt, the tries of both orders, and from them what is still missing, the
comparison that is counted and the row that is kept.
Must not: ask anything.
Neighbours: `answers` reads what Evaluate wrote; `compare` asks and counts.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from selfrewarding.api.evaluation import HeadToHeadSpec
from selfrewarding.contract.config import StageConfig
from selfrewarding.contract.program import BadConfiguration, BadData
from selfrewarding.data.comparison_prompt import ComparisonPrompt, Verdict
from selfrewarding.data.head_to_head import Comparison
from srr_sampler.answers import NO_ROOM, read_answers
from srr_sampler.asking import Stage
from srr_sampler.referee import REFUSED

Opponent = Literal["previous", "initial", "baseline"]
Place = Literal["first", "second"]
"""Where the newest model's answer stands."""
PLACES: tuple[Place, ...] = get_args(Place)

MOST_TRIES = 3
"""How often one order of one comparison is asked for, where the verdicts are invalid."""
TOO_LONG = "too_long"
"""Reason of a verdict that could not be asked for: the comparison leaves no room in the judge's context."""
_QUESTION_DIGITS = 32
_FINAL = frozenset({TOO_LONG, REFUSED})
"""Reasons that asking again cannot change."""


@dataclass(slots=True)
class Order:
    """One order of one comparison: the judge's turn, and what was tried so far.

    Attributes:
        text: of the judge's turn.
        tries: rows of the log, in order.
    """

    text: str
    tries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def question(self) -> str:
        """Digest of the judge's turn: equal questions to one judge have equal verdicts, whoever asked first."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:_QUESTION_DIGITS]

    @property
    def verdict(self) -> Verdict | None:
        """The first valid verdict."""
        return next((row["verdict"] for row in self.tries if row["verdict"] is not None), None)

    @property
    def open(self) -> bool:
        """Whether asking (again) makes sense."""
        return (
            self.verdict is None
            and len(self.tries) < MOST_TRIES
            and not any(row["reason"] in _FINAL for row in self.tries)
        )


@dataclass(slots=True)
class Pair:
    """Two answers to one prompt."""

    opponent: str
    answer: dict[str, Any]
    other: dict[str, Any]
    orders: dict[Place, Order]

    @property
    def prompt_key(self) -> str:
        """Key of the prompt."""
        return str(self.answer["key"])

    @property
    def key(self) -> str:
        """Key of the comparison."""
        return f"{self.opponent}/{self.prompt_key}"

    @property
    def unanswered(self) -> bool:
        """Whether a model had no room for an answer: there is nothing to compare, and nobody is asked."""
        return any(
            answer["finishReason"] == NO_ROOM
            for row in (self.answer, self.other)
            for answer in row["answers"]
        )

    @property
    def identical(self) -> bool:
        """Whether the two answers are the same text: a tie that nobody is asked about."""
        return not self.unanswered and texts(self.answer) == texts(self.other)

    @property
    def is_asked_about(self) -> bool:
        """Whether the judge has a say."""
        return not (self.unanswered or self.identical)

    @property
    def missing(self) -> list[Place]:
        """The orders to ask for (again)."""
        return [place for place in PLACES if self.orders[place].open] if self.is_asked_about else []

    def comparison(self) -> Comparison:
        """The pair as it is counted."""
        return Comparison(
            key=self.key,
            shown_first=self.orders["first"].verdict,
            shown_second=self.orders["second"].verdict,
            length=sum(map(len, texts(self.answer))),
            other_length=sum(map(len, texts(self.other))),
            identical=self.identical,
            category=self.answer.get("category"),
            prompt=self.prompt_key,
        )

    def as_row(self) -> dict[str, Any]:
        """The row of `comparisons.jsonl`."""
        return {
            "key": self.key,
            "opponent": self.opponent,
            "set": self.answer["set"],
            "id": self.answer["id"],
            **({"category": self.answer["category"]} if "category" in self.answer else {}),
            "prompt": self.answer["turns"],
            "answer": texts(self.answer),
            "other": texts(self.other),
            "verdicts": [
                {
                    "verdict": self.orders[place].verdict,
                    "tries": [_shown(row) for row in self.orders[place].tries],
                }
                for place in PLACES
            ],
            "preference": self.comparison().preference,
        }


def opponents_of(config: StageConfig) -> dict[Opponent, Opponent]:
    """The opponents that are asked for, each with the one whose comparisons are its own: M1 may be the previous model too,
    and is compared with once then."""
    first: dict[str, Opponent] = {}
    return {
        role: first.setdefault(config.parents[role].key, role)
        for role in get_args(Opponent)
        if role in config.parents
    }


def read_pairs(stage: Stage, spec: HeadToHeadSpec, prompt: ComparisonPrompt) -> list[Pair]:
    """In the order in which they are asked about: prompt by prompt, so that a budget ends evenly.

    Opponents that gave the same answer share their orders: the judge is asked once.
    Raises BadConfiguration, BadData, ParentMissing.
    """
    ours = sorted(
        (key, row) for (name, key), row in read_answers(stage, "answers").items() if name == spec.set
    )
    opponents: dict[Opponent, Mapping[tuple[str, str], dict[str, Any]]] = {
        role: read_answers(stage, role) for role, shown in opponents_of(stage.config).items() if role == shown
    }
    if not opponents:
        raise BadConfiguration("Compare has no opponent among its parents: previous, initial or baseline")
    pairs = []
    for _, answer in ours[: spec.prompts]:
        for role, theirs in opponents.items():
            pairs.append(_pair(spec, prompt, role, answer, theirs))
    share_orders(pairs, {})
    return pairs


def read_step(
    stage: Stage, spec: HeadToHeadSpec, prompt: ComparisonPrompt, *, newer: str, older: str
) -> list[Pair]:
    """Those of one candidate of a training and the one before it, by their roles; they share no orders yet.

    Raises BadConfiguration, BadData, ParentMissing.
    """
    ours, theirs = read_answers(stage, newer), read_answers(stage, older)
    rows = sorted((key, row) for (name, key), row in ours.items() if name == spec.set)
    return [_pair(spec, prompt, older, row, theirs) for _, row in rows[: spec.prompts]]


def _pair(
    spec: HeadToHeadSpec,
    prompt: ComparisonPrompt,
    role: str,
    answer: dict[str, Any],
    theirs: Mapping[tuple[str, str], dict[str, Any]],
) -> Pair:
    other = theirs.get((spec.set, str(answer["key"])))
    if other is None or len(other["answers"]) != len(answer["answers"]):
        raise BadData(
            f"the {role} model has no answer to the prompt {answer['id']} of the set {spec.set}, which the newest "
            "model answered: the stages that answered read different prompts; remove the run's results of these stages "
            "(Evaluate, Answer) from the store and let them be computed again"
        )
    orders: dict[Place, Order] = {
        "first": Order(prompt.render(answer["turns"], texts(answer), texts(other))),
        "second": Order(prompt.render(answer["turns"], texts(other), texts(answer))),
    }
    return Pair(role, answer, other, orders)


def share_orders(pairs: Iterable[Pair], known: dict[str, Order]) -> None:
    """Let equal questions be one order, with the tries of the first; `known` are those so far, by question."""
    for pair in pairs:
        if pair.is_asked_about:
            for place, order in pair.orders.items():
                pair.orders[place] = known.setdefault(order.question, order)


def orders_of(pairs: Iterable[Pair]) -> list[Order]:
    """The orders that are asked about, each once."""
    return list(
        {id(order): order for pair in pairs if pair.is_asked_about for order in pair.orders.values()}.values()
    )


def restore(pairs: Iterable[Pair], rows: Iterable[dict[str, Any]]) -> None:
    """Give each order the tries that are in the store."""
    orders = {order.question: order for order in orders_of(pairs)}
    for row in rows:
        order = orders.get(str(row["key"]).partition("/")[0])
        if order is not None:
            order.tries.append(row)
    for order in orders.values():
        order.tries.sort(key=lambda row: int(row["try"]))


def texts(row: Mapping[str, Any]) -> list[str]:
    """The answers of a row of `answers.jsonl`, one for each turn."""
    return [str(answer["text"]) for answer in row["answers"]]


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in {"key", "try"}}
