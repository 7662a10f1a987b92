"""`srr local`: run a SelfRewardingRun on this machine, without a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from selfrewarding.contract.stages import StageKind


def local_command(
    file: Annotated[str, typer.Option("--file", "-f", help="Run file (YAML).")],
    artifacts: Annotated[
        Path,
        typer.Option(
            help="Folder for artifacts: s3://bucket/key in the file is DIR/bucket/key.", metavar="DIR"
        ),
    ] = Path("artifacts"),
    until: Annotated[
        StageKind | None, typer.Option(help="Stop after this kind of stage, of the iteration under way.")
    ] = None,
    s3: Annotated[
        bool,
        typer.Option("--s3", help="Use the real S3 of the file, with the AWS_ settings of your environment."),
    ] = False,
) -> None:
    """Run a SelfRewardingRun on this machine: the cluster's objects become processes.

    The same command goes on where it stopped, after Ctrl-C as well as after a crash: finished stages and rows are kept.
    Edit the file in between, and what depends on the edited fields is computed again.

    Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted.

    Example: srr local -f crds/examples/quickstart.yaml
    """
    import logging
    import os
    import shlex

    from rich.console import Console

    from selfrewarding.cli.run_file import read_run_file
    from selfrewarding.local.display import open_display
    from selfrewarding.local.driver import LocalRun, run_local
    from selfrewarding.local.errors import LocalError
    from selfrewarding.local.outcome import tell

    run = read_run_file(file)
    console = Console()
    if not console.is_terminal:
        console = Console(width=int(os.environ.get("COLUMNS", "120")))
    asked = LocalRun(
        raw=run.raw, spec=run.spec, artifacts=artifacts, user_env=os.environ, until=until, real_s3=s3
    )
    command = ["srr", "local", "-f", file]
    command += [] if artifacts == Path("artifacts") else ["--artifacts", str(artifacts)]
    command += ["--s3"] if s3 else []
    if until is StageKind.RESOLVE:
        what = "Resolve comes again whenever it is needed: name another kind"
        raise typer.BadParameter(what, param_hint="--until")
    try:
        asked.state.make()
        logging.basicConfig(
            filename=asked.state.root / "srr.log",
            level=logging.INFO,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        outcome = run_local(asked, lambda: open_display(console))
    except LocalError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    tell(outcome, console, shlex.join(command))
    raise typer.Exit(outcome.exit_code)
