"""`srr crd`: the CustomResourceDefinition on standard output."""

import typer


def crd_command() -> None:
    """Print the CustomResourceDefinition: `srr crd | kubectl apply --server-side -f -`."""
    from selfrewarding.api.crd import crd_yaml

    typer.echo(crd_yaml(), nl=False)
