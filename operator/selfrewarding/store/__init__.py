"""Where artifacts live: one port, `ArtifactStore`, over a folder and an S3 bucket.

Purpose: the only door to buckets and artifact folders for stage programs, the local backend and the commands.
Must not: know about stages, keys of stages or results (that is `contract`); import boto3 until S3 is opened.
Start reading at `protocol`, then `locate`.
"""

from selfrewarding.store.chunks import ChunkLog, ReadCounts, Row, read_chunks, read_rows
from selfrewarding.store.digests import FileDigest, digest_bytes, digest_file
from selfrewarding.store.errors import (
    Corrupt,
    Denied,
    Misconfigured,
    NoSpace,
    NotFound,
    StoreError,
    Unavailable,
    Unsuitable,
)
from selfrewarding.store.hub import fetch_model
from selfrewarding.store.locate import open_store
from selfrewarding.store.protocol import ArtifactStore, Entry, Stat

__all__ = [
    "ArtifactStore",
    "ChunkLog",
    "Corrupt",
    "Denied",
    "Entry",
    "FileDigest",
    "Misconfigured",
    "NoSpace",
    "NotFound",
    "ReadCounts",
    "Row",
    "Stat",
    "StoreError",
    "Unavailable",
    "Unsuitable",
    "digest_bytes",
    "digest_file",
    "fetch_model",
    "open_store",
    "read_chunks",
    "read_rows",
]
