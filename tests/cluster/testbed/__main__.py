"""The test cluster's command: `python -m tests.cluster.testbed build|missing|up|images|down|status|restart`."""

import argparse
import sys

from tests.cluster.testbed import binaries, cluster, handle
from tests.cluster.testbed.binaries import BuildError
from tests.cluster.testbed.handle import TestbedError


def main() -> int:
    """Run one command; 0 if it succeeded, 1 with one line if not (status: if a part is not Ready)."""
    arguments = _parser().parse_args()
    try:
        return int(_COMMANDS[arguments.command](arguments))
    except (TestbedError, BuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _build(arguments: argparse.Namespace) -> int:
    return 0 if binaries.build_all(arguments.parts, _say) else 1


def _missing(arguments: argparse.Namespace) -> int:
    del arguments
    reason = cluster.missing()
    _say(reason or "nothing is missing")
    return 1 if reason is None else 0


def _up(arguments: argparse.Namespace) -> int:
    found = cluster.up(
        arguments.name,
        node=not arguments.no_node,
        with_training_operator=not arguments.no_training_operator,
        say=_say,
    )
    _say(f"export KUBECONFIG={found.kubeconfig}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    cluster.down(arguments.name, purge=arguments.purge, say=_say)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    found = handle.load(arguments.name)
    if found is None:
        _say(f"cluster {arguments.name} is not up")
        return 1
    states = cluster.states(found)
    for part, reason in states.items():
        _say(f"{part:<28} {'Ready' if reason is None else f'not Ready: {reason}'}")
    _say(f"{'API server':<28} {found.api_server}")
    if found.node:
        _say(f"{'S3':<28} {found.s3_endpoint}  (keys: {found.s3_environment})")
        _say(f"{'host, as pods see it':<28} {found.host_address}")
        _say(f"{'containerd':<28} {found.containerd_socket}  (namespace k8s.io)")
    _say(f"{'logs':<28} {found.logs}")
    _say(f"export KUBECONFIG={found.kubeconfig}")
    return 1 if any(states.values()) else 0


def _restart(arguments: argparse.Namespace) -> int:
    found = handle.load(arguments.name)
    if found is None:
        raise TestbedError(f"cluster {arguments.name} is not up")
    seconds = cluster.restart_part(found, arguments.part, kill=arguments.kill)
    _say(f"{arguments.part:<28} {seconds:5.1f} s")
    return 0


def _images(arguments: argparse.Namespace) -> int:
    # The other commands run before the environment is installed, and beside its installation.
    from tests.cluster.testbed import images

    with cluster.lasting(arguments.name, with_training_operator=False, say=_say) as found:
        images.build(found, arguments.images, _say, base_name=arguments.base_image)
    return 0


_COMMANDS = {
    "build": _build,
    "missing": _missing,
    "up": _up,
    "images": _images,
    "down": _down,
    "status": _status,
    "restart": _restart,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.testbed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="default", help="several clusters live side by side by name")
    build = commands.add_parser("build", help="build what the cluster is made of, once for each version")
    build.add_argument(
        "parts", nargs="*", metavar="PART", help="default: all; `debian` for Debian's packages"
    )
    commands.add_parser("missing", help="say why no cluster can run here; fails if one can")
    up = commands.add_parser("up", parents=[named], help="start a cluster, or find that it runs")
    up.add_argument("--no-node", action="store_true", help="etcd, API server and controller manager alone")
    up.add_argument("--no-training-operator", action="store_true")
    image = commands.add_parser(
        "images",
        parents=[named],
        help="build the project's images into the cluster's store, as far as they changed",
    )
    image.add_argument("images", nargs="*", metavar="IMAGE", help="default: all")
    image.add_argument(
        "--base-image", help="an image that the store has; default: one made from Debian's packages"
    )
    down = commands.add_parser("down", parents=[named], help="stop it; images and logs stay")
    down.add_argument("--purge", action="store_true", help="remove images and logs, too")
    commands.add_parser("status", parents=[named], help="parts, addresses and KUBECONFIG")
    restart = commands.add_parser("restart", parents=[named], help="end one part and start it again")
    restart.add_argument("part", metavar="PART")
    restart.add_argument("--kill", action="store_true", help="end it by SIGKILL")
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
