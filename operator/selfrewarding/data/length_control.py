"""The win rate as it would be if both answers were equally long.

The idea of AlpacaEval 2 (Dubois et al., arXiv 2404.04475): judges like long answers, so the preference is regressed on
the difference in length, and read where there is none. Method here, for one pair of models:

    P(the model is preferred) = 1 / (1 + exp(-(theta + phi * tanh(d / s))))

where d is the model's length minus the other's in characters, s the sample standard deviation of d over the prompts,
and a preference of one half (a tie) counts as half a win and half a loss. theta and phi are those of maximum likelihood,
without regularisation; the length-controlled win rate is 100 / (1 + exp(-theta)). AlpacaEval's third term, how hard an
instruction is, needs many models over the same prompts and is left out.

Must not: return a number where there is none. The likelihood has no maximum if one threshold of d separates wins from
losses (a fit would run off to infinity); that is found exactly, before fitting.
Neighbours: `head_to_head` reports it with a bootstrap interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

METHOD = (
    "logistic regression of the preference on tanh(d / s), d = difference of the answers' lengths in characters, s = its "
    "sample standard deviation over the prompts; maximum likelihood, a tie counting half a win and half a loss; read at "
    "d = 0 (after AlpacaEval 2, arXiv 2404.04475, without its term for how hard an instruction is)"
)

TOO_FEW = "fewer than three judged prompts"
ALL_EQUAL_LENGTHS = "the difference of the lengths is the same for all prompts"
SEPARATED = "length alone tells wins from losses (or there are only wins, or only losses): the regression has no finite fit"

_STEPS = 60
_TOLERANCE = 1e-10
_LARGEST_STEP = 4.0


def standardised(differences: Sequence[int]) -> tuple[Floats | None, str | None]:
    """tanh(d / s) of each difference; None and the reason where that says nothing."""
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 3:
        return None, TOO_FEW
    if bool((values == values[0]).all()):
        return None, ALL_EQUAL_LENGTHS
    return np.tanh(values / values.std(ddof=1)), None


def controlled_rates(regressor: Floats, wins: Floats, weights: Floats) -> Floats:
    """The length-controlled win rate of each resample, as a share; NaN where the regression has no finite fit.

    Args:
        regressor: tanh(d / s) by prompt, shape [prompts].
        wins: 0, one half or 1 by prompt, shape [prompts].
        weights: how often each resample holds each prompt, shape [resamples, prompts].
    """
    rates = np.full(len(weights), np.nan)
    fits = ~_separated(regressor, wins, weights)
    if fits.any():
        rates[fits] = _fit(regressor, wins, weights[fits])
    return rates


def _separated(regressor: Floats, wins: Floats, weights: Floats) -> npt.NDArray[np.bool_]:
    """Whether a threshold of the regressor has all wins on one side and all losses on the other (on it, both may be)."""
    present = weights > 0
    winning, losing = present & (wins > 0), present & (wins < 1)

    def lowest(mask: npt.NDArray[np.bool_]) -> Floats:
        return np.asarray(np.where(mask, regressor, np.inf).min(axis=1))

    def highest(mask: npt.NDArray[np.bool_]) -> Floats:
        return np.asarray(np.where(mask, regressor, -np.inf).max(axis=1))

    one_sided = ~winning.any(axis=1) | ~losing.any(axis=1)
    apart = (highest(losing) <= lowest(winning)) | (highest(winning) <= lowest(losing))
    return np.asarray(one_sided | apart)


def _fit(regressor: Floats, wins: Floats, weights: Floats) -> Floats:
    """Newton's method on the two coefficients of all resamples at once; the log likelihood is concave."""
    totals = weights.sum(axis=1)
    theta, phi = np.zeros(len(weights)), np.zeros(len(weights))
    done = np.zeros(len(weights), dtype=np.bool_)
    won, won_by_length = weights @ wins, weights @ (wins * regressor)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(theta[:, None] + phi[:, None] * regressor, -500, 500)))
        slope = won - (weights * chance).sum(axis=1)
        slope_by_length = won_by_length - (weights * chance) @ regressor
        spread = weights * chance * (1 - chance)
        a, b, c = spread.sum(axis=1), spread @ regressor, spread @ (regressor * regressor)
        determinant = np.maximum(a * c - b * b, 1e-300)
        step = np.stack([c * slope - b * slope_by_length, a * slope_by_length - b * slope]) / determinant
        longest = np.abs(step).max(axis=0)
        # A step beyond where the curvature was measured may overshoot: it is shortened, and the next one goes on.
        step *= np.minimum(1.0, _LARGEST_STEP / np.maximum(longest, 1e-300))
        theta, phi = theta + step[0], phi + step[1]
        done = np.maximum(np.abs(slope), np.abs(slope_by_length)) <= _TOLERANCE * np.maximum(totals, 1.0)
        if done.all():
            break
    rate = 1 / (1 + np.exp(-np.clip(theta, -500, 500)))
    return np.asarray(np.where(done, rate, np.nan))
