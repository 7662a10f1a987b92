"""Log lines of the whole process, in one form: our modules, kopf and the Kubernetes client log through the standard library.

A line that is written during a pass carries the run, and its stage once that is known. Must not: log what may hold a
secret; bodies of objects are logged nowhere. Neighbour: `loop` binds the run.
"""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import Processor

_QUIET = {
    "aiohttp.access": logging.WARNING,
    "asyncio": logging.WARNING,
    # Every failed try comes with a traceback there; `cluster.lease` says the same in a line.
    "kubernetes.aio.leaderelection": logging.CRITICAL,
    # "Handler … succeeded" for every event of every object.
    "kopf.objects": logging.WARNING,
}


def configure_logs(form: str, level: str, stream: TextIO | None = None) -> None:
    """Send all log records to standard error; `form` is json or text, `level` the lowest one that is shown."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(allow=()),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if form == "json":
        last += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    else:
        plain = structlog.dev.plain_traceback
        last.append(structlog.dev.ConsoleRenderer(colors=False, exception_formatter=plain, pad_event_to=0))
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, at_least in _QUIET.items():
        logging.getLogger(name).setLevel(max(at_least, root.level))
