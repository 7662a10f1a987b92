"""The key that a run's servers ask of those who question them, derived by each pod on its own.

A serving pod and the pods that ask it hold the same credentials of the artifact store (the user's Secret, as environment
variables). From the secret access key, the run's UID and the served model's name both derive the same bearer token, so
nobody hands one out: the operator, which reads no Secret, never knows it, and it stands in no manifest. HMAC (RFC 2104)
is one-way: the token tells nothing about the credentials, and those of two pools or runs tell nothing about each other.

Where pods share no secret (an identity by ServiceAccount, a folder) there is no key: the pool's NetworkPolicy stands
alone. It is needed in any case, since vLLM guards only its /v1 routes and the like with a key.

Must not: read the environment (it is handed in); let a key into a log, a message or an artifact.
Neighbours: the init container writes the key into vLLM's configuration file, the sampler sends it as bearer token.
"""

import hashlib
import hmac
from collections.abc import Mapping

_CONTEXT = "selfrewarding.dev/server-key/1"
_SECRET = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the name of a variable


def server_key(env: Mapping[str, str], *, run_uid: str, served_name: str) -> str | None:
    """64 hex digits, or None where the pods of the run share no secret.

    `served_name` contains the model key and the pool (survival rule 7), so no two pools have the same key.
    """
    secret = env.get(_SECRET, "")
    if not secret:
        return None
    message = "\x1f".join((_CONTEXT, run_uid, served_name))
    return hmac.new(secret.encode(), message.encode(), hashlib.sha256).hexdigest()
