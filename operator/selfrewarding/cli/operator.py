"""`srr operator`: the controller, in a cluster or beside one."""

import typer


def operator_command() -> None:
    """Serve SelfRewardingRuns of a cluster until SIGTERM. It is configured by environment variables.

    The cluster: KUBECONFIG, else the pod's service account, else ~/.kube/config.

    \b
    SRR_NAMESPACES         namespaces to serve, by commas       (all)
    SRR_TRAINER_IMAGE      image of the training stages         (this release's)
    SRR_SAMPLER_IMAGE      image of all other stages            (this release's)
    SRR_VLLM_IMAGE         image of vLLM on GPUs                (the tested one)
    SRR_VLLM_CPU_IMAGE     image of vLLM without GPUs           (this release's)
    SRR_LEADER_ELECTION    replicas agree by a Lease            (true)
    SRR_LEASE_NAMESPACE    where the Lease is                   (the pod's own)
    SRR_LEASE_NAME         its name                             (selfrewarding-operator)
    SRR_POD_NAME           who this process is                  (the host's name)
    SRR_HEALTH_PORT        /healthz and /readyz                 (8080)
    SRR_METRICS_PORT       /metrics for Prometheus              (9090)
    SRR_LOG_FORMAT         json or text                         (json)
    SRR_LOG_LEVEL          DEBUG, INFO, WARNING or ERROR        (INFO)
    SRR_PASS_CONCURRENCY   runs looked at at the same time      (8)

    Exit codes: 0 stopped, 2 bad settings, 70 the Lease was lost (another replica goes on).

    Example: KUBECONFIG=~/.kube/config SRR_LEADER_ELECTION=false SRR_LOG_FORMAT=text srr operator
    """
    from selfrewarding.cluster.client import NoCluster
    from selfrewarding.controller.app import run_operator
    from selfrewarding.controller.settings import InvalidSettings, read_settings

    try:
        run_operator(read_settings())
    except (InvalidSettings, NoCluster) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
