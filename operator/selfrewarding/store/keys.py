"""The rules for keys, so that every key means the same object in a bucket and in a folder.

Purpose: check keys and prefixes before they reach a disk or a bucket; a key can never lead out of its store.
Must not: touch a store.
Neighbours: used by both adapters, by `local_tree` for relative paths, and by `atomic` for the names it reserves.
"""

from selfrewarding.store.errors import Misconfigured

TEMPORARY = ".srr-tmp-"
"""Names that start so are unfinished writes: no listing shows them and no key may use them."""

MAX_KEY_BYTES = 1024
"""S3's limit for a whole key, in bytes of UTF-8."""


def check_key(key: str) -> str:
    """Return `key` unchanged, or raise Misconfigured: parts joined by "/", none empty, "." or ".."."""
    problem = _problem(key)
    if problem is not None:
        raise Misconfigured(f"bad artifact key {key!r}: {problem}.")
    return key


def check_prefix(prefix: str) -> str:
    """Like `check_key`, but "" (everything) is allowed and one "/" at the end is dropped."""
    stripped = prefix.removesuffix("/")
    return check_key(stripped) if stripped else ""


def join(prefix: str, key: str) -> str:
    """Put `key` below `prefix`; either may be ""."""
    return f"{prefix}/{key}" if prefix and key else prefix or key


def _problem(key: str) -> str | None:
    if not key:
        return "it is empty"
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if len(encoded) > MAX_KEY_BYTES:
        return f"it has {len(encoded)} bytes, at most {MAX_KEY_BYTES} are allowed"
    if any(ord(char) < 32 or ord(char) == 127 for char in key):
        return "it holds a control character"
    if "\\" in key:
        return "it holds a backslash"
    for part in key.split("/"):
        if part in {"", ".", ".."}:
            return f"the part {part!r} between slashes is not allowed"
        if part.startswith(TEMPORARY):
            return f"names that start with {TEMPORARY!r} are reserved for unfinished writes"
    return None
