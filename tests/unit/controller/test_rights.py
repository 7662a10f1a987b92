"""A namespace that does not let the operator list one of its kinds is left out, with what the API server said."""

from typing import Any, cast

import pytest

from selfrewarding.cluster.calls import Call, Calls
from selfrewarding.cluster.kinds import CHILDREN, POD, RUN
from selfrewarding.cluster.protocol import Forbidden, Unavailable
from selfrewarding.controller.rights import missing_rights

KINDS = [RUN, POD, CHILDREN["Job"]]


class Answers:
    """An API server that refuses certain lists."""

    def __init__(self, refused: dict[tuple[str, str], Exception]) -> None:
        self._refused = refused
        self.asked: list[tuple[str, str]] = []

    async def ask(self, call: Call) -> dict[str, Any]:
        assert (call.verb, call.query) == ("list", {"limit": "1"})
        place = (call.namespace, call.resource.plural)
        self.asked.append(place)
        if place in self._refused:
            raise self._refused[place]
        return {"items": []}


async def test_namespaces_are_told_apart_by_what_they_refuse() -> None:
    answers = Answers({("b", "pods"): Forbidden("may not list pods"), ("b", "jobs"): Forbidden("nor jobs")})
    lacks = await missing_rights(cast("Calls", answers), ["a", "b"], KINDS)
    assert lacks == {"b": "may not list pods"}
    assert [place for place in answers.asked if place[0] == "a"] == [("a", one.plural) for one in KINDS]


async def test_where_all_are_served_nothing_is_asked() -> None:
    answers = Answers({})
    assert await missing_rights(cast("Calls", answers), [], KINDS) == {}
    assert answers.asked == []


async def test_an_api_server_that_is_away_says_nothing_of_rights() -> None:
    answers = Answers({("a", "pods"): Unavailable("gone")})
    with pytest.raises(Unavailable):
        await missing_rights(cast("Calls", answers), ["a"], KINDS)
