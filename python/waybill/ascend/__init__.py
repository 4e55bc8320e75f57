"""Runs scripts that were written for the accelerator (torch_npu) on CPUs: docs/ascend.md.

    python -m waybill.ascend script.py [arguments]

torch calls install() by itself in every interpreter that has the folder site.egg on PYTHONPATH: it
looks for entry points "torch.backends". So processes that a script starts have everything, too.
"""

from __future__ import annotations

import sys
from threading import Lock

_lock = Lock()
_installed = False

__all__ = ["install"]


def install() -> None:
    """Make torch_npu, torchair and the device "npu" work in this process and in its children.

    Cannot be undone. Processes started later get it through PYTHONPATH. Further calls do nothing.
    """
    global _installed
    with _lock:
        if _installed:
            return
        _installed = True
        # Called at the end of `import torch`, maybe from within `import waybill`: nothing here may
        # need the names of the package waybill before they are used.
        from . import compilers, device, hccl, launch, npu, stubs, torch_npu, torchair

        launch.prepare_children()
        device.install(npu)
        compilers.install()
        hccl.install()
        sys.modules["torch_npu"] = torch_npu
        sys.modules["torch_npu.npu"] = npu
        sys.modules["torchair"] = torchair
        torch_npu.link()
        stubs.install()
