"""`srr approve`: let a model go on that a gate holds, in a cluster or of `srr local`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from selfrewarding.api.run import ModelStatus

BAD_INPUT = 2


def approve_command(
    run: Annotated[str, typer.Argument(help="Name of the run.", metavar="RUN")],
    *,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Its namespace; absent: the current one.")
    ] = None,
    iteration: Annotated[
        int | None,
        typer.Option(help="The iteration that you have looked at; refused if another is held.", min=1),
    ] = None,
    artifacts: Annotated[
        Path | None, typer.Option(help="A run of `srr local` in this folder for artifacts.", metavar="DIR")
    ] = None,
) -> None:
    """Approve the model that the gate of a run holds, so that the next iteration starts from it.

    Look at it first: `srr models`, `srr report`. In a cluster this sets the annotation selfrewarding.dev/approve, by
    KUBECONFIG (or ~/.kube/config) and with your rights. With --artifacts, the next `srr local` goes on.
    Exit codes: 0 approved, 2 nothing is held, or no such run.

    Example: srr approve demo -n research --iteration 2
    """
    held, place = (
        _in_cluster(run, namespace, iteration)
        if artifacts is None
        else _of_local_run(run, namespace or "default", iteration, artifacts)
    )
    why = f" The gate had held it: {held.gate_message}" if held.gate_message else ""
    typer.echo(f"Approved {held.name} (iteration {held.iteration}) of {place}.{why}")
    if artifacts is not None:
        typer.echo(f"Go on with: srr local -f FILE --artifacts {artifacts}")


def _in_cluster(run: str, namespace: str | None, iteration: int | None) -> "tuple[ModelStatus, str]":
    import asyncio
    import os

    from selfrewarding.cluster.approval import approve, current_namespace
    from selfrewarding.cluster.client import NoCluster
    from selfrewarding.cluster.protocol import ClusterError
    from selfrewarding.plan.approval import NothingHeld

    named = os.environ.get("KUBECONFIG")
    kubeconfig = Path(named) if named else None
    where = namespace or current_namespace(kubeconfig)
    place = f"{where}/{run}"
    try:
        return asyncio.run(approve(where, run, iteration, kubeconfig=kubeconfig)), place
    except NothingHeld as error:
        raise _refusal(f"{place}: {error}") from None
    except NoCluster as error:
        raise _refusal(f"{error} For a run of `srr local`, give its folder: --artifacts DIR.") from None
    except ClusterError as error:
        raise _refusal(str(error)) from None


def _of_local_run(
    run: str, namespace: str, iteration: int | None, artifacts: Path
) -> "tuple[ModelStatus, str]":
    from selfrewarding.local.approval import approve_local
    from selfrewarding.local.errors import LocalError
    from selfrewarding.local.state import StateFolder
    from selfrewarding.plan.approval import NothingHeld

    place = f"{namespace}/{run}"
    try:
        return approve_local(StateFolder.of(artifacts, namespace, run), iteration), place
    except NothingHeld as error:
        raise _refusal(f"{place}: {error}") from None
    except LocalError as error:
        raise _refusal(str(error)) from None


def _refusal(message: str) -> typer.Exit:
    typer.echo(message, err=True)
    return typer.Exit(BAD_INPUT)
