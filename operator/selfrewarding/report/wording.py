"""Numbers and names as the report words them. Pure."""

from selfrewarding.report.story import Measure

STAGE_NAMES = {
    "Prepare": "prepare",
    "TrainBaseline": "train baseline",
    "BuildEvaluations": "judge ranked answers",
    "GeneratePrompts": "write prompts",
    "Rollout": "answer and judge",
    "BuildPreferences": "build pairs",
    "SupervisedFineTune": "SFT",
    "PreferenceOptimize": "DPO",
    "Answer": "answer as a candidate",
    "Select": "choose a candidate",
    "Evaluate": "evaluate",
    "Compare": "compare",
}
"""Kinds of stages → what they do, in the order in which they run."""
OUTCOME_NAMES = {
    "promptsWithPairs": "gave a pair",
    "promptsWithPositives": "gave a positive",
    "ties": "all answers tied",
    "belowMargin": "below the margin",
    "identical": "identical answers",
    "tooFewResponses": "too few answers",
    "truncatedOnly": "cut answers only",
    "tooFewValid": "too few valid judgements",
    "noPositive": "no positive answer",
}
"""Counts of BuildPreferences → words."""
METRIC_NAMES = {
    "pairwiseAccuracy": "pairwise accuracy",
    "fiveBest": "5-best",
    "exactMatch": "exact match",
    "spearman": "Spearman",
    "kendallTau": "Kendall tau",
    "validRate": "valid judgements",
    "winRate": "win rate",
    "winRateLengthControlled": "win rate at equal lengths",
}
ALARM_NAMES = {
    "scorePiling": "Scores pile on one value",
    "validRate": "Few judgements are valid",
    "pairYield": "Few pairs per prompt",
    "tieRate": "Most prompts are ties",
    "lengthGrowth": "Answers grow longer",
    "scoreLengthCorrelation": "Scores follow length",
    "lengthDifference": "Chosen answers are the longer ones",
    "scoreGap": "Chosen and rejected hardly differ",
    "promptDiversity": "Prompts are alike",
    "promptSimilarity": "Prompts repeat the seeds",
    "refusals": "Many refusals",
    "repetition": "Answers repeat themselves",
    "truncated": "Many answers are cut",
    "judgeCorrelation": "The judge drifts from people",
    "positionBias": "The judge prefers a place",
}


def percent(value: Measure | float) -> str:
    """A share: 56.2 %."""
    share = value.value if isinstance(value, Measure) else value
    return f"{100 * share:.1f} %"


def signed(value: Measure | float) -> str:
    """A correlation: 0.41, −0.10."""
    return f"{value.value if isinstance(value, Measure) else value:.2f}".replace("-", "−")


def interval(value: Measure, *, shares: bool = True) -> str:
    """The 95 % interval, or a dash."""
    if value.low is None or value.high is None:
        return "–"
    if shares:
        return f"{100 * value.low:.1f} to {100 * value.high:.1f} %"
    return f"{signed(value.low)} to {signed(value.high)}"


def number(value: int | None) -> str:
    """A count; a dash for none."""
    return f"{value:,}" if value else "–"


def score(value: float | None) -> str:
    """A score with no more digits than it needs."""
    return "–" if value is None else f"{value:.4g}"


def large(value: float) -> str:
    """A large count in three digits: 1.24 M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """A time as people say it: 3 d 4 h, 2 h 05 min, 4 min 10 s, 12 s."""
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes:02} min" if minutes else f"{hours} h"
    if minutes:
        return f"{minutes} min {left:02} s" if left else f"{minutes} min"
    return f"{left} s"
