"""Which rows train, judge and are held out: by prompt, before any judging, and never in two sets."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.data.openassistant import Tree
from selfrewarding.data.rows import Message
from selfrewarding.data.seed_rows import Instruction, RankedPrompt, RankedResponse
from selfrewarding.data.seed_split import divide_trees, near_duplicates, separate, split_ranked, take_at_most

ANSWERS = (RankedResponse("good", 0), RankedResponse("bad", 1))


def ranked(identifier: str, text: str = "", answers: tuple[RankedResponse, ...] = ANSWERS) -> RankedPrompt:
    return RankedPrompt(identifier, (Message("user", text or f"Question {identifier}?"),), answers)


def instruction(identifier: str, text: str = "") -> Instruction:
    return Instruction(identifier, (Message("user", text or f"Question {identifier}?"),), "Because.")


PROMPTS = [ranked(str(n)) for n in range(40)]


def identifiers(rows: list[RankedPrompt]) -> list[str]:
    return [row.id for row in rows]


def test_rule_01_held_out_prompts_are_split_off_by_prompt_before_judging() -> None:
    """The split sees no judgement at all; rows with one prompt are on one side, however they are written."""
    doubled = [ranked(f"{n}-{copy}", f"{'  ' * copy}QUESTION {n}?") for n in range(20) for copy in range(2)]
    training, held_out = split_ranked(doubled, held_out=0.25, seed=1)
    assert len(held_out) == 10
    assert not {row.prompt_identity for row in training} & {row.prompt_identity for row in held_out}


def test_a_share_or_a_number_is_held_out() -> None:
    for wanted, count in ((0.25, 10), (0.01, 1), (0.999, 39), (7, 7), (0, 0), (40, 40)):
        training, held_out = split_ranked(PROMPTS, held_out=wanted, seed=1)
        assert (len(held_out), len(training)) == (count, 40 - count)


def test_two_prompts_leave_one_on_each_side_and_one_stays() -> None:
    assert [len(part) for part in split_ranked(PROMPTS[:2], held_out=0.1, seed=1)] == [1, 1]
    assert [len(part) for part in split_ranked(PROMPTS[:1], held_out=0.9, seed=1)] == [1, 0]


def test_rule_13_a_split_follows_from_seed_and_content_not_from_order() -> None:
    _, held_out = split_ranked(PROMPTS, held_out=0.25, seed=1)
    _, backwards = split_ranked(PROMPTS[::-1], held_out=0.25, seed=1)
    assert set(identifiers(held_out)) == set(identifiers(backwards))
    assert identifiers(held_out) == sorted(identifiers(held_out), key=int)
    _, other = split_ranked(PROMPTS, held_out=0.25, seed=2)
    assert identifiers(other) != identifiers(held_out)


def test_a_row_added_later_moves_few_others() -> None:
    _, held_out = split_ranked(PROMPTS, held_out=10, seed=1)
    _, later = split_ranked([*PROMPTS, ranked("new")], held_out=10, seed=1)
    assert len(set(identifiers(held_out)) ^ set(identifiers(later))) <= 2


def tree(identifier: str, *replies: RankedResponse, text: str = "") -> Tree:
    return Tree(identifier, (Message("user", text or f"Question {identifier}?"),), replies)


def test_trees_are_divided_into_instructions_and_ranked_prompts() -> None:
    trees = [tree(str(n), *ANSWERS) for n in range(20)] + [tree(f"single {n}", ANSWERS[0]) for n in range(5)]
    instructions, prompts = divide_trees(trees, ranked_share=0.4, seed=1)
    assert (len(instructions), len(prompts)) == (17, 8)
    assert not {row.id for row in instructions} & {row.id for row in prompts}
    assert {f"single {n}" for n in range(5)} <= {row.id for row in instructions}


def test_trees_with_the_same_prompt_are_not_divided() -> None:
    trees = [tree(f"{n} {copy}", *ANSWERS, text=f"Question {n}") for n in range(10) for copy in range(2)]
    instructions, prompts = divide_trees(trees, ranked_share=0.5, seed=1)
    assert not {row.prompt_identity for row in instructions} & {row.prompt_identity for row in prompts}
    assert len(instructions) + len(prompts) == 20


def test_a_tree_without_its_best_answer_is_no_instruction() -> None:
    second_best = (RankedResponse("b", 1), RankedResponse("c", 2))
    instructions, prompts = divide_trees(
        [tree(str(n), *second_best) for n in range(4)], ranked_share=0.5, seed=1
    )
    assert (len(instructions), len(prompts)) == (0, 2)


def test_no_prompt_is_in_two_sets() -> None:
    split = separate(
        [instruction("i1", "Shared by all?"), instruction("i2", "shared  by RANKED"), instruction("i3")],
        [ranked("r1", "Shared by all?"), ranked("r2", "Shared by ranked")],
        [ranked("h1", "SHARED by all?")],
    )
    assert [row.id for row in split.instructions] == ["i3"]
    assert [row.id for row in split.ranked] == ["r2"]
    assert [row.id for row in split.held_out] == ["h1"]
    assert [(overlap.first, overlap.second) for overlap in split.dropped] == [
        (("ranked", "r1"), ("heldOut", "h1")),
        (("instructions", "i1"), ("heldOut", "h1")),
        (("instructions", "i2"), ("ranked", "r2")),
    ]


def test_near_duplicates_are_reported_and_kept() -> None:
    split = separate(
        [instruction("i1", "Explain in one sentence why ice floats on cold water")],
        [ranked("r1", "Explain in two sentences why ice floats on cold water")],
        [ranked("h1", "Name a colour")],
    )
    assert len(split.instructions) == 1
    (near,) = split.near_duplicates
    assert (near.first, near.second) == (("instructions", "i1"), ("ranked", "r1"))
    assert near.rouge_l == pytest.approx(8 / 10)
    assert near.as_json()["first"] == ["instructions", "i1"]


def test_near_duplicates_within_one_set_are_not_reported() -> None:
    text = (Message("user", "Explain why ice floats"),)
    assert near_duplicates([("ranked", "a", text), ("ranked", "b", text)]) == []


def test_rule_12_korean_near_duplicates_are_reported() -> None:
    first = (Message("user", "한국의 수도가 어디인지 한 문장으로 설명해 주세요."),)
    second = (Message("user", "한국의 수도가 어디인지 두 문장으로 설명해 주세요."),)
    assert len(near_duplicates([("heldOut", "h", first), ("ranked", "r", second)])) == 1


def test_at_most_so_many_rows_are_taken_by_a_hash_in_their_order() -> None:
    taken = take_at_most(PROMPTS, 5, key=lambda row: row.key, seed=1)
    assert len(taken) == 5
    assert identifiers(taken) == sorted(identifiers(taken), key=int)
    assert set(identifiers(taken)) == set(
        identifiers(take_at_most(PROMPTS[::-1], 5, key=lambda row: row.key, seed=1))
    )
    assert set(identifiers(taken)) <= set(
        identifiers(take_at_most(PROMPTS, 10, key=lambda row: row.key, seed=1))
    )
    assert take_at_most(PROMPTS, None, key=lambda row: row.key, seed=1) == PROMPTS
    assert take_at_most(PROMPTS, 100, key=lambda row: row.key, seed=1) == PROMPTS


TEXTS = st.lists(st.sampled_from([f"Question {n}" for n in range(12)]), max_size=10)


@given(TEXTS, TEXTS, st.integers(0, 3), st.fractions(Fraction(1, 20), Fraction(19, 20)))
def test_no_prompt_is_ever_lost_or_shared(
    instruction_texts: list[str], ranked_texts: list[str], seed: int, share: Fraction
) -> None:
    prompts = [ranked(str(n), text) for n, text in enumerate(ranked_texts)]
    rows = [instruction(str(n), text) for n, text in enumerate(instruction_texts)]
    training, held_out = split_ranked(prompts, held_out=float(share), seed=seed)
    assert sorted(identifiers([*training, *held_out])) == sorted(identifiers(prompts))
    split = separate(rows, training, held_out)
    sets = [
        {row.prompt_identity for row in split.instructions},
        {row.prompt_identity for row in split.ranked},
        {row.prompt_identity for row in split.held_out},
    ]
    assert len(sets[0] | sets[1] | sets[2]) == sum(map(len, sets))
    assert len(split.instructions) + len(split.ranked) + len(split.held_out) + len(split.dropped) == len(
        rows
    ) + len(prompts)
