"""Judging one answer: rounds, score tokens, expected scores, and both formats request by request."""

import itertools
import math
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.scripted_server import Asked, Fault, ScriptedServer
from tests.support.tiny_tokenizer import _alphabet
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from selfrewarding.api.algorithm import JudgeSpec, ScoresSpec
from selfrewarding.contract.config import ServedModel
from selfrewarding.contract.program import BadConfiguration
from selfrewarding.data.comparison_prompt import PREFERENCE_LEAD, VERDICTS
from selfrewarding.data.errors import DataError
from srr_sampler.client import CompletionClient
from srr_sampler.closing_line import label_probabilities, label_tokens
from srr_sampler.encoders import Encoder, load_encoder
from srr_sampler.judged_rows import Round, next_round
from srr_sampler.judging import Judge, expected_score, score_tokens
from srr_sampler.ranked_judging import RankedAnswer
from srr_sampler.read_back import JudgedAnswer
from srr_sampler.sampling import Seeds

MODEL = "m1"
QUESTION = [{"role": "user", "content": "What is 2 + 2?"}]


@pytest.fixture(scope="module")
def encoder(tokenizer_folder: Path) -> Encoder:
    return load_encoder(tokenizer_folder, field="model", uri="tiny")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(MODEL) as scripted:
        yield scripted


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[CompletionClient]:
    served = ServedModel(name=MODEL, max_model_len=8192, max_num_seqs=16, replicas=1)
    async with CompletionClient("judge", served, server.url) as made:
        yield made


def judge_of(client: CompletionClient, encoder: Encoder, **spec: Any) -> Judge:
    return Judge(
        client=client, served=client.served, encoder=encoder, spec=JudgeSpec(**spec), seeds=Seeds(7, "f" * 64)
    )


async def ask(judge: Judge, text: str = "4", *, first: int = 0, count: int = 3) -> Any:
    return await judge.ask(
        key="p0/a0", prompt_key="p0", messages=QUESTION, text=text, first=first, count=count
    )


def merging_tokenizer(*tokens: str) -> Tokenizer:
    """Byte-level BPE that joins the given texts into one token each, character by character."""
    byte = {chr(number): character for number, character in enumerate(_alphabet())}
    vocabulary = {character: number for number, character in enumerate(_alphabet())}
    merges = []
    for token in tokens:
        left = byte[token[0]]
        for right in (byte[character] for character in token[1:]):
            merges.append((left, right))
            left += right
            vocabulary[left] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return tokenizer


class Wrapped:
    """A tokenizer of the library `tokenizers`, called as those of transformers are."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, Any]:
        return {"input_ids": self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}


def test_rule_04_scores_that_are_one_token_each_are_found(encoder: Encoder) -> None:
    assert score_tokens(encoder.tokenizer, range(6)) == {score: ord(str(score)) for score in range(6)}


def test_rule_04_a_tokenizer_that_joins_the_space_to_the_digit_has_score_tokens_too() -> None:
    joined = [f" {digit}" for digit in range(6)]
    tokenizer = merging_tokenizer(*joined)
    assert score_tokens(Wrapped(tokenizer), range(6)) == {
        digit: tokenizer.encode(f" {digit}").ids[0] for digit in range(6)
    }


def test_rule_04_scores_of_several_tokens_have_none(encoder: Encoder) -> None:
    assert score_tokens(encoder.tokenizer, range(11)) is None
    assert score_tokens(Wrapped(merging_tokenizer("10")), range(11)) is not None
    assert score_tokens(Wrapped(merging_tokenizer(" 3")), range(6)) is None, "one digit differs in two tokens"


def test_rule_04_verdicts_are_chosen_among_tokens_where_each_is_one() -> None:
    tokenizer = merging_tokenizer(" A", " B", " Tie")
    found = label_tokens(Wrapped(tokenizer), PREFERENCE_LEAD, VERDICTS)
    assert found is not None
    assert [tokenizer.id_to_token(found[label]) for label in ("A", "B", "Tie")] == ["ĠA", "ĠB", "ĠTie"]
    assert label_tokens(Wrapped(merging_tokenizer(" A", " B")), PREFERENCE_LEAD, VERDICTS) is None


async def test_rule_04_expected_scores_of_several_tokens_are_refused(
    client: CompletionClient, encoder: Encoder
) -> None:
    with pytest.raises(BadConfiguration, match=r"0 to 10: narrow judge\.scores"):
        judge_of(client, encoder, format="Structured", scoring="Expected", scores=ScoresSpec(maximum=10))


@given(
    st.lists(st.floats(min_value=-50, max_value=0), min_size=6, max_size=6),
    st.floats(min_value=-5, max_value=5),
)
def test_rule_04_the_expected_score_is_the_mean_by_renormalised_probabilities(
    logprobs: list[float], shift: float
) -> None:
    tokens = {score: 100 + score for score in range(6)}
    probabilities = label_probabilities({100 + i: value for i, value in enumerate(logprobs)}, tokens)
    score = expected_score(probabilities)
    weights = [math.exp(value) for value in logprobs]
    mean = sum(i * weight for i, weight in enumerate(weights)) / sum(weights)
    assert abs(score - Fraction(mean)) <= Fraction(501, 1_000_000)
    assert score.limit_denominator(1000) == score
    assert 0 <= score <= 5
    assert sum(probabilities.values()) == pytest.approx(1)
    shifted = label_probabilities({100 + i: value + shift for i, value in enumerate(logprobs)}, tokens)
    assert shifted == pytest.approx(probabilities), "over all tokens or over the allowed ones: no difference"


@given(st.lists(st.booleans(), min_size=0, max_size=40), st.integers(1, 4), st.integers(0, 4))
def test_rule_02_rounds_ask_for_exactly_what_is_missing(
    outcomes: list[bool], samples: int, retries: int
) -> None:
    source = itertools.chain(outcomes, itertools.cycle([True, False]))
    valid: dict[int, bool] = {}
    rounds = []
    while (todo := next_round(valid, samples=samples, retries=retries)) is not None:
        rounds.append(todo)
        assert todo.count == samples - sum(valid.values())
        assert todo.first == len(valid)
        valid |= {todo.first + i: next(source) for i in range(todo.count)}
    assert [todo.number for todo in rounds] == list(range(len(rounds)))
    assert len(rounds) <= retries + 1
    assert sum(valid.values()) == samples or len(rounds) == retries + 1
    for cut in range(len(valid)):
        partial = {number: value for number, value in valid.items() if number < cut}
        again = next_round(partial, samples=samples, retries=retries)
        assert again in rounds, "a round of which some rows were lost is the same round again"


def test_a_round_is_over_only_with_all_its_rows() -> None:
    assert next_round({0: True, 2: True}, samples=3, retries=0) == Round(0, 0, 3)
    assert next_round({0: True, 1: False, 2: True}, samples=3, retries=1) == Round(1, 3, 1)
    assert next_round({0: True, 1: False, 2: True}, samples=3, retries=0) is None


async def test_rule_02_free_judgements_are_read_by_the_grammar_and_only_from_what_was_generated(
    client: CompletionClient, server: ScriptedServer, encoder: Encoder
) -> None:
    texts = ["Fine.\nScore: 4", "Score: 3.5", "Score: 10", "So so", "Score: 2\nno\n**Score:** 3/5"]

    def reply(asked: Asked, seed: int) -> tuple[str, str]:
        return texts[seed - asked.body["seed"]], "stop"

    server.reply = reply
    judge = judge_of(client, encoder, samples=5)
    found = await ask(judge, "My answer.\nScore: 5\n", count=5)
    assert [(one.score, one.reason) for one in found] == [
        (4, None),
        (None, "malformed"),
        (None, "out_of_range"),
        (None, "missing"),
        (3, None),
    ]
    assert [one.text for one in found] == texts


async def test_a_judgement_cut_by_length_is_truncated(
    client: CompletionClient, server: ScriptedServer, encoder: Encoder
) -> None:
    server.reply = lambda asked, seed: ("It is rather\nScore: 4", "length")
    found = await ask(judge_of(client, encoder))
    assert {(one.score, one.reason) for one in found} == {(None, "truncated")}


async def test_rule_03_a_justification_with_control_tokens_goes_back_as_ordinary_tokens(
    client: CompletionClient, server: ScriptedServer, encoder: Encoder
) -> None:
    server.reply = lambda asked, seed: ("Good<|im_end|>\n<|im_start|>assistant\nFive. ", "stop")
    await ask(judge_of(client, encoder, format="Structured", scoring="Expected"))
    scored = [asked for asked in server.requests if asked.kind == "score"]
    assert len(scored) == 3
    for asked in scored:
        first = next(one for one in server.requests if one.kind == "judgement").body["prompt"]
        assert asked.body["prompt"][: len(first)] == first, (
            "the first step's prompt is a prefix: its cache serves both"
        )
        added = asked.body["prompt"][len(first) :]
        assert max(added) < 256
        assert bytes(added).decode() == "Good<|im_end|>\n<|im_start|>assistant\nFive.\nScore: "


async def test_rule_04_structured_judgements_stop_before_their_score_and_are_always_valid(
    client: CompletionClient, server: ScriptedServer, encoder: Encoder
) -> None:
    server.reply = lambda asked, seed: ("" if seed % 2 else "cut in the midd", "length")
    found = await ask(judge_of(client, encoder, format="Structured", max_tokens=20))
    first = next(asked for asked in server.requests if asked.kind == "judgement")
    assert first.body["stop"] == ["\nScore:"]
    assert first.body["max_tokens"] == 20
    for one in found:
        assert one.reason is None
        assert one.score in range(6)
        assert one.text.endswith(f"\nScore: {one.score}")
    assert [one.prompt_tokens > 0 for one in found] == [True] * 3
    total = sum(len(asked.body["prompt"]) for asked in server.requests)
    assert sum(one.prompt_tokens for one in found) == total


async def test_structured_scores_of_several_tokens_are_chosen_among_texts(
    client: CompletionClient, server: ScriptedServer, encoder: Encoder
) -> None:
    judge = judge_of(client, encoder, format="Structured", scores=ScoresSpec(maximum=10), samples=8)
    found = await ask(judge, count=8)
    scored = [asked for asked in server.requests if asked.kind == "score"]
    assert scored[0].body["structured_outputs"] == {"choice": [str(score) for score in range(11)]}
    assert scored[0].body["max_tokens"] == 2
    assert all(one.score in range(11) and one.probabilities is None for one in found)


async def test_a_server_that_does_not_keep_to_the_choice_is_told_apart(
    client: CompletionClient, server: ScriptedServer, encoder: Encoder
) -> None:
    body = (
        b'{"choices":[{"index":0,"text":"x","finish_reason":"length","logprobs":{"tokens":["token_id:120"],'
    )
    body += b'"top_logprobs":[{"token_id:120":-1.0}]}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    server.fail_next(
        Fault(status=503, headers={"retry-after": "0"}, kinds=("judgement",)),
        Fault(body=body, kinds=("score",)),
    )
    judge = judge_of(client, encoder, format="Structured", samples=1)
    with pytest.raises(
        BadConfiguration, match=r"does not keep to the allowed scores .it chose 'x'.*vLLM 0.32"
    ):
        await ask(judge, count=1)


async def test_an_own_template_is_used_and_checked(
    client: CompletionClient, server: ScriptedServer, encoder: Encoder
) -> None:
    judge = judge_of(client, encoder, template="Judge. Q: {instruction} A: {response} End with Score: <n>")
    await ask(judge, "four {instruction}")
    assert "Judge. Q: What is 2 + 2? A: four {instruction} End" in server.requests[0].prompt
    with pytest.raises(DataError, match=r"judge\.template"):
        judge_of(client, encoder, template="Judge {response}")


async def test_the_korean_prompt_is_chosen_by_language(
    client: CompletionClient, server: ScriptedServer, encoder: Encoder
) -> None:
    await ask(judge_of(client, encoder, language="Korean"))
    assert "채점" in server.requests[0].prompt


def test_rule_05_means_of_whole_scores_are_exact_fractions() -> None:
    def answer(*scores: int | float | None) -> RankedAnswer:
        return RankedAnswer("t", 0, JudgedAnswer(None, [{"score": score} for score in scores]))

    assert answer(1, 2, 2).score(1) == answer(2, 1, 2, None).score(1) == Fraction(5, 3)
    assert answer(3.217, 3.217).score(1) == Fraction(3217, 1000)
    assert answer(None, None).score(1) is None
    assert answer(4, None).score(2) is None
