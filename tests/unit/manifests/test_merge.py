"""The strategic merge: what kubectl does with the same two documents, and clear errors for what it cannot do."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.manifests import InvalidPodTemplate
from selfrewarding.manifests.merge import strategic_merge

OURS: dict[str, Any] = {
    "metadata": {"labels": {"a": "1"}},
    "spec": {
        "containers": [
            {
                "name": "main",
                "image": "ours",
                "command": ["run"],
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "x"}}},
                ],
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                "resources": {"limits": {"memory": "1Gi"}},
            }
        ],
        "tolerations": [{"key": "a"}],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        "securityContext": {"runAsUser": 1, "runAsNonRoot": True},
    },
}


def merge(theirs: dict[str, Any]) -> dict[str, Any]:
    before = copy.deepcopy((OURS, theirs))
    result = strategic_merge(OURS, theirs, "training.podTemplate")
    assert (OURS, theirs) == before, "neither side is changed"
    return result


def main(**fields: Any) -> dict[str, Any]:
    merged: dict[str, Any] = merge({"spec": {"containers": [{"name": "main", **fields}]}})
    assert len(merged["spec"]["containers"]) == 1
    return dict(merged["spec"]["containers"][0])


def test_nothing_over_ours_is_ours() -> None:
    assert merge({}) == OURS


def test_maps_are_merged_and_null_removes() -> None:
    merged = merge({"metadata": {"labels": {"b": "2"}}, "spec": {"securityContext": {"runAsUser": None}}})
    assert merged["metadata"]["labels"] == {"a": "1", "b": "2"}
    assert merged["spec"]["securityContext"] == {"runAsNonRoot": True}


def test_containers_are_merged_by_name_and_new_ones_come_last() -> None:
    merged = merge(
        {"spec": {"containers": [{"name": "side", "image": "x"}, {"name": "main", "image": "own"}]}}
    )
    assert [one["name"] for one in merged["spec"]["containers"]] == ["main", "side"]
    assert merged["spec"]["containers"][0]["image"] == "own"
    assert merged["spec"]["containers"][0]["command"] == ["run"]


def test_environment_is_merged_by_name_and_an_entry_has_one_source() -> None:
    env = main(env=[{"name": "B", "value": "2"}, {"name": "C", "value": "3"}])["env"]
    assert env == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}]


def test_mounts_are_merged_by_their_path() -> None:
    mounts = main(volumeMounts=[{"mountPath": "/tmp", "name": "own"}, {"mountPath": "/data", "name": "data"}])
    assert mounts["volumeMounts"] == [
        {"name": "own", "mountPath": "/tmp"},
        {"name": "data", "mountPath": "/data"},
    ]


def test_resources_are_merged_name_by_name() -> None:
    limits = main(resources={"limits": {"rdma/hca": "1"}})["resources"]["limits"]
    assert limits == {"memory": "1Gi", "rdma/hca": "1"}


def test_commands_and_tolerations_are_replaced_whole() -> None:
    assert main(command=["own"])["command"] == ["own"]
    assert merge({"spec": {"tolerations": [{"key": "b"}]}})["spec"]["tolerations"] == [{"key": "b"}]


def test_a_volume_takes_the_users_source_instead_of_ours() -> None:
    claim = {"name": "tmp", "persistentVolumeClaim": {"claimName": "fast"}}
    assert merge({"spec": {"volumes": [claim]}})["spec"]["volumes"] == [claim]
    memory = {"name": "tmp", "emptyDir": {"medium": "Memory"}}
    assert merge({"spec": {"volumes": [memory]}})["spec"]["volumes"] == [
        {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}}
    ]


def test_patch_directives_delete_and_replace() -> None:
    assert main(env=[{"name": "A", "$patch": "delete"}])["env"] == OURS["spec"]["containers"][0]["env"][1:]
    assert main(env=[{"$patch": "replace"}, {"name": "Z", "value": "1"}])["env"] == [
        {"name": "Z", "value": "1"}
    ]
    assert main(resources={"$patch": "replace", "limits": {"cpu": "1"}})["resources"] == {
        "limits": {"cpu": "1"}
    }


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"spec": []}, r"training\.podTemplate\.spec is a list: expected a map"),
        ({"spec": {"containers": {"main": {}}}}, r"spec\.containers is a map: expected a list"),
        ({"spec": {"initContainers": {"main": {}}}}, r"spec\.initContainers is a map: expected a list"),
        ({"spec": {"containers": [{"image": "x"}]}}, r"spec\.containers\[0\] has no `name`"),
        ({"spec": {"containers": ["main"]}}, r"spec\.containers\[0\] has no `name`"),
        (
            {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}},
            r"spec\.containers\[a\] stands there twice",
        ),
        (
            {"spec": {"containers": [{"name": "main", "env": [{"value": "1"}]}]}},
            r"spec\.containers\[main\]\.env\[0\] has no `name`",
        ),
        (
            {"spec": {"containers": [{"name": "main", "image": {"x": 1}}]}},
            r"spec\.containers\[main\]\.image is a map: expected the text 'ours'",
        ),
        ({"spec": {"$retainKeys": ["x"]}}, r"spec\.\$retainKeys: of the patch directives only"),
        ({"spec": {"$patch": "delete"}}, r"spec\.\$patch is 'delete': a map takes `replace`"),
        (
            {"spec": {"tolerations": [{"$patch": "delete"}]}},
            r"spec\.tolerations\[0\]: this list is replaced whole",
        ),
        (
            {"spec": {"tolerations": [[{"x": {"y": {"$patch": None}}}]]}},
            r"spec\.tolerations\[0\]\[0\]\.x\.y: this list is replaced whole",
        ),
        ({"metadata": {"labels": "a=1"}}, r"metadata\.labels is the text 'a=1': expected a map"),
    ],
)
def test_what_cannot_be_merged_is_said_with_its_place(theirs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPodTemplate, match=message):
        merge(theirs)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["spec", "containers", "volumes", "env", "name", "mountPath", "$patch", "labels", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["metadata", "spec"]), JSON))
def test_any_document_is_merged_or_refused_with_a_text(theirs: dict[str, Any]) -> None:
    try:
        merged = merge(theirs)
    except InvalidPodTemplate as error:
        text = str(error)
    else:
        text = f"training.podTemplate became {merged}"
        assert "$patch" not in text, "no directive reaches the API server"
    assert text.startswith("training.podTemplate")
