"""The oracle: every operator of the contract in plain PyTorch, for all ranks at once.

A function here has the name and the arguments of an operator, with three differences:

- every Tensor argument is a list with one entry per rank. The index is ep_rank_id, with TP = 2 it
  is 2 * ep_rank_id + tp_rank_id. An optional argument may be None altogether or on single ranks;
  ranks that elastic_info removed have None everywhere;
- what all ranks share (`ep_world_size`, `quant_mode`, ...) is a keyword with the operator's
  default. Group names and rank ids do not exist;
- the result is a list over ranks: of NamedTuples when the operator has several outputs, of tensors
  when it has one, and None for removed ranks. Outputs have the full shape of the contract, and 0
  wherever it specifies nothing.

It is written to be read, and every other back end must give the same bits. It checks only what
keeps it from computing nonsense; the messages of bad arguments are not its business. Tensors are on
the CPU.
"""

from ._numerics import (
    comm_quantize_round_trip,
    exp_f32,
    quantize_rows,
    softmax_pair,
    sum_over_h,
)
from .add_rms_norm import AddRmsNormOutput, npu_moe_distribute_combine_add_rms_norm
from .barrier import _npu_distribute_barrier
from .combine import npu_moe_distribute_combine, npu_moe_distribute_combine_v2
from .dispatch import (
    DispatchOutput,
    DispatchV2Output,
    npu_moe_distribute_dispatch,
    npu_moe_distribute_dispatch_v2,
)
from .setup import (
    CombineSetupOutput,
    DispatchSetupOutput,
    DispatchTeardownOutput,
    npu_moe_distribute_combine_setup,
    npu_moe_distribute_combine_teardown,
    npu_moe_distribute_dispatch_setup,
    npu_moe_distribute_dispatch_teardown,
)
from .update_expert import (
    UpdateExpertOutput,
    npu_moe_eplb_update_expert,
    npu_moe_update_expert,
)

__all__ = [
    "AddRmsNormOutput",
    "CombineSetupOutput",
    "DispatchOutput",
    "DispatchSetupOutput",
    "DispatchTeardownOutput",
    "DispatchV2Output",
    "UpdateExpertOutput",
    "_npu_distribute_barrier",
    "comm_quantize_round_trip",
    "exp_f32",
    "npu_moe_distribute_combine",
    "npu_moe_distribute_combine_add_rms_norm",
    "npu_moe_distribute_combine_setup",
    "npu_moe_distribute_combine_teardown",
    "npu_moe_distribute_combine_v2",
    "npu_moe_distribute_dispatch",
    "npu_moe_distribute_dispatch_setup",
    "npu_moe_distribute_dispatch_teardown",
    "npu_moe_distribute_dispatch_v2",
    "npu_moe_eplb_update_expert",
    "npu_moe_update_expert",
    "quantize_rows",
    "softmax_pair",
    "sum_over_h",
]
