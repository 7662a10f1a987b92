"""A serving pod's init container: its model, its configuration, and where its files go."""

from pathlib import Path

import pytest
from tests.support.stages import RUN, finished, reference
from tests.support.tiny_model import CHATML, make_model, make_tokenizer

from selfrewarding.contract import CONTRACT_VERSION
from selfrewarding.contract.config import ModelRef, ServeConfig
from selfrewarding.contract.result import StageResult
from selfrewarding.contract.stages import StageKind

RUNS_TEMPLATE = CHATML.replace("assistant", "assistant of this run")


class Pod:
    """A serving pod's surroundings."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        self.store = (root / "store").as_uri()
        self.folder = root / "served"
        self.model = make_model(root / "trained" / "model")
        (self.model / "special_tokens_map.json").write_text("{}")
        monkeypatch.setenv("SRR_MODEL_DIR", str(self.folder))
        monkeypatch.setenv("SRR_TERMINATION_LOG", str(root / "termination"))
        self.server = root / "server.yaml"
        monkeypatch.setenv("SRR_SERVER_CONFIG", str(self.server))
        monkeypatch.delenv("SRR_MODEL_LOAD", raising=False)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)

    def trained(self) -> StageResult:
        return finished(self.store, StageKind.SUPERVISED_FINE_TUNE, self.root / "trained", key="m1")

    def prepared(self) -> StageResult:
        tokenizer = make_tokenizer(RUNS_TEMPLATE)
        tokenizer.save_pretrained(str(self.root / "prepare" / "tokenizer"))
        return finished(self.store, StageKind.PREPARE, self.root / "prepare", key="prepare", iteration=0)

    def config(self, model: ModelRef, prepare: StageResult | None = None) -> None:
        document = ServeConfig(
            contract=CONTRACT_VERSION,
            run=RUN,
            store=self.store,
            served_name="m1-aaaa-policy",
            prepare=reference(prepare) if prepare else None,
            model=model,
        )
        path = self.root / "serve.json"
        path.write_text(document.model_dump_json(by_alias=True, exclude_none=True))
        self.monkeypatch.setenv("SRR_STAGE_CONFIG", str(path))

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}
