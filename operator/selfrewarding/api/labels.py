"""Names that objects of ours carry in a cluster: group, labels, annotations, finalizer, field manager."""

GROUP = "selfrewarding.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "SelfRewardingRun"
PLURAL = "selfrewardingruns"
SINGULAR = "selfrewardingrun"
SHORT_NAME = "srr"

FIELD_MANAGER = "selfrewarding-operator"
FINALIZER = f"{GROUP}/finalizer"

MANAGED_BY = "app.kubernetes.io/managed-by"
RUN = f"{GROUP}/run"
STAGE = f"{GROUP}/stage"
ITERATION = f"{GROUP}/iteration"
ATTEMPT = f"{GROUP}/attempt"
KEY = f"{GROUP}/key"
"""First 16 hex digits of the stage key (or of the model key, for a serving pool)."""
HOLDER = f"{GROUP}/holder"
"""On pods of a serving pool: `<model key, 16 hex digits>-<pool>`; Services select by it."""
ARTIFACT = f"{GROUP}/artifact"
"""Hash of (artifacts URI, stage key): finds a child of another run that computes the same result."""
RUN_UID = f"{GROUP}/run-uid"
"""On the Job that clears a deleted run's artifacts away, in place of an owner: it must outlive what is deleted with the
run (with foreground deletion Kubernetes deletes all that the run owns at once)."""

APPROVE = f"{GROUP}/approve"
"""Annotation by which a person lets a gate that holds go on: the number of the iteration, or that number, a slash and the
digest of the model that was looked at (`srr approve`): another model that an edit makes in its place is held again then."""
PAUSE = f"{GROUP}/reconcile"
"""Annotation `disabled`: the operator leaves this run alone."""
