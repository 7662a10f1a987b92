"""How much faster the prompt filter is than Self-Instruct's loop over rouge-score, with every verdict equal.

    python tests/bench/rouge_filter.py [--candidates 5000] [--texts 20000] [--sample 40] [--workers 1]

The fast filter judges all candidates against all texts. The loop would take hours, so it is timed on a random sample of
pairs of the same texts, in the same call that Self-Instruct makes (the pool is tokenised once, as there), and the time
per pair times the number of pairs is its extrapolated time. Equality is checked in three ways:

1. on `--sample` whole candidates: the loop over every text of the pool, score and verdict compared bit by bit;
2. on pairs that stand exactly at, just below and just above the threshold;
3. on a small whole run where accepted prompts join the pool, verdict by verdict.

Exit code 1 if anything differs or the ratio is below 200.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence

from rouge_score import rouge_scorer

from selfrewarding.data.prompt_filter import PromptFilter, Verdict
from selfrewarding.data.rouge import english_tokens, rouge_l_f1

THRESHOLD = 0.7
REQUIRED = 200
Score = Callable[[Sequence[str], Sequence[str]], float]


def make_texts(source: random.Random, count: int) -> list[str]:
    """Prompts of 4 to 90 words, half of them variations of others, with words as frequent as in natural text."""
    words = [f"w{number}" for number in range(4000)]
    weights = [1 / (rank + 3) for rank in range(4000)]
    texts: list[str] = []
    for _ in range(count):
        if texts and source.random() < 0.5:
            tokens = source.choice(texts).split()[1:]
            for _ in range(source.randint(1, max(1, len(tokens) // 2))):
                tokens[source.randrange(len(tokens))] = source.choices(words, weights)[0]
        else:
            tokens = source.choices(words, weights, k=min(89, max(4, int(source.lognormvariate(2.9, 0.6)))))
        texts.append("explain " + " ".join(tokens))
    return texts


def rouge_score_f1(target: Sequence[str], prediction: Sequence[str]) -> float:
    """The inner call of Self-Instruct: tokens are made beforehand, the package's own scoring of one pair."""
    return float(rouge_scorer._score_lcs(target, prediction).fmeasure)


def reference(pool: Sequence[Sequence[str]], candidate: Sequence[str]) -> float:
    """The highest F1 of a candidate, by the loop."""
    return max(rouge_score_f1(candidate, other) for other in pool)


def time_per_pair(source: random.Random, pool: Sequence[list[str]], candidates: Sequence[list[str]]) -> float:
    """Seconds of one call of rouge-score, over random pairs."""
    pairs = [(source.choice(candidates), source.choice(pool)) for _ in range(20_000)]
    start = time.perf_counter()
    for candidate, other in pairs:
        rouge_score_f1(candidate, other)
    return (time.perf_counter() - start) / len(pairs)


def check_sample(
    source: random.Random, texts: list[str], candidates: list[str], verdicts: list[Verdict], size: int
) -> int:
    """Differences between verdicts and the loop on whole candidates; the pool is what it was at that moment."""
    tokens = [english_tokens(text) for text in texts]
    accepted = [
        english_tokens(text) for text, verdict in zip(candidates, verdicts, strict=True) if verdict.accepted
    ]
    before = 0
    places = []
    for verdict in verdicts:
        places.append(before)
        before += verdict.accepted
    differences = 0
    for place in sorted(source.sample(range(len(candidates)), min(size, len(candidates)))):
        highest = reference([*tokens, *accepted[: places[place]]], english_tokens(candidates[place]))
        verdict = verdicts[place]
        differences += (verdict.max_rouge_l, verdict.accepted) != (highest, highest <= THRESHOLD)
    return differences


def check_boundary() -> tuple[int, int]:
    """(pairs, differences) where the common tokens are at the threshold, one fewer or one more."""
    differences = pairs = 0
    for length in range(4, 101):
        for other in range(4, 101):
            at_threshold = 7 * (length + other) // 20
            for common in {at_threshold - 1, at_threshold, at_threshold + 1}:
                if not 0 < common <= min(length, other):
                    continue
                first = [f"c{n}" for n in range(common)] + [f"a{n}" for n in range(length - common)]
                second = [f"c{n}" for n in range(common)] + [f"b{n}" for n in range(other - common)]
                if pairs % 50 == 0:  # the whole way on some, the formula on all
                    verdict = PromptFilter([" ".join(second)]).offer("x", " ".join(first))
                    differences += verdict.accepted != (rouge_score_f1(first, second) <= THRESHOLD)
                expected = common / length, common / other
                formula = 2 * expected[0] * expected[1] / (expected[0] + expected[1])
                differences += rouge_l_f1(common, length, other) != formula
                pairs += 1
    return pairs, differences


def check_small_run(source: random.Random) -> int:
    """Differences in a whole run of 150 candidates against 60 texts."""
    texts, candidates = make_texts(source, 60), make_texts(source, 150)
    pool = [english_tokens(text) for text in texts]
    differences = 0
    for verdict, candidate in zip(
        PromptFilter(texts).offer_all(enumerate(candidates)), candidates, strict=True
    ):
        highest = reference(pool, english_tokens(candidate))
        if highest <= THRESHOLD:
            pool.append(english_tokens(candidate))
        differences += (verdict.max_rouge_l, verdict.accepted) != (highest, highest <= THRESHOLD)
    return differences


def main() -> int:
    parser = argparse.ArgumentParser(description="Prompt filter against a loop over rouge-score.")
    parser.add_argument("--candidates", type=int, default=5_000)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    source = random.Random(2401)
    texts = make_texts(source, options.texts)
    candidates = make_texts(source, options.candidates)

    start = time.perf_counter()
    prompts = PromptFilter(texts, threshold=THRESHOLD, workers=options.workers)
    verdicts = list(prompts.offer_all(enumerate(candidates)))
    seconds = time.perf_counter() - start
    compared = [verdict.max_rouge_l is not None for verdict in verdicts]

    pairs = sum(compared) * len(texts)  # without the accepted ones: the loop's time is not overstated
    per_pair = time_per_pair(
        source, [english_tokens(text) for text in texts], [english_tokens(text) for text in candidates]
    )
    ratio = per_pair * pairs / seconds
    boundary_pairs, at_boundary = check_boundary()
    differences = {
        "sampled candidates": check_sample(source, texts, candidates, verdicts, options.sample),
        "pairs at the threshold": at_boundary,
        "small whole run": check_small_run(source),
    }

    accepted = sum(verdict.accepted for verdict in verdicts)
    print(f"{len(candidates)} candidates against {len(texts)} texts: {accepted} accepted")
    print(
        f"this filter           {seconds:10.1f} s (tokenising and all filters included, {options.workers} thread)"
    )
    print(
        f"loop over rouge-score {per_pair * pairs:10.0f} s (extrapolated: {per_pair * 1e6:.0f} µs x {pairs} pairs)"
    )
    print(f"ratio                 {ratio:10.0f} x (required: {REQUIRED} x)")
    print(
        f"checked: {options.sample} candidates, {boundary_pairs} pairs at the threshold, 150 in a small run"
    )
    print(f"different: {', '.join(f'{count} {name}' for name, count in differences.items())}")
    return 0 if ratio >= REQUIRED and not any(differences.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
