"""`srr render`: the Kubernetes objects of a run, as the operator would create them."""

from typing import Annotated

import typer

from selfrewarding.contract.stages import StageKind


def render_command(
    file: Annotated[str, typer.Option("--file", "-f", help="Run file (YAML); - is standard input.")],
    stage: Annotated[StageKind | None, typer.Option(help="Only this kind of stage.")] = None,
    iteration: Annotated[int | None, typer.Option(help="Only this iteration.")] = None,
) -> None:
    """Print the objects of every stage and serving pool as YAML, in the order in which they are created.

    What is only known while the run goes on is made up, alike each time: the run's UID, and the digests from which the
    stage keys and thus parts of the names come.

    Example: srr render -f run.yaml --stage PreferenceOptimize --iteration 2
    """
    import yaml

    from selfrewarding.cli.run_file import InvalidRunFile, Problem, read_run_file
    from selfrewarding.cli.sketch import sketch
    from selfrewarding.manifests import ManifestError, holder_objects, stage_objects

    run = read_run_file(file)
    context, stages = sketch(run)
    chosen = [
        one
        for one in stages
        if (stage is None or one.kind == stage) and (iteration is None or one.iteration == iteration)
    ]
    if not chosen:
        known = ", ".join(f"{one.kind} {one.iteration}" for one in stages)
        raise InvalidRunFile([Problem(file, None, "", "no such stage", f"this run has {known}")])
    held: set[str] = set()
    documents = []
    try:
        for one in chosen:
            for holder in one.holders.values():
                if holder.name not in held:
                    held.add(holder.name)
                    documents += holder_objects(context, holder, one.iteration, 1)
            documents += stage_objects(context, one, 1)
    except ManifestError as error:
        raise InvalidRunFile([Problem(file, None, "spec", "", str(error))]) from error
    typer.echo(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=120), nl=False)
