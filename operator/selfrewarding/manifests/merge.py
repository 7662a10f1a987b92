"""A strategic merge of a user's pod template over ours, as `kubectl patch --type=strategic` would do it.

Maps are merged; lists with a merge key are merged item by item, new items come last; every other list is replaced whole
(among them `command`, `args` and `tolerations`: core/v1 declares them atomic). `null` removes a field, `$patch: delete`
an item, `$patch: replace` replaces a map, or a list where it is an item of its own. A volume takes the user's source
instead of ours, not both, as `kubectl apply` does it (core/v1: retainKeys).

Knows no object of ours. Neighbour: `pod` guards what programs need against a merge.
"""

from collections.abc import Mapping
from typing import Any

from selfrewarding.manifests.errors import InvalidPodTemplate

MERGE_KEYS: Mapping[str, str] = {
    "spec.volumes": "name",
    "spec.containers": "name",
    "spec.initContainers": "name",
    "spec.containers.env": "name",
    "spec.containers.ports": "containerPort",
    "spec.containers.volumeMounts": "mountPath",
    "spec.initContainers.env": "name",
    "spec.initContainers.volumeMounts": "mountPath",
}
"""Lists that are merged, with the field that tells their items apart (Kubernetes API: patchMergeKey in core/v1 PodSpec
and Container). Other lists with such a key are never in our templates, so that merging them is taking the user's."""

RETAINED = frozenset({"spec.volumes", "spec.containers.env", "spec.initContainers.env"})
"""Lists whose items hold one of several sources: of ours, an item keeps only the fields that the user's names too.
For `env` core/v1 does not say so, but `value` beside `valueFrom` would be refused."""

_DIRECTIVE = "$patch"


def strategic_merge(ours: Mapping[str, Any], theirs: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A new pod template: `theirs` over `ours`. Neither is changed.

    `field` is where `theirs` stands in the run, for error messages, e.g. `training.podTemplate`.
    Raises InvalidPodTemplate with that place, what was found and what is expected.
    """
    return _merged_map(ours, theirs, path="", where=field)


def _merged_map(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str, where: str) -> dict[str, Any]:
    unknown = [name for name in theirs if name.startswith("$") and name != _DIRECTIVE]
    if unknown:
        raise InvalidPodTemplate(f"{where}.{unknown[0]}: of the patch directives only `$patch` is known here")
    match theirs.get(_DIRECTIVE):
        case None:
            result = dict(ours)
        case "replace":
            result = {}
        case other:
            raise InvalidPodTemplate(
                f"{where}.$patch is {other!r}: a map takes `replace`, or null in its place"
            )
    for name, value in theirs.items():
        if name == _DIRECTIVE:
            continue
        if value is None:
            result.pop(name, None)
            continue
        inner = f"{path}.{name}" if path else name
        result[name] = _merged(result.get(name), value, inner, f"{where}.{name}")
    return result


def _merged(ours: Any, theirs: Any, path: str, where: str) -> Any:
    if isinstance(ours, Mapping) and not isinstance(theirs, Mapping):
        raise InvalidPodTemplate(f"{where} is {_kind(theirs)}: expected a map")
    if (isinstance(ours, list) or path in MERGE_KEYS) and not isinstance(theirs, list):
        raise InvalidPodTemplate(f"{where} is {_kind(theirs)}: expected a list")
    if isinstance(theirs, Mapping):
        if ours is not None and not isinstance(ours, Mapping):
            raise InvalidPodTemplate(f"{where} is a map: expected {_kind(ours)}")
        return _merged_map(ours or {}, theirs, path, where)
    if isinstance(theirs, list) and path in MERGE_KEYS:
        if ours is not None and not isinstance(ours, list):
            raise InvalidPodTemplate(f"{where} is a list: expected {_kind(ours)}")
        return _merged_list(ours or [], theirs, path, where)
    _refuse_directives(theirs, where)
    return theirs


def _merged_list(ours: list[Any], theirs: list[Any], path: str, where: str) -> list[Any]:
    key = MERGE_KEYS[path]
    replaced = any(item == {_DIRECTIVE: "replace"} for item in theirs)
    result: dict[Any, Any] = {} if replaced else {item[key]: item for item in ours}
    seen: set[Any] = set()
    for index, item in enumerate(theirs):
        if item == {_DIRECTIVE: "replace"}:
            continue
        if not isinstance(item, Mapping) or not isinstance(item.get(key), str | int):
            raise InvalidPodTemplate(
                f"{where}[{index}] has no `{key}`: it tells the items of this list apart"
            )
        name = item[key]
        place = f"{where}[{name}]"
        if name in seen:
            raise InvalidPodTemplate(f"{place} stands there twice: give each `{key}` once")
        seen.add(name)
        if item.get(_DIRECTIVE) == "delete":
            result.pop(name, None)
            continue
        old = result.get(name, {})
        if path in RETAINED:
            old = {field: value for field, value in old.items() if field in item}
        result[name] = _merged_map(old, item, path, place)
    return list(result.values())


def _refuse_directives(value: Any, where: str) -> None:
    """In a list that is replaced whole, at any depth, a directive would reach the API server as a field."""
    if isinstance(value, Mapping):
        if any(name.startswith("$") for name in value):
            raise InvalidPodTemplate(f"{where}: this list is replaced whole, so `$patch` has no place in it")
        for name, inner in value.items():
            _refuse_directives(inner, f"{where}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_directives(item, f"{where}[{index}]")


def _kind(value: Any) -> str:
    match value:
        case Mapping():
            return "a map"
        case list():
            return "a list"
        case bool():
            return "true or false"
        case str():
            return f"the text {value!r}"
        case _:
            return f"{value!r}"
