"""The arithmetic of docs/contract/operators.md section 7: float32, multiply and add apart.

Every back end reproduces these functions bit for bit, so each of them is written as a sequence of
single IEEE operations. Four habits of PyTorch are avoided on purpose: `scalar / tensor` (it
multiplies by a reciprocal), fused operations (`addcmul`, `add(alpha=)`, `matmul`), library sums
and `exp` (their order and their bits depend on the machine), and `sqrt` of float32 (that of its
vector library is now and then one unit in the last place off).

What the contract leaves to the project is fixed here:

- `sum_over_h`: the order of a sum over the hidden dimension (l1, l2 of 7.2, the mean square of
  7.4);
- `exp_f32` and `softmax_pair`: the softmax of constant experts with 2-D alphas.
"""

import torch
from torch import Tensor

COMM_QUANT_GROUP = 8
SUM_LANES = 16

# The constants of exp_f32, all exact in float32. Below EXP_LOWEST = -87.33654 exp(x) is less than
# the least normal number. LN2_HIGH has 15 significant bits, so that n * LN2_HIGH is exact.
EXP_LOWEST = float.fromhex("-0x1.5d589ep+6")
LOG2_E = float.fromhex("0x1.715476p+0")
LN2_HIGH = float.fromhex("0x1.62e4p-1")
LN2_LOW = float.fromhex("0x1.7f7d1cp-20")  # RNE(ln 2 - LN2_HIGH)
EXP_COEFFICIENTS = (  # RNE(1 / k!), k = 7 .. 0
    float.fromhex("0x1.a01a02p-13"),
    float.fromhex("0x1.6c16c2p-10"),
    float.fromhex("0x1.111112p-7"),
    float.fromhex("0x1.555556p-5"),
    float.fromhex("0x1.555556p-3"),
    float.fromhex("0x1p-1"),
    float.fromhex("0x1p+0"),
    float.fromhex("0x1p+0"),
)


def f32(value: float) -> Tensor:
    """`value` rounded to float32, as a tensor: dividing by it or into it is a true division."""
    return torch.tensor(value, dtype=torch.float32)


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """quant_mode 2 (7.1), after the smooth scales: float32 (n, H) to int8 (n, H) and float32 (n,).

    The values of a row with NaN or infinity are unspecified: here they are 0 and the scale is NaN
    or infinity.
    """
    amax = rows.abs().amax(dim=1)
    factor = f32(127.0) / amax
    nothing = factor.isinf()
    scaled = torch.round(rows * factor[:, None]).nan_to_num(nan=0.0).clamp(-127, 127)
    values = torch.where(nothing[:, None], f32(0.0), scaled).to(torch.int8)
    return values, torch.where(nothing, f32(0.0), f32(1.0) / factor)


def comm_quantize_round_trip(rows: Tensor) -> Tensor:
    """What the receiver makes of rows (n, H) that travelled with comm_quant_mode 2 (7.3).

    Shape and dtype stay. A group of 8 with NaN or infinity is unspecified: here it becomes NaN, so
    that a test sees where not to look.
    """
    n, hidden = rows.shape
    padding = -hidden % COMM_QUANT_GROUP
    num_groups = (hidden + padding) // COMM_QUANT_GROUP
    padded = torch.nn.functional.pad(rows.float(), (0, padding))
    groups = padded.reshape(n, num_groups, COMM_QUANT_GROUP)
    amax = groups.abs().amax(dim=2, keepdim=True)
    scale = amax * (f32(1.0) / f32(127.0))
    in_half = (groups / scale).to(torch.float16).float()
    # The scale of a float32 subnormal can round to 0, and then 0/0 appears beside x/0: both return
    # as zeros.
    values = torch.round(in_half).nan_to_num(nan=0.0).clamp(-127, 127)
    values = torch.where(scale == 0, f32(0.0), values)
    back = (values * scale.to(rows.dtype).float()).to(rows.dtype)
    back = torch.where(amax.isfinite(), back, torch.full_like(back, float("nan")))
    return back.reshape(n, hidden + padding)[:, :hidden].contiguous()


def sum_over_h(terms: Tensor) -> Tensor:
    """Sum of float32 (n, H) over H in the project's order; float32 (n,).

    Lane j of 16 starts at 0 and adds the elements j, j+16, j+32, ... one after the other. The
    lanes are then added as a pairwise tree: lane j takes lane j+8 (j < 8), then j+4 (j < 4), j+2
    (j < 2), j+1.
    """
    n, hidden = terms.shape
    lanes = torch.zeros(n, SUM_LANES, dtype=torch.float32)
    for begin in range(0, hidden, SUM_LANES):
        chunk = terms[:, begin : begin + SUM_LANES]
        lanes[:, : chunk.shape[1]] += chunk
    width = SUM_LANES
    while width > 1:
        width //= 2
        lanes = lanes[:, :width] + lanes[:, width : 2 * width]
    return lanes[:, 0]


def sqrt_f32(x: Tensor) -> Tensor:
    """The IEEE square root of float32 x.

    float64 has more than twice the digits, so rounding twice changes nothing, and a small error of
    the root does not either: no root of a float32 is that near to the middle of two float32.
    """
    return torch.sqrt(x.double()).float()


def exp_f32(x: Tensor) -> Tensor:
    """exp(x) of float32 x <= 0, within 1.2 ulp; NaN stays NaN. The steps, each one IEEE operation:

    1. x < EXP_LOWEST gives +0.
    2. n = RNE(x * LOG2_E) as an integer, so -126 <= n <= 0.
    3. r = (x - n * LN2_HIGH) - n * LN2_LOW, so |r| is at most about ln(2) / 2.
    4. p = 1/7!; then p = p * r + c for c = 1/6!, 1/5!, ..., 1/1!, 1/0! (multiply, round, add,
       round).
    5. p * 2**n, which is exact: 2**n is the float with the bits (n + 127) << 23 and the product is
       normal.
    """
    too_low = x < EXP_LOWEST
    safe = torch.where(too_low | x.isnan(), f32(0.0), x)
    n = torch.round(safe * f32(LOG2_E))
    r = (safe - n * f32(LN2_HIGH)) - n * f32(LN2_LOW)
    p = torch.full_like(r, EXP_COEFFICIENTS[0])
    for coefficient in EXP_COEFFICIENTS[1:]:
        p = p * r + f32(coefficient)
    power = ((n.to(torch.int32) + 127) << 23).view(torch.float32)
    return torch.where(x.isnan(), x, torch.where(too_low, f32(0.0), p * power))


def softmax_pair(l1: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax of two float32 numbers, elementwise: p_1 and p_2.

    m = max(l1, l2), e_i = exp_f32(l_i - m), p_i = e_i / (e1 + e2).
    """
    largest = torch.maximum(l1, l2)
    e1, e2 = exp_f32(l1 - largest), exp_f32(l2 - largest)
    total = e1 + e2
    return e1 / total, e2 / total
