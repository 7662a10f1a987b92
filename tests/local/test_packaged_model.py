"""The packaged model's folder is the real thing: it answers, and its tokens are the model's own."""

import os
from pathlib import Path

import pytest

from selfrewarding.local.packaged_model import PARAMETERS, make_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("models") / "smollm2"
    cache = Path(os.environ.get("SRR_CACHE") or Path.home() / ".cache" / "selfrewarding")
    make_folder(destination, cache=cache)
    return destination


def test_model_loads_in_float32_and_answers_a_question(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype is torch.float32
    assert model.num_parameters() == PARAMETERS
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0]
    generated = tokenizer.decode(output[prompt["input_ids"].shape[1] :])
    assert generated == "The capital of France is Paris.<|im_end|>"


def test_tokenizer_has_the_chat_template_stop_token_and_length_of_the_model(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.eos_token, tokenizer.model_max_length) == ("<|im_end|>", 8192)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_each_digit_is_a_token_of_its_own_as_in_training(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("Score: 10") == ["Score", ":", "Ġ", "1", "0"]
    # Two blanks before a number are one token: the number is split off before blanks are shared out.
    assert tokenizer.tokenize("  12") == ["ĠĠ", "1", "2"]
    text = "In 2024,  I ate 12 apples.\n\n한국어 점수: 4"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
