"""Prepare: what it refuses before a GPU is spent: templates, lengths, judges. All of it at once, with its numbers."""

from pathlib import Path

import pytest
from tests.support.prepare_bench import INSTRUCTION_ROWS, RANKED_ROWS, Bench, instruction, ranked
from tests.support.stages import surroundings
from tests.support.tiny_model import CHATML, POSITIONS, make_model

from selfrewarding.contract.program import BadConfiguration, BadData
from selfrewarding.data.chat import DEFAULT_TEMPLATE, ChatEncoder
from srr_sampler import prepare


def test_rule_11_a_tokenizer_without_template_gets_the_plain_one_which_ends_in_a_stop_token(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, make_model(tmp_path / "base", template=None))
    result = bench.run()
    tokenizer = bench.tokenizer(result)
    assert tokenizer.chat_template == DEFAULT_TEMPLATE
    encoder = ChatEncoder(tokenizer)
    assert encoder.completion("A")[-1] in encoder.stop_token_ids
    told = result.report["tokenizer"]
    assert told["stopTokenIds"] == encoder.stop_token_ids  # type: ignore[index]
    assert told["chatTemplateFrom"] == "default"  # type: ignore[index]


def test_rule_11_the_specs_template_replaces_the_models_own(bench: Bench) -> None:
    own = CHATML.replace("<|im_start|>", "[turn]")
    result = bench.run(model={"chatTemplate": own})
    assert bench.tokenizer(result).chat_template == own


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('only one turn') }}", "only one turn"),
        ("{% for message in messages %}{{ message.content }}", "endfor"),
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "end it in {{ eos_token }}"),
        ("{{ messages[0]['content'] }}{{ eos_token }}", "each message once"),
    ],
)
def test_rule_11_a_template_that_fails_is_refused_with_its_own_words(
    bench: Bench, template: str, said: str
) -> None:
    with pytest.raises(BadConfiguration) as caught:
        bench.run(model={"chatTemplate": template})
    assert said in str(caught.value)
    assert "spec.model.chatTemplate" in str(caught.value)


def test_a_row_with_roles_that_the_template_refuses_is_named(bench: Bench) -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    )
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": "d"},
            ]
        },
    ]
    seeds = bench.seeds(instructions={"uri": bench.put("m.jsonl", rows), "format": "Messages"})
    with pytest.raises(BadData, match=r"m\.jsonl:2: .*no system role"):
        bench.run(seeds, model={"chatTemplate": template})


# Lengths and scores


def test_rule_07_a_server_longer_than_the_model_is_refused_with_both_numbers(bench: Bench) -> None:
    with pytest.raises(
        BadConfiguration, match=f"serving.maxModelLen is 99999, but the model takes {POSITIONS}"
    ):
        bench.run(max_model_len=99999)


def test_rule_07_judging_that_cannot_fit_is_refused_with_its_numbers(bench: Bench) -> None:
    with pytest.raises(BadConfiguration) as caught:
        bench.run(max_model_len=1024, responses={"maxTokens": 64}, prompts={"maxTokens": 16, "seedShots": 1})
    text = str(caught.value)
    assert "6 of 6 ranked prompts cannot be judged" in text
    assert "serving.maxModelLen is 1024" in text
    assert "judge prompt, responses.maxTokens (64) and judge.maxTokens (512) need" in text


def test_rule_07_a_ranked_prompt_that_is_too_long_to_judge_is_left_out_and_counted(bench: Bench) -> None:
    long = ranked(9, responses=[{"text": "x" * 6000, "rank": 0}, {"text": "y", "rank": 1}])
    seeds = bench.seeds(ranked={"uri": bench.put("r.jsonl", [*RANKED_ROWS, long]), "format": "Ranked"})
    result = bench.run(seeds, sft={"maxLength": 6000})
    assert result.counts["ranked"] + result.counts["heldOut"] == len(RANKED_ROWS)
    lengths = result.report["lengths"]
    assert isinstance(lengths, dict)
    assert lengths["ranked"]["tooLongToJudge"] + lengths["heldOut"]["tooLongToJudge"] == 1


def test_rule_07_examples_over_the_length_are_counted_and_most_of_them_an_error(bench: Bench) -> None:
    rows = [*INSTRUCTION_ROWS, instruction(11, response="z" * 4000)]
    source = {"uri": bench.put("i.jsonl", rows), "format": "PromptResponse"}
    result = bench.run(bench.seeds(instructions=source), sft={"maxLength": 4000})
    assert result.report["lengths"]["instructions"]["overSftMaxLength"] == 1  # type: ignore[index]
    assert result.counts["instructions"] == 11
    long = [instruction(number, response="z" * 4000) for number in range(10)]
    source = {"uri": bench.put("i.jsonl", long), "format": "PromptResponse"}
    config = bench.config(bench.seeds(instructions=source), sft={"maxLength": 4000})
    with pytest.raises(BadData, match=r"10 of 10 instructions are longer than sft.maxLength \(4000 tokens"):
        prepare.main(config.model_copy(update={"key": "f" * 64}), surroundings(bench.root / "scratch"))


def test_rule_04_expected_scores_need_one_token_each(bench: Bench) -> None:
    judge = {"format": "Structured", "scoring": "Expected"}
    assert bench.run(judge=judge).counts["instructions"] == 10
    config = bench.config(judge=judge | {"scores": {"maximum": 10}}).model_copy(update={"key": "e" * 64})
    with pytest.raises(BadConfiguration, match="the scores 0 to 10 off one token"):
        prepare.main(config, surroundings(bench.root / "scratch"))


@pytest.mark.parametrize(
    "template", ["Grade it.", "{response} to {instruction}", "{instruction}{response}{response}"]
)
def test_a_judge_template_without_its_placeholders_is_refused(bench: Bench, template: str) -> None:
    with pytest.raises(BadConfiguration, match=r"\{instruction\} once and after it \{response\} once"):
        bench.run(judge={"template": template})


def test_a_fixed_judge_of_comparisons_is_looked_at_too(tmp_path: Path, bench: Bench) -> None:
    referee = make_model(tmp_path / "referee")
    found = bench.run(referee_uri=referee.as_uri())
    fixed = found.report["fixedModels"]
    assert fixed == {"referee": {"uri": referee.as_uri(), "digest": found.data["model"]}}, "a copy of M0"
    (referee / "tokenizer.json").write_text("{")
    field = r"evaluation\.headToHead\.judge\.modelUri: "
    config = bench.config(referee_uri=referee.as_uri()).model_copy(update={"key": "e" * 64})
    here = surroundings(tmp_path / "scratch")
    with pytest.raises(BadConfiguration, match=f"{field}the tokenizer in .* cannot be loaded"):
        prepare.main(config, here)
    (referee / "model.safetensors").unlink()
    with pytest.raises(BadConfiguration, match=f"{field}.* neither model.safetensors nor"):
        prepare.main(config, here)


def test_a_dedicated_judge_is_looked_at_too(tmp_path: Path, bench: Bench) -> None:
    judge = make_model(tmp_path / "judge")
    found = bench.run(judge={"modelUri": judge.as_uri()}, referee_uri=judge.as_uri())
    one = {"uri": judge.as_uri(), "digest": found.data["model"]}
    assert found.report["fixedModels"] == {"judge": one, "referee": one}
    (judge / "model.safetensors").unlink()
    config = bench.config(judge={"modelUri": judge.as_uri()}).model_copy(update={"key": "e" * 64})
    with pytest.raises(BadConfiguration, match=r"judge\.modelUri: .* neither model.safetensors nor"):
        prepare.main(config, surroundings(tmp_path / "scratch"))


def test_all_problems_are_told_at_once(bench: Bench) -> None:
    seeds = bench.seeds(
        instructions={"uri": bench.put("i.jsonl", [{"prompt": "a"}]), "format": "PromptResponse"},
        ranked={"uri": bench.put("r.jsonl", [ranked(1, responses=[])]), "format": "Ranked"},
    )
    with pytest.raises(BadConfiguration) as caught:
        bench.run(seeds, model={"chatTemplate": "{{ nothing"}, judge={"template": "?"})
    text = str(caught.value)
    assert text.startswith("4 problems:\n1. ")
    for part in (
        "i.jsonl:1: field `response`",
        "r.jsonl:1: field `responses`",
        "chatTemplate",
        "{instruction}",
    ):
        assert part in text


# Real files
