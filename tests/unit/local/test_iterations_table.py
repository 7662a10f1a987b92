"""The table at a run's end: M1 has the baseline alone to beat, and the baseline's numbers are nobody else's."""

import io

from rich.console import Console
from tests.support.builders import make_spec

from selfrewarding.api.run import StageSummary
from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.keys import digest
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind
from selfrewarding.local import results_report
from selfrewarding.local.run_results import Finished
from selfrewarding.plan.graph import build_graph

DATA = {name: digest(name)[:12] for name in ("instructions", "ranked", "heldOut", "model")}


def finished(told):
    """The measuring stages of iteration 1 with these metrics, in the order of the graph."""
    prepare = StageSummary(stage="Prepare", iteration=0, digest="ab" * 8, data=DATA)
    spec = make_spec({"evaluation": {"headToHead": {}}})
    graph = build_graph(spec, run_uid="u", contract=CONTRACT_VERSION, prepare=prepare)
    kinds = (StageKind.EVALUATE, StageKind.COMPARE)
    stages = [one for one in graph.iterations[0].stages if one.kind in kinds]
    return [
        Finished(
            stage,
            StageResult(
                contract=1,
                kind=stage.kind,
                iteration=1,
                key=stage.key,
                metrics=metrics,
                report={"intervals": intervals},
                seconds=1,
                pod="p",
            ),
        )
        for stage, (metrics, intervals) in zip(stages, told, strict=False)
    ]


def table(rows):
    screen = io.StringIO()
    Console(file=screen, width=200).print(results_report.iterations_table(rows))
    return screen.getvalue()


BASELINE, M1 = ({"pairwiseAccuracy": 0.51}, {}), ({"pairwiseAccuracy": 0.64}, {})


def test_the_baselines_accuracy_is_not_that_of_m1():
    assert results_report.iteration_rows(finished([BASELINE])) == []
    (row,) = results_report.iteration_rows(finished([BASELINE, M1]))
    assert row.pairwise_accuracy == 0.64


def test_the_win_rate_against_the_baseline_stands_in_the_table():
    compared = ({"winRateBaseline": 0.58}, {"baseline": {"win_rate": [51.0, 65.0]}})
    (row,) = results_report.iteration_rows(finished([BASELINE, M1, compared]))
    text = table([row])
    assert "Win rate" in text
    assert "Baseline: 58.0%" in text
    assert "51.0% to 65.0%" in text
    row.win_rate = 0.55
    assert "55.0%" in table([row])
    assert "Baseline: 58.0%" in table([row])


def test_the_win_rate_against_m1_stands_in_the_table_where_m1_is_not_the_model_before():
    told = {"winRate": 0.55, "winRateInitial": 0.61}, {"initial": {"win_rate": [52.0, 70.0]}}
    (compared,) = finished([BASELINE, M1, told])[2:]
    for previous, shown in (("m2", True), ("m1", False), (None, True)):
        parents = {"answers": "m3", "initial": "m1"} | ({"previous": previous} if previous else {})
        again = Finished(compared.stage, compared.result.model_copy(update={"parents": parents}))
        (row,) = results_report.iteration_rows([again])
        assert ("M1: 61.0%" in table([row])) is shown
        assert ("52.0% to 70.0%" in table([row])) is shown
