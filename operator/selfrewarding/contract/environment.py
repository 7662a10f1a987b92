"""Names of the environment variables of pods. Programs take every path, address and termination file from these; the
local backend rewrites these and nothing else."""

CONFIG = "SRR_STAGE_CONFIG"
"""File with the StageConfig or ServeConfig."""
SCRATCH = "SRR_SCRATCH"
"""Folder for temporary files (emptyDir)."""
TERMINATION = "SRR_TERMINATION_LOG"
"""File for the termination message."""
POD_UID = "SRR_POD_UID"
"""UID of the pod: names the folder that it writes under."""
ATTEMPT = "SRR_ATTEMPT"
"""Number of the stage's attempt, from 1."""
SHARD = "JOB_COMPLETION_INDEX"
"""Index of a pod of an Indexed Job (set by Kubernetes)."""
RENDEZVOUS_ADDRESS = "PET_MASTER_ADDR"
"""Host of a training job's rank 0 (torchrun's variable for --master-addr, as those below are for its other flags)."""
RENDEZVOUS_PORT = "PET_MASTER_PORT"
"""Port on which rank 0 waits for the others."""
NODE_RANK = "PET_NODE_RANK"
"""Number of a training job's pod, from 0."""
SERVER_URL = {
    "policy": "SRR_POLICY_URL",
    "judge": "SRR_JUDGE_URL",
    "writer": "SRR_WRITER_URL",
    "referee": "SRR_REFEREE_URL",
}
"""Addresses of the servers by role: `http://name:port`, where the name resolves to all replicas (headless Service), or
several such addresses with commas between."""
WRITER_API_KEY = "SRR_WRITER_API_KEY"
"""Bearer token for an external prompt writer (from a Secret)."""
REFEREE_API_KEY = "SRR_REFEREE_API_KEY"
"""Bearer token for an external judge of comparisons (from a Secret)."""
MODEL_DIR = "SRR_MODEL_DIR"
"""Serving pods: folder that the init container copies the model to and vLLM reads."""
MODEL_LOAD = "SRR_MODEL_LOAD"
"""Serving pods, init container: Copy (all files go to SRR_MODEL_DIR), or Streamer (all but the weights)."""
SERVER_CONFIG = "SRR_SERVER_CONFIG"
"""Serving pods: YAML file that the init container writes for vLLM's `--config`. `api-key:` is the key that the server asks
for, where the run's pods share a secret (see `server_key`). With Streamer, `model:` is the s3:// folder of the weights,
which only the model's result.json names."""
RETIRE = "SRR_RETIRE"
"""The Job that clears a deleted run's artifacts away: its RetireConfig as JSON. Not a file: a ConfigMap would have to be
cleared away too, by nobody."""
METRICS_PORT = "SRR_METRICS_PORT"
"""Stage programs: port on which they answer Prometheus; absent: they do not."""
HOST = "SRR_HOST"
"""Serving pods: address to listen on."""
PORT = "SRR_PORT"
"""Serving pods: port to listen on."""
S3_ENDPOINT = "SRR_S3_ENDPOINT"
"""Address of the S3 server; `file:///dir` makes `s3://bucket/key` the file dir/bucket/key (local backend)."""
S3_ADDRESSING = "SRR_S3_ADDRESSING"
"""auto, path or virtual."""
"""Credentials come by boto3's own names: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, and
AWS_CA_BUNDLE for the certificate authority."""
