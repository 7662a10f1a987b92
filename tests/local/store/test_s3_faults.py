"""What is special about S3, on real servers: answers that get lost, requests that are refused, objects of other programs."""

from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
from tests.support.sample_tree import FILES

from selfrewarding.store import ArtifactStore, Denied, NotFound, Unsuitable, open_store
from selfrewarding.store.s3 import S3Store
from selfrewarding.store.s3_client import Connection
from selfrewarding.store.s3_upload import PART_BYTES


@pytest.fixture
def s3_store(store: ArtifactStore) -> S3Store:
    assert isinstance(store, S3Store)
    return store


def test_a_bucket_that_is_not_there(s3_settings: dict[str, str]) -> None:
    store = open_store("s3://no-such-bucket-at-all/runs", s3_settings)
    with pytest.raises(NotFound, match="no such bucket") as caught:
        store.check_writable()
    assert s3_settings["SRR_S3_ENDPOINT"] in str(caught.value)
    for call in (lambda: store.read("a"), lambda: list(store.list()), lambda: store.write("a", b"")):
        with pytest.raises(NotFound, match="no such bucket"):
            call()


def test_a_store_that_lets_a_second_writer_in(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results would be overwritten: better known before a GPU is spent."""

    def forget_the_condition(params: dict[str, Any], **named: object) -> None:
        params["headers"].pop("If-None-Match", None)

    s3_store._client.meta.events.register("before-call.s3.PutObject", forget_the_condition)
    monkeypatch.setattr(Connection, "hasty", lambda connection: connection)
    with pytest.raises(Unsuitable, match="If-None-Match: \\* is ignored"):
        s3_store.check_writable()
    assert list(s3_store.list()) == []


def test_create_knows_its_own_object_when_the_answer_was_lost(s3_store: S3Store) -> None:
    """The first request got through, its answer did not, and the repeated one is told that the object exists."""
    lost = []

    def lose_the_answer(response: Any, **named: object) -> float | None:
        if not lost and response is not None:
            lost.append(response[0].status_code)
            return 0.0
        return None

    s3_store._client.meta.events.register_first("needs-retry.s3.PutObject", lose_the_answer)
    assert s3_store.create("result.json", b"mine") is True
    assert lost == [200]
    assert s3_store.create("result.json", b"theirs") is False
    assert s3_store.read("result.json") == b"mine"


def test_each_part_is_sent_with_a_checksum(s3_store: S3Store, tree: Path) -> None:
    sent = []

    def look(request: Any, **named: object) -> None:
        sent.append({name.lower() for name in request.headers})

    events = s3_store._client.meta.events
    events.register("before-send.s3.UploadPart", look)
    events.register("before-send.s3.PutObject", look)
    s3_store._connection.uploads._python.upload(
        str(tree / "model.safetensors"), s3_store._bucket, "large"
    ).result()
    s3_store.write("small", b"x")
    parts = -(-len(FILES["model.safetensors"]) // PART_BYTES)
    assert len(sent) == parts + 1 == 4
    for headers in sent:
        assert any("x-amz-checksum-crc" in name or name == "x-amz-trailer" for name in headers), headers


def test_deleting_without_the_right_to_list_uploads(s3_store: S3Store) -> None:
    s3_store.write("run/a", b"x")

    def refuse(**named: object) -> None:
        raise botocore.exceptions.ClientError(
            {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}},
            "ListMultipartUploads",
        )

    s3_store._client.meta.events.register("before-call.s3.ListMultipartUploads", refuse)
    assert s3_store.delete_prefix("run") == 1


def test_an_object_that_could_not_be_deleted(s3_store: S3Store) -> None:
    s3_store.write("run/a", b"x")

    def fail(parsed: dict[str, Any], **named: object) -> None:
        parsed["Errors"] = [{"Key": "run/a", "Code": "AccessDenied"}]

    s3_store._client.meta.events.register("after-call.s3.DeleteObjects", fail)
    with pytest.raises(Denied, match="s3:DeleteObject"):
        s3_store.delete_prefix("run")


def test_folder_marks_of_consoles_are_no_artifacts(s3_store: S3Store) -> None:
    s3_store._client.put_object(Bucket=s3_store._bucket, Key="runs/self-rewarding/models/", Body=b"")
    s3_store.write("models/a", b"x")
    assert [entry.key for entry in s3_store.list()] == ["models/a"]
