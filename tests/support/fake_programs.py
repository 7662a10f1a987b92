"""Stand-ins for the stage programs and for vLLM, written into a folder that goes first on PYTHONPATH.

They keep the contract (configuration in, result.json and termination message out, servers that answer) and compute
nothing, so that a whole run through the local backend takes seconds. What they do can be steered by files in the folder
that SRR_CACHE names, the one variable of the user that pods get and that means nothing to them.
"""

from pathlib import Path

SAMPLER = """
import os, sys, time
from pathlib import Path
from selfrewarding.contract.artifacts import attempt_prefix
from selfrewarding.contract.program import BadData, read_serve_config, report_progress, run_program, run_stage
from selfrewarding.contract.result import FileRef, StageResult, TerminationMessage, summary_of
from selfrewarding.store.digests import digest_bytes
from selfrewarding.store.failures import stage_failure
from selfrewarding.store.locate import open_store
from selfrewarding.store.results import commit_result, find_result

STEERING = Path(os.environ["SRR_CACHE"])
COUNTS = {
    "Prepare": {"parameters": 1000, "instructions": 8, "ranked": 4, "heldOut": 2},
    "BuildEvaluations": {"prompts": 4, "answers": 8, "judgements": 16, "valid": 12, "malformed": 4,
                         "outputTokens": 320},
    "GeneratePrompts": {"prompts": 6, "similar": 3, "tooShort": 1, "outputTokens": 100},
    "Rollout": {"prompts": 6, "answers": 24, "judgements": 48, "valid": 40, "missing": 8, "outputTokens": 2400},
    "BuildPreferences": {"prompts": 6, "pairs": 4, "ties": 2},
    "Evaluate": {"prompts": 2, "pairs": 5, "outputTokens": 50},
}
METRICS = {"Evaluate": {"pairwiseAccuracy": 0.6}, "Rollout": {"validRate": 0.83}, "BuildPreferences": {"tieRate": 0.33}}

def main(config, here):
    kind = str(config.kind)
    with (STEERING / "order").open("a") as order:
        order.write(f"{kind} {config.iteration} {here.attempt}\\n")
    store = open_store(config.store)
    if kind == "Resolve":
        done = {key: find_result(store, stage, key) for stage, key in config.parameters.stages}
        known = {key[:16]: summary_of(result) for key, result in done.items() if result}
        return TerminationMessage(done=known, missing=[key[:16] for key, result in done.items() if not result])
    if (STEERING / f"fail-{kind}").exists():
        raise BadData("row 3 has no answer: write one")
    if config.servers:
        import urllib.request
        for url in os.environ["SRR_POLICY_URL"].split(","):
            assert urllib.request.urlopen(url + "/health").status == 200
    report_progress(done=1, total=2, rate=1.0, tokens=50)
    hold = STEERING / f"hold-{kind}-{config.iteration}"
    while hold.exists():
        time.sleep(0.05)
    report_progress(done=2, total=2, rate=1.0, tokens=100)
    data = {}
    if kind == "Prepare":
        data = {"instructions": "a" * 12, "model": "b" * 12, "ranked": "c" * 12, "heldOut": "d" * 12}
    files = {}
    if config.execution.training is not None:
        where = attempt_prefix(config.kind, config.key, here.pod_uid) + "/model/config.json"
        store.write(where, b"{}")
        digest = digest_bytes(b"{}")
        files["model/config.json"] = FileRef(
            path=f"attempts/{here.pod_uid}/model/config.json", size=digest.size, sha256=digest.sha256
        )
    metrics = METRICS.get(kind, {})
    counts = COUNTS.get(kind, {})
    if config.execution.training is not None:
        counts, metrics = {"rows": 8, "tokens": 800}, {"loss": 1.5, "tokensPerSecond": 99.0}
        if kind == "PreferenceOptimize":
            metrics["rewardMargin"] = 0.25
    result = StageResult(
        contract=config.contract, kind=config.kind, iteration=config.iteration, key=config.key, files=files,
        counts=counts, metrics=metrics, data=data, seconds=2.0, pod=here.pod_uid,
    )
    return commit_result(store, result)

def fetch():
    read_serve_config()
    Path(os.environ["SRR_MODEL_DIR"], "config.json").write_text("{}")

if sys.argv[1:] == ["fetch-model"]:
    sys.exit(run_program(fetch, translate=stage_failure))
sys.exit(run_stage(main, translate=stage_failure))
"""

SERVER = """
import http.server, sys
from pathlib import Path
arguments = sys.argv[1:]
value = lambda name: arguments[arguments.index(name) + 1]
assert Path(value("--model"), "config.json").exists()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer((value("--host"), int(value("--port"))), Handler).serve_forever()
"""


def write_programs(folder: Path) -> None:
    """Write packages named as the real ones."""
    for package, content in {
        "srr_sampler/__main__.py": SAMPLER,
        "srr_trainer/__main__.py": SAMPLER,
        "vllm/entrypoints/openai/api_server.py": SERVER,
    }.items():
        target = folder / package
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        while target.parent != folder:
            target = target.parent / "__init__.py"
            target.touch()
            target = target.parent
