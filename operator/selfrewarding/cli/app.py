"""`srr`: the command line.

Each command is a module of this package; what it needs is imported when it runs, so that `srr --help` is quick.
Exit codes: 0 done, 1 a failed run, 2 bad input, 130 interrupted.
"""

import sys

import typer

from selfrewarding.cli import data, export
from selfrewarding.cli.approve import approve_command
from selfrewarding.cli.crd import crd_command
from selfrewarding.cli.explain import explain_command
from selfrewarding.cli.local import local_command
from selfrewarding.cli.models import models_command
from selfrewarding.cli.operator import operator_command
from selfrewarding.cli.plan import plan_command
from selfrewarding.cli.render import render_command
from selfrewarding.cli.report import report_command
from selfrewarding.cli.status import status_command
from selfrewarding.cli.trace import trace_command
from selfrewarding.cli.validate import validate_command

BAD_INPUT = 2

app = typer.Typer(
    name="srr",
    help="Self-Rewarding Language Models (arXiv 2401.10020): check, plan and run a SelfRewardingRun.\n\n"
    "Start with `srr validate run.yaml`, look at `srr plan -f run.yaml`, then `kubectl apply -f run.yaml`, or "
    "`srr local -f run.yaml` to run the same file on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("validate")(validate_command)
app.command("plan")(plan_command)
app.command("render")(render_command)
app.command("local")(local_command)
app.command("status")(status_command)
app.command("models")(models_command)
app.command("approve")(approve_command)
app.command("explain")(explain_command)
app.command("trace")(trace_command)
app.command("report")(report_command)
app.command("crd")(crd_command)
app.command("operator")(operator_command)
app.add_typer(data.app, name="data")
app.add_typer(export.app, name="export")


def main() -> None:
    """The console script: bad input is one message and exit code 2, never a traceback."""
    try:
        app()
    except Exception as error:
        if not _is_bad_input(error):
            raise
        typer.echo(str(error), err=True)
        sys.exit(BAD_INPUT)


def _is_bad_input(error: Exception) -> bool:
    from selfrewarding.cli.run_file import InvalidRunFile
    from selfrewarding.data.errors import DataError

    return isinstance(error, InvalidRunFile | DataError)
