"""What happens to names outside the cover: an error that says so."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PAGE = "docs/ascend.md"
PACKAGES = ("torch_npu", "torchair")


def sentence(module: str, name: str) -> str:
    return (
        f"{module}.{name} is not covered: waybill.ascend has the operators for dispatch and "
        f"combine and what scripts around them need; {PAGE} lists it"
    )


def missing(module: str, name: str) -> AttributeError:
    return AttributeError(sentence(module, name), name=name)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package in PACKAGES and name:
            raise ModuleNotFoundError(sentence(package, name), name=fullname)
        return None


def install() -> None:
    sys.meta_path.append(_Finder())
