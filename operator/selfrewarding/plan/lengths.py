"""How long the sequences of a run get, in tokens: an estimate for the servers' `--max-model-len`.

Purpose: the smallest length that surely serves every request of a pool's stages; Prepare checks the exact fit with the
tokenizer before a GPU is spent. Must not: read data. Neighbours: `graph` gives each serving pool its length.

Words and characters are turned into tokens generously: 2 tokens a word is enough for English (about 1.3), and for
Korean and code with most tokenizers; 3 characters a token for a judge's own template.
"""

from selfrewarding.api.evaluation import AnswersSpec
from selfrewarding.api.execution import ServingPoolSpec
from selfrewarding.api.run import SelfRewardingRunSpec

TOKENS_PER_WORD = 2
CHARACTERS_PER_TOKEN = 3
MAX_WORDS = 150
"""Self-Instruct's limit, where `promptGeneration.filters.maxWords` is absent."""
BUILT_IN_JUDGE_TEMPLATE = 768
"""Tokens of the built-in judge prompts; the Korean one is the longer."""
CHAT_TEMPLATE = 64
"""Tokens that a chat template adds around one turn."""
STEP = 256
"""Lengths are rounded up to a multiple of this."""


def policy(spec: SelfRewardingRunSpec, max_positions: int | None) -> int:
    """Length for the pool of the model in training: `serving.maxModelLen`, or the largest need of what it does.

    Never above `max_positions`, the model's own limit, where Prepare has told it.
    """
    needs = [_answering(spec)]
    compared = spec.evaluation.head_to_head
    if compared is not None or spec.evaluation.prompts:
        needs.append(_conversing(spec))
    if compared is not None and compared.judge.model_uri is None and compared.judge.endpoint is None:
        needs.append(_comparing(spec))
    if spec.judge.model_uri is None:
        needs.append(_judging(spec))
    writer = spec.prompt_generation.writer
    if writer.model_uri is None and writer.endpoint is None:
        needs.append(_writing(spec))
    length = spec.serving.max_model_len or _rounded(max(needs))
    return min(length, max_positions) if max_positions else length


def judge(spec: SelfRewardingRunSpec, pool: ServingPoolSpec) -> int:
    """Length for the pool of a dedicated judge; where it compares answers too, long enough for that."""
    compared = spec.evaluation.head_to_head
    compares = compared is not None and compared.judge.model_uri == spec.judge.model_uri
    return pool.max_model_len or _rounded(max(_judging(spec), _comparing(spec) if compares else 0))


def writer(spec: SelfRewardingRunSpec, pool: ServingPoolSpec) -> int:
    """Length for the pool of a fixed prompt writer."""
    return pool.max_model_len or _rounded(_writing(spec))


def referee(spec: SelfRewardingRunSpec, pool: ServingPoolSpec) -> int:
    """Length for the pool of a fixed judge of comparisons, which may be the dedicated judge's."""
    return pool.max_model_len or _rounded(_comparing(spec))


def earlier_answer(spec: SelfRewardingRunSpec) -> int | None:
    """The longest answer that a later turn of an evaluation prompt stands behind; None where all have one turn."""
    several = any(one.turns > 1 for one in spec.evaluation.prompts or ())
    return _evaluated(spec) if several else None


def _evaluated(spec: SelfRewardingRunSpec) -> int:
    """An answer to an evaluation prompt at its longest."""
    return (spec.evaluation.answers or AnswersSpec()).max_tokens


def _conversing(spec: SelfRewardingRunSpec) -> int:
    """An evaluation prompt with its answer; a second turn stands behind the first and its answer."""
    turns = max((one.turns for one in spec.evaluation.prompts or ()), default=1)
    return turns * (_long_prompt(spec) + CHAT_TEMPLATE + _evaluated(spec))


def _long_prompt(spec: SelfRewardingRunSpec) -> int:
    """An evaluation prompt: people's are longer than those that models write, at most half of a training row."""
    return max(_prompt(spec), spec.sft.max_length // 2)


def _comparing(spec: SelfRewardingRunSpec) -> int:
    """Template, every turn's prompt and two answers, and the judgement."""
    compared = spec.evaluation.head_to_head
    if compared is None:
        return 0
    turns = next((one.turns for one in spec.evaluation.prompts or () if one.name == compared.set), 1)
    talks = turns * (_long_prompt(spec) + 2 * _evaluated(spec))
    return BUILT_IN_JUDGE_TEMPLATE + CHAT_TEMPLATE + talks + compared.max_tokens


def _prompt(spec: SelfRewardingRunSpec) -> int:
    """A generated prompt at its longest."""
    return (spec.prompt_generation.filters.max_words or MAX_WORDS) * TOKENS_PER_WORD


def _answering(spec: SelfRewardingRunSpec) -> int:
    return _prompt(spec) + CHAT_TEMPLATE + spec.responses.max_tokens


def _judging(spec: SelfRewardingRunSpec) -> int:
    """Template, prompt, answer and judgement; human-ranked rows are at most `sft.maxLength` long."""
    own = spec.judge.template
    template = len(own) // CHARACTERS_PER_TOKEN if own else BUILT_IN_JUDGE_TEMPLATE
    generated = template + CHAT_TEMPLATE + _prompt(spec) + spec.responses.max_tokens + spec.judge.max_tokens
    return max(generated, spec.sft.max_length)


def _writing(spec: SelfRewardingRunSpec) -> int:
    prompts = spec.prompt_generation
    shots = prompts.seed_shots + prompts.generated_shots
    return shots * _prompt(spec) + CHAT_TEMPLATE + prompts.max_tokens


def _rounded(tokens: int) -> int:
    return -(-tokens // STEP) * STEP
