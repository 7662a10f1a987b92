"""`srr crd`: the CustomResourceDefinition on standard output."""


def crd_command() -> None:
    """Print the CustomResourceDefinition: `srr crd | kubectl apply --server-side -f -`."""
    from selfrewarding.api.crd import crd_yaml

    print(crd_yaml(), end="")
