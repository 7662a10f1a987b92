"""Which of the namespaces that the operator is to serve let it watch what it must.

Must not: do anything about those that do not. Neighbour: `starts` leaves them out, and asks again.
"""

import asyncio
from collections.abc import Collection, Sequence

from selfrewarding.cluster.calls import Call, Calls
from selfrewarding.cluster.kinds import Resource
from selfrewarding.cluster.protocol import Forbidden


async def missing_rights(
    calls: Calls, namespaces: Sequence[str], resources: Collection[Resource]
) -> dict[str, str]:
    """By namespace, what the API server says to the first list that it refuses; served ones are left out.

    Asked by the list itself: whatever decides about it (RBAC, a webhook) decides here too. Raises ClusterError for any
    other failure.
    """
    found = await asyncio.gather(*(_refused(calls, one, resources) for one in namespaces))
    return {one: said for one, said in zip(namespaces, found, strict=True) if said is not None}


async def _refused(calls: Calls, namespace: str, resources: Collection[Resource]) -> str | None:
    for resource in resources:
        try:
            await calls.ask(Call(verb="list", resource=resource, namespace=namespace, query={"limit": "1"}))
        except Forbidden as error:
            return str(error)
    return None
