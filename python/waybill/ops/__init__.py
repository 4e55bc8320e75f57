"""The operators: the names, arguments and results of the vendor's."""

from __future__ import annotations

from .. import fakes, operators

for _operator in operators.OPERATORS:
    operators.register(_operator)
    fakes.register(_operator)

from . import barrier, combine, dispatch, experts, setup  # noqa: E402
from .barrier import *  # noqa: E402, F403
from .combine import *  # noqa: E402, F403
from .dispatch import *  # noqa: E402, F403
from .experts import *  # noqa: E402, F403
from .setup import *  # noqa: E402, F403

__all__: list[str] = []
__all__ += barrier.__all__
__all__ += combine.__all__
__all__ += dispatch.__all__
__all__ += experts.__all__
__all__ += setup.__all__

for _operator in operators.OPERATORS:
    if _operator.name not in __all__:
        raise ImportError(f"waybill: expected a function for {_operator.name}, got none in ops")
