"""What the report reads of a run, and what it says when results are gone or damaged."""

import hashlib
import json

import pytest
from tests.support.finished_run import finished_run

from selfrewarding.api.evaluation import Alarm, AlarmsSpec, ShareAlarm
from selfrewarding.api.run import AlarmStatus
from selfrewarding.contract.artifacts import EVIDENCE, METRICS, PAIRS, ROLLOUT, ROLLOUT_INDEX
from selfrewarding.contract.config import StageRef
from selfrewarding.contract.result import FileRef, result_bytes, result_digest
from selfrewarding.report.collect import collect, load
from selfrewarding.report.page import render
from selfrewarding.report.wording import ALARM_NAMES
from selfrewarding.store.errors import Unavailable
from selfrewarding.store.row_index import IndexWriter

ALARM = AlarmStatus(
    name="scoreLengthCorrelation",
    iteration=2,
    action="Warn",
    value=0.9,
    threshold=0.8,
    message="It rewards length.",
)


def told(run, **options):
    return collect(run.store, run.run, load(run.store, run.stages), run.story, **options)


def rows(run, role, name):
    return [json.loads(line) for line in run.path(role, name).read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("run"), prompts=60, alarms=[ALARM])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("small"), iterations=2, prompts=30, alarms=[ALARM])


@pytest.fixture
def run(small, tmp_path):
    return small.copied_to(tmp_path / "store")


def test_each_iteration_has_its_numbers(whole):
    story = told(whole)
    assert story.problems == ()
    assert [one.model for one in story.iterations] == ["M1", "M2", "M3"]
    evaluate = whole.results["Evaluate-3"]
    document = json.loads(whole.path("Evaluate-3", METRICS).read_text())
    accuracy = story.iterations[2].judge.metrics["pairwiseAccuracy"]
    assert accuracy.value == evaluate.metrics["pairwiseAccuracy"]
    assert [accuracy.low * 100, accuracy.high * 100] == pytest.approx(
        document["intervals"]["pairwise_accuracy"]
    )
    spearman = story.iterations[2].judge.metrics["spearman"]
    assert [spearman.low, spearman.high] == pytest.approx(document["intervals"]["spearman"])
    assert [(one.name, one.prompts) for one in story.iterations[2].judge.subsets] == [
        ("reasoning", 53),
        ("writing", 27),
    ]
    by_category = document["by_category"]["writing"]
    assert story.iterations[2].judge.subsets[1].metrics["spearman"].value == by_category["spearman"]
    compared = json.loads(whole.path("Compare-3", METRICS).read_text())["opponents"]
    assert [(one.opponent, one.against) for one in story.iterations[2].comparisons] == [
        ("previous", "M2"), ("initial", "M1"), ("baseline", "Baseline"),
    ]  # fmt: skip
    for one in story.iterations[2].comparisons:
        assert one.win_rate.value == pytest.approx(compared[one.opponent]["win_rate"] / 100)
        assert one.win_rate.low == pytest.approx(compared[one.opponent]["intervals"]["win_rate"][0] / 100)
        assert one.wins + one.ties + one.losses == one.prompts
        subsets = compared[one.opponent]["by_category"]
        assert [(subset.name, subset.prompts) for subset in one.subsets] == [("math", 150), ("writing", 50)]
        rate = one.subsets[1].metrics["winRate"]
        assert [100 * rate.low, 100 * rate.high] == pytest.approx(subsets["writing"]["intervals"]["win_rate"])
    bias = story.iterations[2].position_bias
    assert (bias.high - bias.low) == pytest.approx(0.06)
    assert story.fixed_judge == "s3://models/referee-70b"
    assert story.data["heldOut"] == "c03d5e1f8a20"


def test_a_run_that_its_judge_ended_says_so(small):
    assert told(small).ending is None
    story = small.story.model_copy(update={"uncalibrated": "The judge does not reach judge.calibration."})
    ending = collect(small.store, small.run, load(small.store, small.stages), story).ending
    assert ending == "The judge does not reach judge.calibration."


def test_alarms_that_are_off_are_told_by_the_names_that_the_page_has(small):
    assert told(small).alarms_off == ()
    alarms = AlarmsSpec(tie_rate=ShareAlarm(action="Off"), pair_yield=Alarm(action="Off", threshold=0.2))
    spec = small.story.spec.model_copy(update={"alarms": alarms})
    story = small.story.model_copy(update={"spec": spec})
    off = collect(small.store, small.run, load(small.store, small.stages), story).alarms_off
    assert sorted(off) == ["pairYield", "tieRate"]
    assert set(ALARM_NAMES) == {field.alias for field in AlarmsSpec.model_fields.values()}


def test_near_duplicates_that_prepare_found_are_told(run):
    assert told(run).near_duplicates == {}
    report = {
        "seedData": {"nearDuplicates": {"found": 1234, "rows": []}},
        "evaluationPrompts": {"nearDuplicates": {"found": 0, "rows": []}},
    }
    recommit(run, "Prepare-0", report=report)
    assert told(run).near_duplicates == {
        "seed prompts like one of another seed set": 1234,
        "evaluation prompts like one that is trained on": 0,
    }
    page = render(told(run))
    assert "1,234 seed prompts like one of another seed set, 0 evaluation prompts like one" in page
    assert "flatter a judge" in page


def test_the_page_says_why_a_win_rate_is_not_defined_and_shows_it_by_category(run):
    document = json.loads(run.path("Compare-2", METRICS).read_text())
    document["opponents"]["previous"] |= {
        "win_rate": None, "undefined": {"win_rate": "no prompt with two valid verdicts"},
    }  # fmt: skip
    content = json.dumps(document).encode()
    run.path("Compare-2", METRICS).write_bytes(content)
    ref = (
        run.results["Compare-2"]
        .files[METRICS]
        .model_copy(update={"size": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    )
    recommit(run, "Compare-2", files=run.results["Compare-2"].files | {METRICS: ref})
    page = render(told(run))
    assert "M2 against M1: win rate is not defined (no prompt with two valid verdicts)." in page
    assert "M2 against Baseline by category" in page
    assert '<th scope="row"><bdi>writing</bdi></th><td>50</td>' in page


def test_the_manifest_is_one_that_runs(whole):
    import yaml

    from selfrewarding.api.run import SelfRewardingRun

    document = yaml.safe_load(told(whole).manifest)
    assert SelfRewardingRun.model_validate(document).spec == whole.story.spec


def test_the_sample_is_of_the_keys_with_the_smallest_hashes_with_all_their_judgements(whole):
    pairs = told(whole, sample=10).iterations[1].pairs
    everything = rows(whole, "BuildPreferences-2", PAIRS)
    assert pairs.total == len(everything)
    expected = sorted(everything, key=lambda row: hashlib.sha256(row["key"].encode()).digest())[:10]
    assert [pair.key for pair in pairs.sample] == [row["key"] for row in expected]
    rollout = {row["key"]: row for row in rows(whole, "Rollout-2", ROLLOUT)}
    for pair, row in zip(pairs.sample, expected, strict=True):
        assert pair.chosen.text == row["chosen"][-1]["content"]
        assert pair.chosen.score == row["chosen_score"]
        answers = rollout[row["id"]]["responses"]
        for answer, place in ((pair.chosen, "chosen_index"), (pair.rejected, "rejected_index")):
            judged = answers[row["provenance"][place]]
            assert judged["text"] == answer.text
            assert [one.text for one in answer.judgements] == [one["text"] for one in judged["judgements"]]


def test_lengths_are_of_all_pairs(whole):
    pairs = told(whole, sample=1).iterations[1].pairs
    lengths = sorted(len(row["chosen"][-1]["content"]) for row in rows(whole, "BuildPreferences-2", PAIRS))
    assert pairs.chosen.count == len(lengths)
    assert pairs.chosen.mean == pytest.approx(sum(lengths) / len(lengths))
    assert (
        lengths[0]
        <= pairs.chosen.points[0]
        <= pairs.chosen.points[2]
        <= pairs.chosen.points[4]
        <= lengths[-1]
    )


def recommit(run, role, **changes):
    """Write a stage's result anew, as its stage would have."""
    result = run.results[role].model_copy(update=changes)
    run.results[role] = result
    run.result_path(role).write_bytes(result_bytes(result))
    run.stages[role] = StageRef(
        kind=result.kind,
        iteration=result.iteration,
        key=result.key,
        digest=result_digest(result_bytes(result)),
    )


def test_the_index_of_the_rollout_finds_the_same_judgements(run):
    scanned = told(run).iterations[1].pairs
    index = IndexWriter()
    for line in run.path("Rollout-2", ROLLOUT).read_bytes().splitlines(keepends=True):
        index.add(json.loads(line)["key"], line)
    content, old = index.content(), run.results["Rollout-2"].files
    path = run.path("Rollout-2", ROLLOUT).with_name(ROLLOUT_INDEX)
    path.write_bytes(content)
    ref = FileRef(
        path=f"attempts/p/{ROLLOUT_INDEX}", size=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    recommit(run, "Rollout-2", files=old | {ROLLOUT_INDEX: ref})
    assert told(run).iterations[1].pairs == scanned


def test_an_alarm_brings_the_rows_that_show_it(run):
    [alarm] = told(run).alarms
    evidence = json.loads(run.path("BuildPreferences-2", EVIDENCE).read_text())["scoreLengthCorrelation"]
    assert [row.key for row in alarm.evidence] == [row["key"] for row in evidence]
    texts = {row["key"]: row["prompt"][-1]["content"] for row in rows(run, "BuildPreferences-2", PAIRS)}
    assert [row.excerpt for row in alarm.evidence] == [texts[row["key"]] for row in evidence]


@pytest.mark.parametrize(
    ("name", "stage", "key", "beginning"),
    [
        ("validRate", "Rollout", None, None),
        ("validRate", "Evaluate", "h0", "Held-out question h0, judged by M2?"),
        ("judgeCorrelation", "Evaluate", "h0", "Held-out question h0, judged by M2?"),
        ("positionBias", "Compare", "previous/p0", "What are three common mistakes people make with bees?"),
    ],
)
def test_the_rows_are_those_of_the_stage_that_sounded(run, name, stage, key, beginning):
    """Rollout and Evaluate both measure validRate; the baseline's Evaluate, in the first iteration, is nobody's."""
    baseline = run.results["Evaluate-1"]
    run.stages["Evaluate-0"] = run.stages.pop("Evaluate-1")
    assert baseline.iteration == 1
    alarms = [
        ALARM.model_copy(update={"name": name, "stage": stage}),
        ALARM.model_copy(update={"name": "judgeCorrelation", "stage": "Evaluate", "iteration": 1}),
    ]
    run.story = run.story.model_copy(update={"alarms": alarms})
    alarm, first = told(run).alarms
    if key is None:
        row = rows(run, "Rollout-2", ROLLOUT)[0]
        key, beginning = row["key"], row["prompt"][-1]["content"]
    assert (alarm.evidence[0].key, alarm.evidence[0].excerpt) == (key, beginning)
    assert first.evidence == ()


@pytest.mark.parametrize("role", ["Prepare-0", "Evaluate-2", "Compare-2", "Rollout-2", "BuildPreferences-2"])
@pytest.mark.parametrize("how", ["gone", "other", "cut"])
def test_a_result_that_is_gone_or_damaged_takes_its_own_part_and_is_named(run, role, how):
    path = run.result_path(role)
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:50])
    else:
        path.write_bytes(path.read_bytes().replace(b'"seconds"', b'"seconds" '))
    story = told(run)
    assert any(role.split("-")[0] in problem for problem in story.problems)
    assert [one.number for one in story.iterations] == [1, 2]
    second = story.iterations[1]
    assert (second.judge is None) == (role == "Evaluate-2")
    assert (second.comparisons == ()) == (role == "Compare-2")
    assert (second.pairs is None) == (role == "BuildPreferences-2")
    if role == "Rollout-2":
        assert all(not pair.chosen.judgements for pair in second.pairs.sample)
        assert second.pairs.sample


@pytest.mark.parametrize(
    ("role", "name"),
    [("BuildPreferences-2", PAIRS), ("Rollout-2", ROLLOUT), ("Evaluate-2", METRICS), ("Compare-2", METRICS)],
)
@pytest.mark.parametrize("how", ["gone", "cut", "altered", "no json"])
def test_a_file_that_is_gone_or_damaged_is_named_and_the_rest_stays(run, role, name, how):
    path = run.path(role, name)
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {
                "cut": content[: len(content) // 2],
                "altered": content.replace(b"e", b"E", 1),
                "no json": b"{" * 999,
            }[how]
        )
    story = told(run)
    assert any(name in problem and f"M{2}" in problem for problem in story.problems), story.problems
    assert story.iterations[1].metrics["pairwiseAccuracy"]
    assert story.iterations[0].judge is not None
    second = story.iterations[1]
    if role == "Evaluate-2":
        # The result has the intervals too.
        assert second.judge.metrics["spearman"].low is not None
    if role == "Compare-2":
        # As for Evaluate; categories are in the file alone.
        assert all(one.win_rate.low < one.win_rate.value < one.win_rate.high for one in second.comparisons)
        assert [one.subsets for one in second.comparisons] == [(), ()]


def test_rows_that_are_no_pairs_are_damage_and_no_crash(run):
    content = b'{"key": "a", "id": "b"}\n[1]\n'
    run.path("BuildPreferences-2", PAIRS).write_bytes(content)
    ref = FileRef(path=f"attempts/p/{PAIRS}", size=len(content), sha256=hashlib.sha256(content).hexdigest())
    recommit(run, "BuildPreferences-2", files={PAIRS: ref})
    story = told(run)
    assert story.iterations[1].pairs.sample == ()
    assert story.problems


def test_a_store_without_anything_gives_a_story_all_the_same(run, tmp_path):
    from selfrewarding.store.folder import FolderStore

    empty = FolderStore(tmp_path / "empty")
    story = collect(empty, run.run, load(empty, run.stages), run.story)
    assert story.iterations == ()
    assert len(story.problems) == len(run.stages)


@pytest.mark.parametrize("method", ["read", "read_stream"])
def test_a_store_that_does_not_answer_is_no_missing_result(run, method, monkeypatch):
    def fail(key):
        raise Unavailable("no answer")

    loaded = load(run.store, run.stages)
    monkeypatch.setattr(run.store, method, fail)
    with pytest.raises(Unavailable):
        collect(run.store, run.run, loaded, run.story)
