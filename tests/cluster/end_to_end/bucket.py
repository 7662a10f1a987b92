"""The cluster's S3 server from outside: what a user uploads before a run, and what a run left behind.

Neighbours: `tests.support.small_run` reads a folder that `download` wrote as it reads that of a local run.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from tests.cluster.end_to_end.run_spec import DATA, MODELS, RUNS
from tests.cluster.testbed.handle import Cluster
from tests.support.small_run import REPOSITORY

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

SEEDS = ("instructions.jsonl", "ranked.jsonl")


def client(cluster: Cluster, endpoint: str | None = None) -> "S3Client":
    """A client with the keys of the cluster's S3 server, for that server or another one in front of its buckets."""
    settings = cluster.s3_settings()
    return boto3.client(
        "s3",
        endpoint_url=endpoint or cluster.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}),
    )


def fill(s3: "S3Client", model: Path) -> None:
    """Buckets, the base model, the seed rows: what a user has before the first run."""
    there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for bucket in {MODELS, DATA, RUNS} - there:
        s3.create_bucket(Bucket=bucket)
    for file in sorted(path for path in model.iterdir() if path.is_file()):
        s3.upload_file(str(file), MODELS, f"{model.name}/{file.name}")
    for name in SEEDS:
        s3.upload_file(str(REPOSITORY / "crds/examples/seeds" / name), DATA, f"quickstart/{name}")


def keys(s3: "S3Client", prefix: str) -> list[str]:
    """Keys of all objects in the bucket of runs below a prefix."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=RUNS, Prefix=prefix)
    return sorted(item["Key"] for page in pages for item in page.get("Contents", []))


def empty(s3: "S3Client", prefix: str) -> None:
    """Delete what an earlier test run left below a prefix."""
    for key in keys(s3, prefix):
        s3.delete_object(Bucket=RUNS, Key=key)


def download(s3: "S3Client", prefix: str, folder: Path) -> Path:
    """Copy a run's artifacts to where those of a local quickstart lie below `folder`; returns `folder`."""
    for key in keys(s3, f"{prefix}/"):
        target = folder / "runs/quickstart" / key.removeprefix(f"{prefix}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(RUNS, key, str(target))
    return folder
