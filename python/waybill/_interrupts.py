"""Ctrl-C while an operator waits.

The library asks `check` from waits on the main thread. It runs the signal handlers that are due and
keeps what they raise; the wait ends, the operator fails, and whoever called it raises that.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator

Check = ctypes.CFUNCTYPE(ctypes.c_int)

_pending: list[BaseException] = []


def _run_handlers() -> Generator[int, None, None]:
    # A generator, not a function: Python runs handlers as it enters a function, before any `try`
    # in it, but resumes a generator inside the `try` it was left in.
    raised = 0
    while True:
        try:
            yield raised
            ctypes.pythonapi.PyErr_CheckSignals()
            raised = 0
        except GeneratorExit:
            return
        except BaseException as error:  # KeyboardInterrupt, SystemExit, whatever a handler raises
            _pending[:] = [error]
            raised = 1


_handlers = _run_handlers()
next(_handlers)
check = Check(_handlers.__next__)


def raise_pending() -> None:
    """Raises what a signal handler raised in the last wait, if one did."""
    if _pending:
        raise _pending.pop()


def forget() -> None:
    """In a forked child: what was raised in the parent is not the child's."""
    _pending.clear()
