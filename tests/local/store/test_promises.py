"""What every artifact store promises, kept by real S3 servers: the tests of tests/unit/store, which ask it of a folder.

`place`, `store` and `tree` are this folder's fixtures here.
"""

# ruff: noqa: F403 - whatever is asked of a folder is asked of S3: a list of names would leave the next one out
from tests.unit.store.test_references import *
from tests.unit.store.test_store_chunks import *
from tests.unit.store.test_store_models import test_a_model_in_a_store  # noqa: F401
from tests.unit.store.test_store_port import *
