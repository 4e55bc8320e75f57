"""Every family of operators on sixteen ranks, eagerly and as a graph, as the vendor's examples are.

    python -m waybill.ascend sixteen_ranks.py family...

It prints `PASS family mode` for what equals the oracle on all ranks.
"""

import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch_npu
import torchair

from waybill import reference

WORLD, BS, H, K, M = 16, 4, 256, 4, 32
COMMON = {"ep_world_size": WORLD, "moe_expert_num": M}


def make_inputs(rank):
    random = torch.Generator().manual_seed(rank)
    x = torch.randn(BS, H, generator=random).bfloat16()
    ids = torch.argsort(torch.rand(BS, M, generator=random), dim=1)[:, :K].int()
    return x, ids, torch.rand(BS, K, generator=random)


class Layer(torch.nn.Module):
    """What a model knows of its place."""

    def __init__(self, rank, ep_name, tp_name):
        super().__init__()
        self.ep = {"group_ep": ep_name, "ep_rank_id": rank, **COMMON}
        self.tp = {"group_tp": tp_name, "tp_world_size": 1, "tp_rank_id": 0}
        self.rank = rank
        self.name = ep_name


class V2(Layer):
    def forward(self, x, ids, scales):
        rows, _, triples, nums, counts, tp_counts, _ = torch_npu.npu_moe_distribute_dispatch_v2(
            x=x, expert_ids=ids, **self.ep, **self.tp
        )
        y = torch_npu.npu_moe_distribute_combine_v2(
            expand_x=rows,
            expert_ids=ids,
            assist_info_for_combine=triples,
            ep_send_counts=counts,
            expert_scales=scales,
            tp_send_counts=tp_counts,
            **self.ep,
            **self.tp,
        )
        return rows, nums, counts, y

    @staticmethod
    def oracle(xs, ids, scales):
        sent = reference.npu_moe_distribute_dispatch_v2(xs, ids, **COMMON)
        rows, triples, counts = (
            [getattr(out, name) for out in sent]
            for name in ("expand_x", "assist_info_for_combine", "ep_recv_counts")
        )
        y = reference.npu_moe_distribute_combine_v2(rows, ids, triples, counts, scales, **COMMON)
        return [(*trimmed(out), own) for out, own in zip(sent, y, strict=True)]


class OpsV2(V2):
    """The same through torch.ops.npu."""

    def forward(self, x, ids, scales):
        rows, _, triples, nums, counts, _, _ = torch.ops.npu.npu_moe_distribute_dispatch_v2(
            x, ids, **self.ep
        )
        y = torch.ops.npu.npu_moe_distribute_combine_v2.default(
            rows, ids, triples, counts, scales, **self.ep
        )
        return rows, nums, counts, y


class V1(Layer):
    def forward(self, x, ids, scales):
        rows, _, index, nums, counts, tp_counts, _ = torch_npu.npu_moe_distribute_dispatch(
            x=x, expert_ids=ids, **self.ep, **self.tp
        )
        y = torch_npu.npu_moe_distribute_combine(
            expand_x=rows,
            expert_ids=ids,
            expand_idx=index,
            ep_send_counts=counts,
            expert_scales=scales,
            tp_send_counts=tp_counts,
            **self.ep,
            **self.tp,
        )
        return rows, nums, counts, y

    oracle = V2.oracle


class AddRmsNorm(Layer):
    def forward(self, x, ids, scales):
        rows, _, triples, _, counts, _, _ = torch_npu.npu_moe_distribute_dispatch_v2(
            x, ids, **self.ep
        )
        residual = x.reshape(BS, 1, H) * 2
        gamma = torch.ones(H, dtype=x.dtype, device="npu")
        return torch_npu.npu_moe_distribute_combine_add_rms_norm(
            rows, ids, triples, counts, scales, residual, gamma, **self.ep
        )

    @staticmethod
    def oracle(xs, ids, scales):
        sent = reference.npu_moe_distribute_dispatch_v2(xs, ids, **COMMON)
        return reference.npu_moe_distribute_combine_add_rms_norm(
            [out.expand_x for out in sent],
            ids,
            [out.assist_info_for_combine for out in sent],
            [out.ep_recv_counts for out in sent],
            scales,
            [x.reshape(BS, 1, H) * 2 for x in xs],
            [torch.ones(H, dtype=x.dtype) for x in xs],
            **COMMON,
        )


class Setup(Layer):
    def forward(self, x, ids, scales):
        y, index, info = torch_npu.npu_moe_distribute_dispatch_setup(x, ids, **self.ep)
        rows, _, triples, nums = torch_npu.npu_moe_distribute_dispatch_teardown(
            x, y, ids, info, **self.ep
        )
        reserved, info = torch_npu.npu_moe_distribute_combine_setup(rows, ids, triples, **self.ep)
        combined = torch_npu.npu_moe_distribute_combine_teardown(
            rows, reserved, ids, index, scales, info, **self.ep
        )
        return rows, nums, combined

    @staticmethod
    def oracle(xs, ids, scales):
        return [(out[0], out[1], out[3]) for out in V2.oracle(xs, ids, scales)]


class UpdateExpert(Layer):
    def forward(self, x, ids, scales):
        place = {"local_rank_id": self.rank, "world_size": WORLD}
        table = make_table().npu()
        balanced, mask = torch_npu.npu_moe_update_expert(ids, table, **place)
        eplb = torch_npu.npu_moe_eplb_update_expert(ids, table, self.rank, WORLD)
        return balanced, mask, eplb

    @staticmethod
    def oracle(xs, ids, scales):
        tables = [make_table()] * WORLD
        both = reference.npu_moe_update_expert(ids, tables, world_size=WORLD)
        eplb = reference.npu_moe_eplb_update_expert(ids, tables, world_size=WORLD)
        return [(*out, own) for out, own in zip(both, eplb, strict=True)]


class Barrier(Layer):
    def forward(self, x, ids, scales):
        return (torch_npu._npu_distribute_barrier(x, self.name, WORLD),)

    @staticmethod
    def oracle(xs, ids, scales):
        return [(x,) for x in reference._npu_distribute_barrier(xs, world_size=WORLD)]


FAMILIES = {
    "v2": V2,
    "ops": OpsV2,
    "v1": V1,
    "add_rms_norm": AddRmsNorm,
    "setup": Setup,
    "update_expert": UpdateExpert,
    "barrier": Barrier,
}


def make_table():
    """Two instances of each expert."""
    table = torch.empty(M, 3, dtype=torch.int32)
    table[:, 0] = 2
    table[:, 1] = 2 * torch.arange(M)
    table[:, 2] = 2 * torch.arange(M) + 1
    return table


def trimmed(sent):
    """What the contract says of a dispatch."""
    return sent.expand_x[: sent.ep_recv_counts[-1]], sent.expert_token_nums, sent.ep_recv_counts


def check(got, expected):
    for one, other in zip(got, expected, strict=True):
        one = one.cpu()
        assert one.dtype == other.dtype
        assert torch.equal(one[: len(other)], other)


def run(rank, families, expected, port, queue):
    torch_npu.npu.set_device(rank)
    assert torch.npu.current_device() == rank
    dist.init_process_group(
        backend="hccl", rank=rank, world_size=WORLD, init_method=f"tcp://127.0.0.1:{port}"
    )
    ep_group = dist.new_group(backend="hccl", ranks=range(WORLD))
    tp_groups = [dist.new_group(backend="hccl", ranks=[own]) for own in range(WORLD)]
    ep_name = ep_group._get_backend(torch.device("npu")).get_hccl_comm_name(rank)
    tp_name = tp_groups[rank]._get_backend(torch.device("npu")).get_hccl_comm_name(rank)
    assert ep_name == ep_group.get_hccl_comm_name(rank) != tp_name

    npu_backend = torchair.get_npu_backend(compiler_config=torchair.CompilerConfig())
    inputs = [tensor.npu() for tensor in make_inputs(rank)]
    for family in families:
        model = FAMILIES[family](rank, ep_name, tp_name).npu()
        check(model(*inputs), expected[family][rank])
        queue.put((family, "eager"))
        graph = torch.compile(model, backend=npu_backend, dynamic=False, fullgraph=True)
        for _ in range(2):
            check(graph(*inputs), expected[family][rank])
        queue.put((family, "graph"))
    torch.npu.synchronize()
    dist.barrier()
    dist.destroy_process_group()


def main():
    import torch._dynamo  # before the processes fork, so that it is imported once

    families, port = sys.argv[2:], int(sys.argv[1])
    torch.set_num_threads(1)
    inputs = [list(tensors) for tensors in zip(*map(make_inputs, range(WORLD)), strict=True)]
    expected = {family: FAMILIES[family].oracle(*inputs) for family in families}
    context = mp.get_context("fork")
    queue = context.SimpleQueue()
    processes = [
        context.Process(target=run, args=(rank, families, expected, port, queue))
        for rank in range(WORLD)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    passed = []
    while not queue.empty():
        passed.append(queue.get())
    for family in families:
        for mode in ("eager", "graph"):
            if passed.count((family, mode)) == WORLD:
                print("PASS", family, mode)
    return int(any(process.exitcode for process in processes))


if __name__ == "__main__":
    sys.exit(main())
