"""Every operator of the family under torch.compile and torch.export: bits, number and order of
eager calls; saved programs in another process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from compiled_layers import CALLS, NUM_UNUSED, compare, load_and_run, save, unused_and_equal
from ranks import RankPool

PoolOf = Callable[..., RankPool]
FORMS = ["v1", "norm", "setup"]
TIMEOUT = 120.0


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("namespace", ["waybill", "torch.ops"])
@pytest.mark.parametrize("form", FORMS)
def test_compiled_is_as_eager(pool_of: PoolOf, form: str, namespace: str, backend: str) -> None:
    for found in pool_of(2).run(compare, form, namespace, backend, timeout=TIMEOUT):
        assert found == [(True, CALLS)] * 2


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_calls_keep_number_and_order(pool_of: PoolOf, backend: str) -> None:
    for found in pool_of(2).run(unused_and_equal, backend, timeout=TIMEOUT):
        assert found == (NUM_UNUSED, NUM_UNUSED, True)


@pytest.mark.parametrize("namespace", ["waybill", "torch.ops"])
@pytest.mark.parametrize("form", FORMS)
def test_saved_program(pool_of: PoolOf, tmp_path: Path, form: str, namespace: str) -> None:
    here = pool_of(2)
    wanted = here.run(save, form, namespace, str(tmp_path), timeout=TIMEOUT)
    elsewhere = pool_of(2, process_group=True, connected=False)
    got = elsewhere.run(load_and_run, here.name, str(tmp_path), timeout=TIMEOUT)
    assert all(torch.equal(*pair) for pair in zip(got, wanted, strict=True))
