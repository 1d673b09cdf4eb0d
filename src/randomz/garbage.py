"""When not to look for garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Nothing is collected meanwhile; what was made is passed over for good afterwards, as what modules hold may be."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
