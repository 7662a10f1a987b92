"""Read run files (YAML) so that every mistake is told with file, line, field, what was found and what to do.

Purpose: the checks that need no cluster, store or model; used by every command that takes `-f FILE`.
Must not: fill anything in silently. Neighbours: the types in `api/`, whose validators hold the rules themselves.
"""

import dataclasses
import difflib
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from selfrewarding.api import labels
from selfrewarding.api.data import HTTP_PATTERN
from selfrewarding.api.presets import PRESETS, effective
from selfrewarding.api.run import ObjectMeta, SelfRewardingRun, SelfRewardingRunSpec
from selfrewarding.contract.redaction import without_user_info

MAX_BYTES = 1_500_000
"""The API server takes no larger object (etcd's limit)."""
_MAX_NODES, _MAX_DEPTH = 50_000, 64
_SHOWN = 80

_KINDS = {
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a text",
    "a valid boolean": "true or false",
    "a valid list": "a list",
    "a valid dictionary or instance of": "a block of fields:",
    "a valid dictionary": "a block of fields",
}

Place = tuple[str | int, ...]
"""Where a value stands: names and list indices from the top of the document."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a run file."""

    file: str
    line: int | None
    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        field = f"{self.field}: " if self.field else ""
        found = f"found {self.found}; " if self.found else ""
        return f"{place}: {field}{found}{self.expected}"


class InvalidRunFile(Exception):
    """A run file cannot be used; `problems` says all that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


@dataclass(frozen=True)
class RunFile:
    """One SelfRewardingRun of a file."""

    file: str
    raw: dict[str, Any]
    """The object as the file says it."""
    metadata: ObjectMeta
    spec: SelfRewardingRunSpec
    """The effective spec, its preset filled in."""


def read_run_files(path: str) -> list[RunFile]:
    """All runs of a YAML file (`-` is standard input). Raises InvalidRunFile."""
    documents = list(_documents(path, _read(path)))
    if not documents:
        raise InvalidRunFile([Problem(path, None, "", "an empty file", f"expected a {labels.KIND} object")])
    problems: list[Problem] = []
    runs: list[RunFile] = []
    for node in documents:
        lines: dict[Place, int] = {}
        try:
            raw = _plain(node, (), lines, path)
            runs.append(_run(path, raw, lines))
        except InvalidRunFile as error:
            problems += error.problems
    if problems:
        raise InvalidRunFile(problems)
    return runs


def read_run_file(path: str) -> RunFile:
    """The one run of a YAML file. Raises InvalidRunFile."""
    runs = read_run_files(path)
    if len(runs) != 1:
        found = f"{len(runs)} runs: {', '.join(run.metadata.name for run in runs)}"
        raise InvalidRunFile(
            [Problem(path, None, "", found, "expected one run: put each in a file of its own")]
        )
    return runs[0]


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: `1e-6` is a number (YAML 1.1, which PyYAML follows, calls it a text)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _read(path: str) -> str:
    try:
        content = sys.stdin.buffer.read(MAX_BYTES + 1) if path == "-" else Path(path).read_bytes()
    except OSError as error:
        expected = "expected a YAML file that can be read: check the path after -f"
        raise InvalidRunFile([Problem(path, None, "", error.strerror or str(error), expected)]) from error
    if len(content) > MAX_BYTES:
        found = f"{len(content):,} bytes"
        raise InvalidRunFile(
            [Problem(path, None, "", found, f"expected at most {MAX_BYTES:,}, as the API server does")]
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = f"the byte 0x{content[error.start]:02x}"
        raise InvalidRunFile(
            [Problem(path, line, "", found, "expected UTF-8: save the file in that encoding")]
        ) from error


def _documents(path: str, text: str) -> Iterator[yaml.Node]:
    loader = None
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            if node is not None and not (isinstance(node, yaml.ScalarNode) and node.value == ""):
                yield node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise InvalidRunFile([Problem(path, line, "", "broken YAML", error.problem or str(error))]) from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        found = f"the character U+{ord(error.character) if isinstance(error.character, str) else error.character:04X}"
        raise InvalidRunFile([Problem(path, line, "", found, "YAML does not allow it: remove it")]) from error
    except (RecursionError, ValueError) as error:
        raise InvalidRunFile([Problem(path, None, "", "broken YAML", str(error)[:_SHOWN])]) from error
    finally:
        if loader is not None:
            loader.dispose()


def _plain(node: yaml.Node, at: Place, lines: dict[Place, int], path: str) -> Any:
    """A node as plain values; `lines` learns the line of every field. Refuses duplicate names, bombs and odd keys."""
    lines[at] = node.start_mark.line + 1

    def refuse(found: str, expected: str) -> InvalidRunFile:
        return InvalidRunFile([Problem(path, node.start_mark.line + 1, dotted(at), found, expected)])

    if len(lines) > _MAX_NODES or len(at) > _MAX_DEPTH:
        raise refuse("a document that is too large or too deep", "expected a run of a few hundred lines")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*at, index), lines, path) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                raise refuse("a key that is no plain name", "expected field names")
            key = str(key_node.value)
            if key in result:
                line = key_node.start_mark.line + 1
                raise InvalidRunFile(
                    [
                        Problem(
                            path, line, dotted((*at, key)), "the field a second time", "keep one of the two"
                        )
                    ]
                )
            result[key] = _plain(value_node, (*at, key), lines, path)
            lines[(*at, key)] = key_node.start_mark.line + 1
        return result
    try:
        value = yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise refuse(_shown(node.value), f"expected a plain value ({str(error).splitlines()[0]})") from error
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(node.value)


def _run(path: str, raw: Any, lines: Mapping[Place, int]) -> RunFile:
    if not isinstance(raw, dict):
        raise InvalidRunFile(
            [Problem(path, lines.get((), None), "", _shown(raw), f"expected a {labels.KIND} object")]
        )
    problems: list[Problem] = []
    for name, value in (("apiVersion", labels.API_VERSION), ("kind", labels.KIND)):
        if raw.get(name) != value:
            found = _shown(raw[name]) if name in raw else "nothing"
            problems.append(Problem(path, lines.get((name,), 1), name, found, f"expected {value}"))
    known = _names(SelfRewardingRun, ())
    problems += [_unknown(path, lines, (name,), known) for name in raw.keys() - set(known)]
    metadata = _checked(path, lines, "metadata", raw, problems)
    spec = _checked(path, lines, "spec", raw, problems)
    if problems:
        raise InvalidRunFile(sorted(problems, key=lambda problem: problem.line or 0))
    assert isinstance(metadata, ObjectMeta)  # noqa: S101 - narrowed: no problems means both were read
    assert isinstance(spec, SelfRewardingRunSpec)  # noqa: S101
    return RunFile(path, raw, metadata, spec)


def _checked(
    path: str, lines: Mapping[Place, int], name: str, raw: Mapping[str, Any], problems: list[Problem]
) -> BaseModel | None:
    block = raw.get(name)
    if not isinstance(block, dict):
        found = _shown(block) if name in raw else "nothing"
        problems.append(Problem(path, lines.get((name,), 1), name, found, "expected a block of fields"))
        return None
    model = ObjectMeta if name == "metadata" else SelfRewardingRunSpec
    try:
        if name == "metadata":
            return ObjectMeta.model_validate(block)
        return effective(block)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += _joined([_problem(path, lines, name, detail, model) for detail in details])
        return None


def _joined(problems: Sequence[Problem]) -> list[Problem]:
    """The branches of a union complain each for itself: one problem a field, joined by «or»."""
    joined: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        place = (problem.field, problem.found)
        before = joined.get(place)
        if before is None or not problem.found:
            joined[place if problem.found else (problem.field, problem.expected)] = problem
            continue
        expected = f"{before.expected} or {problem.expected.removeprefix('expected ')}"
        joined[place] = dataclasses.replace(before, expected=expected)
    return list(joined.values())


def _problem(
    path: str, lines: Mapping[Place, int], block: str, detail: Mapping[str, Any], model: type[BaseModel]
) -> Problem:
    at: Place = (block, *_location(model, detail["loc"]))
    line = _line(lines, at)
    kind, value, context = detail["type"], detail.get("input"), detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(path, lines, at, _names(model, at[1:-1]))
    if kind == "missing":
        return Problem(path, line, dotted(at), "nothing", "this field is required")
    if kind == "value_error":
        return Problem(path, line, dotted(at), "", str(context.get("error", detail["msg"])))
    if kind == "literal_error":
        expected = f"expected {context['expected']}"
        if at[1:] == ("preset",):
            expected = f"expected one of {', '.join(sorted(PRESETS))}"
        near = _nearest(str(value), re.findall(r"'([^']*)'", str(context["expected"])))
        return Problem(
            path, line, dotted(at), _shown(value), expected + (f"; did you mean {near}?" if near else "")
        )
    if kind == "string_pattern_mismatch":
        return Problem(
            path, line, dotted(at), _shown(value), f"expected a text like {_likeness(context['pattern'])}"
        )
    message = detail["msg"].replace("Input should be", "expected")
    for theirs, ours in _KINDS.items():
        message = message.replace(theirs, ours)
    return Problem(path, line, dotted(at), _shown(value), message)


def _unknown(path: str, lines: Mapping[Place, int], at: Place, names: Sequence[str]) -> Problem:
    near = _nearest(str(at[-1]), names)
    expected = f"did you mean {near}?" if near else f"this block knows {', '.join(sorted(names))}"
    return Problem(path, _line(lines, at), dotted(at), "an unknown field", expected)


def _nearest(word: str, names: Sequence[str]) -> str | None:
    lowered = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower().replace("_", ""), list(lowered), n=1, cutoff=0.6)
    return lowered[close[0]] if close else None


def _names(model: type[BaseModel], at: Sequence[str | int]) -> list[str]:
    """The fields of the block at a place."""
    for part in at:
        inner = _field_model(model, part) if isinstance(part, str) else model
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _field(model: type[BaseModel], alias: str) -> FieldInfo | None:
    return next((field for name, field in model.model_fields.items() if alias in (name, field.alias)), None)


def _field_model(model: type[BaseModel], alias: str) -> type[BaseModel] | None:
    """The block that a field holds, alone or in a list."""
    field = _field(model, alias)
    waiting: list[Any] = [field.annotation] if field else []
    while waiting:
        candidate = waiting.pop()
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
        waiting += typing.get_args(candidate)
    return None


def _location(model: type[BaseModel], loc: Sequence[str | int]) -> Place:
    """pydantic's place without the names of a union's branches, which are no fields."""
    result: list[str | int] = []
    current: type[BaseModel] | None = model
    free = False  # inside a field whose names are the user's own
    for part in loc:
        if isinstance(part, int) or free:
            result.append(part)
        elif current is not None:
            field = _field(current, part)
            result.append(part)
            free = field is not None and "dict[" in str(field.annotation)
            current = _field_model(current, part)
    return tuple(result)


def _line(lines: Mapping[Place, int], at: Place) -> int | None:
    """The line of a field, or of the nearest block around it."""
    for length in range(len(at), -1, -1):
        if at[:length] in lines:
            return lines[at[:length]]
    return None


def dotted(at: Place) -> str:
    """A place as people write it: spec.dpo.loss[1]."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)
    return text.removeprefix(".")


def _likeness(pattern: str) -> str:
    if pattern == HTTP_PATTERN:
        return "https://host/path, without user, password or query (what is secret belongs into a Secret)"
    schemes = re.fullmatch(r"\^\((.+)\)://\.\+\$", pattern)
    if schemes:
        return " or ".join(f"{scheme}://bucket/path" for scheme in schemes[1].split("|"))
    return pattern


def _shown(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            shown = without_user_info(value)[:_SHOWN]
            text = "".join(char if char.isprintable() else "·" for char in shown)
            return f'"{text}…"' if len(value) > _SHOWN else f'"{text}"'
        case dict():
            return "a block of fields"
        case list():
            return f"a list of {len(value)}"
        case _:
            return str(value)[:_SHOWN]
