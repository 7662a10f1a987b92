"""Seeds of random choices: the same run seed, stage, row and sample give the same number, on any machine."""

import hashlib

_RANGE = 2**31


def derive_seed(run_seed: int, stage_key: str, row_key: str, sample: int = 0, *, spacing: int = 1) -> int:
    """A seed in [0, 2**31) that is a multiple of `spacing`.

    vLLM gives the i-th of n samples of one request the seed `seed + i`, so requests with n samples need seeds that lie n
    apart, else neighbouring rows share samples (number rule 13).
    """
    text = f"{run_seed}\x1f{stage_key}\x1f{row_key}\x1f{sample}".encode()
    number = int.from_bytes(hashlib.sha256(text).digest()[:8], "big")
    return number % (_RANGE // spacing) * spacing
