"""Few-shot prompts and reading what a model made of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.data.few_shot import choose_shots, few_shot_prompt, parse_continuation

SEEDS = [f"seed {n}" for n in range(20)]
GENERATED = [f"generated {n}" for n in range(20)]


def test_six_seeds_and_two_generated_prompts_are_chosen() -> None:
    shots = choose_shots(SEEDS, GENERATED, seed=1)
    assert len(set(shots)) == 8
    assert sum(shot.startswith("generated") for shot in shots) == 2


def test_rule_13_equal_seeds_give_equal_shots() -> None:
    assert choose_shots(SEEDS, GENERATED, seed=5) == choose_shots(SEEDS, GENERATED, seed=5)
    assert len({tuple(choose_shots(SEEDS, GENERATED, seed=n)) for n in range(50)}) == 50
    # A literal: another Python version or a rewritten choice would silently change every prompt of a run.
    assert choose_shots(["a", "b", "c"], ["x", "y"], seeds=2, generated=1, seed=0) == ["c", "y", "b"]


def test_all_positions_get_every_kind_of_shot() -> None:
    first = {choose_shots(SEEDS, GENERATED, seed=n)[0].split()[0] for n in range(100)}
    assert first == {"seed", "generated"}


def test_every_seed_is_chosen_about_equally_often() -> None:
    counts = dict.fromkeys(SEEDS, 0)
    for n in range(2000):
        for shot in choose_shots(SEEDS, [], seeds=6, generated=0, seed=n):
            counts[shot] += 1
    assert min(counts.values()) > 500
    assert max(counts.values()) < 700


FILLED = {
    "nothing generated yet": (SEEDS, [], 8),
    "one generated": (SEEDS, ["g"], 8),
    "few seeds": (["a", "b"], [], 2),
    "nothing at all": ([], [], 0),
}


@pytest.mark.parametrize(("seeds", "generated", "count"), FILLED.values(), ids=FILLED)
def test_seeds_fill_the_places_of_missing_generated_prompts(
    seeds: list[str], generated: list[str], count: int
) -> None:
    shots = choose_shots(seeds, generated, seed=3)
    assert len(shots) == len(set(shots)) == count


def test_few_shot_prompts_do_not_grow_from_call_to_call() -> None:
    """One of the small reproductions appends to a global list, so its prompts get longer without bound."""
    lengths = {len(few_shot_prompt(choose_shots(SEEDS, GENERATED, seed=1)).text) for _ in range(5)}
    assert len(lengths) == 1


def test_a_continuation_ends_in_the_next_number() -> None:
    prompt = few_shot_prompt(["Name a river.", "Write\n\na haiku."], language="English")
    assert prompt.first_number == 3
    assert prompt.text.endswith("\n\n1. Name a river.\n2. Write a haiku.\n3.")


@pytest.mark.parametrize(
    ("language", "words"),
    [("English", "numbered from 3 to 6"), ("Any", "from 3 to 6"), ("Korean", "3번부터 6번까지")],
)
def test_a_request_says_how_many_it_wants(language: str, words: str) -> None:
    prompt = few_shot_prompt(["a", "b"], language=language, style="request", wanted=4)  # type: ignore[arg-type]
    assert words in prompt.text


PARSED = {
    "items on lines": (
        " Name a river.\n10. Name a lake.\n11. Name a sea.",
        ["Name a river.", "Name a lake.", "Name a sea."],
    ),
    "items apart": (" A b.\n\n10. C d.\n\n11. E f.", ["A b.", "C d.", "E f."]),
    "brackets for dots": (" A.\n10) B.", ["A.", "B."]),
    "Windows line ends": (" A.\r\n10. B.\r\n", ["A.", "B."]),
    "bold numbers": (" A.\n**10.** B.", ["A.", "B."]),
    "numbers in headings": (" A.\n### 10. B.\n### Answers\nx", ["A.", "B."]),
    "a bold item": (" **Name a river.**\n10. B.", ["Name a river.", "B."]),
    "a quoted item": (' "Name a river."\n10. B.', ["Name a river.", "B."]),
    "a quotation inside an item": (' Translate "yes" and "no"', ['Translate "yes" and "no"']),
    "a label": (" Task: Name a river.\n10. Instruction: B.", ["Name a river.", "B."]),
    "the number is repeated": ("9. A.\n10. B.", ["A.", "B."]),
    "a number is skipped": (" A.\n11. B.", ["A.", "B."]),
    "an item of two lines": (" Rewrite this:\nI has a cat.\n10. B.", ["Rewrite this:\nI has a cat.", "B."]),
    "a list within an item": (
        " Sort these:\n1. pear\n2. apple\n10. B.",
        ["Sort these:\n1. pear\n2. apple", "B."],
    ),
    "a year is no number of an item": (
        " What happened in\n1969. Tell me.\n10. B.",
        ["What happened in\n1969. Tell me.", "B."],
    ),
    "an announced text after a blank line": (
        " Shorten:\n\nA long text.\n10. B.",
        ["Shorten:\n\nA long text.", "B."],
    ),
    "an answer after a blank line": (
        " Write a haiku.\n\nOld pond.\nA frog.\n\n10. B.",
        ["Write a haiku.", "B."],
    ),
    "a separator, then answers": (" A.\n10. B.\n\n---\n\n9. The answer.\n10. Another.", ["A.", "B."]),
    "a heading, then answers": (" A.\n10. B.\n### Answers\n9. The answer.", ["A.", "B."]),
    "the word answers": (" A.\n10. B.\nAnswers:\n1. x\n2. y", ["A.", "B."]),
    "a single answer": (" A.\nAnswer: it is so.\n10. B.", ["A."]),
    "a Korean answer": (
        " 강 이름을 쓰세요.\n10. 호수 이름을 쓰세요.\n정답: 한강",
        ["강 이름을 쓰세요.", "호수 이름을 쓰세요."],
    ),
    "numbering starts again at the first number": (" A.\n10. B.\n9. The Nile.\n10. Baikal.", ["A.", "B."]),
    "numbering starts again at one": (" A.\n10. B.\n\n1. The Nile.\n2. Baikal.", ["A.", "B."]),
    "nothing": ("", []),
    "only numbers": ("\n10.\n11.\n12.", []),
    "only a separator": ("\n-----\n", []),
}


@pytest.mark.parametrize(("text", "items"), PARSED.values(), ids=PARSED)
def test_items_are_read_from_a_continuation(text: str, items: list[str]) -> None:
    assert parse_continuation(text, first_number=9) == items


REQUESTED = {
    "the asked numbers": ("9. A.\n10. B.", ["A.", "B."]),
    "a preface": ("Sure! Here are new tasks:\n\n9. A.\n10. B.", ["A.", "B."]),
    "a farewell": ("9. A.\n10. B.\n\nI hope these help!", ["A.", "B."]),
    "no numbers": ("I cannot do that.", []),
}


@pytest.mark.parametrize(("text", "items"), REQUESTED.values(), ids=REQUESTED)
def test_items_are_read_from_the_answer_to_a_request(text: str, items: list[str]) -> None:
    assert parse_continuation(text, first_number=9, style="request") == items


def test_rule_12_a_cut_completion_loses_its_last_item_only() -> None:
    text = " Name a river.\n10. Name a lake.\n11. Name a mount"
    assert parse_continuation(text, first_number=9, finish_reason="length") == [
        "Name a river.",
        "Name a lake.",
    ]
    assert parse_continuation(text, first_number=9, finish_reason="stop")[-1] == "Name a mount"


def test_a_cut_within_the_answers_loses_no_item() -> None:
    text = " A.\n10. B.\n---\n9. The answer is"
    assert parse_continuation(text, first_number=9, finish_reason="length") == ["A.", "B."]


def test_no_more_items_than_wanted() -> None:
    assert parse_continuation(" A.\n10. B.\n11. C.", first_number=9, max_items=2) == ["A.", "B."]


@given(st.text(st.sampled_from('Aa1290.): \n-*#"\r')), st.sampled_from(["continuation", "request"]))
def test_no_text_ever_raises(text: str, style: str) -> None:
    items = parse_continuation(text, first_number=9, style=style)  # type: ignore[arg-type]
    assert all(item.strip() == item and item for item in items)


@given(st.lists(st.from_regex(r"[A-Z][a-z]{2,8} [a-z]{2,9}\.", fullmatch=True), min_size=1, max_size=12))
def test_a_clean_list_is_read_as_it_is(prompts: list[str]) -> None:
    prompts = [prompt for prompt in prompts if not prompt.lower().startswith(("task", "prompt", "question"))]
    text = "\n".join(f"{number}. {prompt}" for number, prompt in enumerate(prompts, 9))
    assert parse_continuation(text, first_number=9) == prompts
