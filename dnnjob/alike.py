"""Log records that every task of a run says in the same words, of which one is enough on a screen.

logger.warning("%s: %s", source, weakness, extra=ALIKE)
"""

import logging
from collections.abc import Mapping

ALIKE: Mapping[str, object] = {"is_alike": True}
"""`extra` of such a record."""


def is_alike(record: logging.LogRecord) -> bool:
    """Whether all tasks, the chief among them, say this."""
    return getattr(record, "is_alike", False)
