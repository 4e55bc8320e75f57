#include "contract/strict.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace waybill::contract {
namespace {

constexpr std::int64_t kRoomMb = std::int64_t{1} << 20;  // the window is never too small

Checker checker(Operator op, Strict strict, std::int64_t megabytes = kRoomMb) {
  GroupFacts group{1, 16};
  group.strict = strict;
  group.hccl_buffsize_mb = megabytes;
  return {op, group};
}

/// A call of dispatch_v2 that both products can run but for expert_scales.
StrictFacts legal(Strict strict) {
  StrictFacts facts;
  facts.e = 16;
  facts.bs = 8;
  facts.max_bs = 8;
  facts.h = 2048;
  facts.k = 1;
  facts.m = 64;
  facts.l = 4;
  facts.has_expert_scales = strict == Strict::kA2;
  return facts;
}

using F = StrictFacts;
using Change = std::function<void(F&)>;

constexpr Operator kV1 = Operator::kDispatch;
constexpr Operator kV2 = Operator::kDispatchV2;
constexpr Operator kBack = Operator::kCombineV2;
constexpr Operator kNorm = Operator::kCombineAddRmsNorm;
constexpr Operator kSetup = Operator::kDispatchSetup;
constexpr Operator kTeardown = Operator::kDispatchTeardown;
constexpr Operator kBackSetup = Operator::kCombineSetup;
constexpr Operator kBackTeardown = Operator::kCombineTeardown;
constexpr Strict kA2 = Strict::kA2;
constexpr Strict kA3 = Strict::kA3;

const char* name_of_mode(Strict strict) { return strict == kA2 ? "a2" : "a3"; }

/// What an error of a strict mode says.
struct Said {
  const char* argument;
  std::string expected;
  std::string got;
};

void expect_refusal(const Status& status, Strict strict, Operator op, const Said& said) {
  ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.info().op, name_of(op));
  EXPECT_EQ(status.info().argument, said.argument);
  EXPECT_EQ(status.message(),
            std::string(name_of(op)) + ": argument " + said.argument + ": expected " +
                said.expected + " in strict mode " + name_of_mode(strict) + ", got " + said.got +
                " (rank 1)");
}

/// Refused in this mode, and in this mode only; the barrier has no limits.
void expect_limit(Strict strict, Operator op, const F& facts, const Said& said) {
  expect_refusal(check_strict(checker(op, strict), facts), strict, op, said);
  EXPECT_TRUE(check_strict(checker(op, Strict::kNone), facts).ok());
  EXPECT_TRUE(check_strict(checker(Operator::kBarrier, strict), facts).ok());
}

std::string message_of(Strict strict, Operator op, const F& facts) {
  return check_strict(checker(op, strict), facts).message();
}

/// A line of the table that bounds one number.
struct Range {
  Strict strict;
  Operator op;
  std::int64_t F::* field;
  const char* argument;
  const char* letter;
  std::int64_t least;
  std::int64_t most;
};

void PrintTo(const Range& range, std::ostream* out) {
  *out << name_of_mode(range.strict) << ' ' << name_of(range.op) << ' ' << range.letter;
}

class StrictRanges : public ::testing::TestWithParam<Range> {};

TEST_P(StrictRanges, HoldBetweenTheirEnds) {
  const Range& range = GetParam();
  const std::string expected =
      std::to_string(range.least) + " <= " + range.letter + " <= " + std::to_string(range.most);
  for (std::int64_t inside : {range.least, range.most}) {
    F facts = legal(range.strict);
    facts.has_expert_scales = range.strict == kA2;
    facts.*range.field = inside;
    const std::string message = message_of(range.strict, range.op, facts);
    if (message.find("a multiple of 32") == std::string::npos) {
      EXPECT_EQ(message, "ok");
    }
  }
  for (std::int64_t outside : {range.least - 1, range.most + 1}) {
    F facts = legal(range.strict);
    facts.*range.field = outside;
    expect_limit(
        range.strict, range.op, facts, {range.argument, expected, std::to_string(outside)});
  }
}

const std::vector<Range> kRanges = {
    {kA3, kV1, &F::e, "ep_world_size", "E", 2, 768},
    {kA3, kV2, &F::e, "ep_world_size", "E", 2, 768},
    {kA3, kBack, &F::e, "ep_world_size", "E", 2, 768},
    {kA3, kNorm, &F::e, "ep_world_size", "E", 2, 384},
    {kA3, kSetup, &F::e, "ep_world_size", "E", 2, 384},
    {kA3, kTeardown, &F::e, "ep_world_size", "E", 2, 384},
    {kA3, kBackSetup, &F::e, "ep_world_size", "E", 2, 384},
    {kA3, kBackTeardown, &F::e, "ep_world_size", "E", 2, 384},
    {kA3, kV2, &F::bs, "expert_ids", "BS", 1, 512},
    {kA2, kV2, &F::bs, "expert_ids", "BS", 1, 256},
    {kA3, kV2, &F::h, "x", "H", 1024, 8192},
    {kA3, kBack, &F::h, "expand_x", "H", 1024, 8192},
    {kA3, kNorm, &F::h, "expand_x", "H", 1024, 7168},
    {kA3, kTeardown, &F::h, "x", "H", 1024, 8192},
    {kA3, kBackSetup, &F::h, "expand_x", "H", 1024, 8192},
    {kA2, kV2, &F::h, "x", "H", 1, 7168},
    {kA2, kBack, &F::h, "expand_x", "H", 1, 7168},
    {kA3, kV2, &F::k, "expert_ids", "K", 1, 16},
    {kA3, kNorm, &F::k, "expert_ids", "K", 1, 8},
    {kA2, kV2, &F::k, "expert_ids", "K", 1, 16},
    {kA2, kNorm, &F::k, "expert_ids", "K", 1, 16},
    {kA3, kV2, &F::m, "moe_expert_num", "M", 1, 1024},
    {kA3, kNorm, &F::m, "moe_expert_num", "M", 1, 512},
    {kA3, kSetup, &F::m, "moe_expert_num", "M", 1, 512},
    {kA3, kBackTeardown, &F::m, "moe_expert_num", "M", 1, 512},
    {kA2, kV2, &F::m, "moe_expert_num", "M", 1, 1024},
    {kA3, kV2, &F::s, "shared_expert_num", "S", 0, 4},
    {kA3, kV2, &F::tp, "tp_world_size", "TP", 0, 2},
    {kA2, kV2, &F::tp, "tp_world_size", "TP", 0, 1},
};

INSTANTIATE_TEST_SUITE_P(Table, StrictRanges, ::testing::ValuesIn(kRanges));

/// Another line of the table: a call inside, and what to change so that it is outside.
struct Limit {
  Strict strict;
  Operator op;
  Change inside;
  Change outside;
  Said said;
};

void PrintTo(const Limit& limit, std::ostream* out) {
  *out << name_of_mode(limit.strict) << ' ' << name_of(limit.op) << ' ' << limit.said.argument;
}

class StrictLimits : public ::testing::TestWithParam<Limit> {};

TEST_P(StrictLimits, HoldOnOneSideOnly) {
  const Limit& limit = GetParam();
  F facts = legal(limit.strict);
  EXPECT_EQ(message_of(limit.strict, limit.op, facts), "ok");
  limit.inside(facts);
  EXPECT_EQ(message_of(limit.strict, limit.op, facts), "ok");
  limit.outside(facts);
  expect_limit(limit.strict, limit.op, facts, limit.said);
}

template <typename Value>
Change set(Value F::* field, std::type_identity_t<Value> value) {
  return [=](F& facts) { facts.*field = value; };
}

/// L experts on each of 16 ranks.
Change experts(std::int64_t l, std::string_view comm_alg) {
  return [=](F& facts) {
    facts.l = l;
    facts.m = 16 * l;
    facts.comm_alg = comm_alg;
  };
}

void nothing(F& /*facts*/) {}

const Said kUnequal = {"x_active_mask",
                       "None since global_bs allows BS = 10, another than this rank's 8,",
                       "a tensor"};
const Said kRanksOfA2 = {"ep_world_size", "E = 16, 32 or 64", "48"};
const Said kExpertsOfA2 = {
    "moe_expert_num", "L = M/(E-SR) <= 24 (unless comm_alg is hierarchy), M <= 384", "400"};
constexpr const char* kAlgorithms = R"("", fullmesh or hierarchy)";

const std::vector<Limit> kLimits = {
    {kA3, kNorm, set(&F::h, 1056), set(&F::h, 1040), {"expand_x", "H a multiple of 32", "1040"}},
    {kA3, kV2, set(&F::k, 8), set(&F::m, 7), {"expert_ids", "K <= M = 7", "8"}},
    {kA3, kSetup, set(&F::sr, 8), set(&F::sr, 9), {"shared_expert_rank_num", "SR <= E/2 = 8", "9"}},
    {kA3, kBack, set(&F::has_mask, true), set(&F::max_bs, 10), kUnequal},
    {kA3, kBack, set(&F::max_bs, 10), set(&F::has_mask, true), kUnequal},
    {kA3, kV2, nothing, set(&F::has_expert_scales, true), {"expert_scales", "None", "a tensor"}},
    {kA3, kV1, nothing, set(&F::has_expert_scales, true), {"expert_scales", "None", "a tensor"}},
    {kA3, kV2, nothing, set(&F::comm_alg, "fullmesh"), {"comm_alg", R"("")", R"("fullmesh")"}},
    {kA3, kSetup, nothing, set(&F::comm_alg, "x"), {"comm_alg", R"("")", R"("x")"}},
    {kA3, kSetup, nothing, set(&F::comm_type, 2), {"comm_type", "0", "2"}},
    {kA2, kV2, set(&F::e, 16), set(&F::e, 48), kRanksOfA2},
    {kA2, kV1, set(&F::e, 32), set(&F::e, 48), kRanksOfA2},
    {kA2, kNorm, set(&F::e, 64), set(&F::e, 48), kRanksOfA2},
    {kA2, kV2, set(&F::h, 96), set(&F::h, 48), {"x", "H a multiple of 32", "48"}},
    {kA2, kV2, experts(24, ""), experts(25, ""), kExpertsOfA2},
    {kA2, kV2, experts(64, "hierarchy"), experts(25, "fullmesh"), kExpertsOfA2},
    {kA2, kV2, nothing, set(&F::sr, 8), {"shared_expert_rank_num", "0, no shared experts,", "8"}},
    {kA2,
     kBack,
     nothing,
     set(&F::has_shared_expert_x, true),
     {"shared_expert_x", "None", "a tensor"}},
    {kA2, kV2, nothing, set(&F::has_mask, true), {"x_active_mask", "None", "a tensor"}},
    {kA2, kV2, nothing, set(&F::num_zero, 1), {"zero_expert_num", "0", "1"}},
    {kA2, kV2, nothing, set(&F::num_copy, 2), {"copy_expert_num", "0", "2"}},
    {kA2, kBack, nothing, set(&F::num_constant, 3), {"const_expert_num", "0", "3"}},
    {kA2, kBack, nothing, set(&F::has_elastic, true), {"elastic_info", "None", "a tensor"}},
    {kA2, kV2, nothing, set(&F::has_expert_scales, false), {"expert_scales", "a tensor", "None"}},
    {kA2, kV1, nothing, set(&F::has_expert_scales, false), {"expert_scales", "a tensor", "None"}},
    {kA2,
     kV2,
     set(&F::comm_alg, "fullmesh"),
     set(&F::comm_alg, "fullmesh_v1"),
     {"comm_alg", kAlgorithms, R"("fullmesh_v1")"}},
    {kA2,
     kV2,
     set(&F::comm_alg, "hierarchy"),
     set(&F::comm_alg, "fullmesh_v2"),
     {"comm_alg", kAlgorithms, R"("fullmesh_v2")"}},
};

INSTANTIATE_TEST_SUITE_P(Table, StrictLimits, ::testing::ValuesIn(kLimits));

TEST(StrictModes, OnlyNormAsksA3ForMultiples) {
  F facts = legal(kA3);
  facts.h = 1025;
  EXPECT_EQ(message_of(kA3, kV2, facts), "ok");
}

TEST(StrictModes, WeightsOfCombineAreNoneOfDispatchs) {
  F facts = legal(kA3);
  facts.has_expert_scales = true;
  EXPECT_EQ(message_of(kA3, kBack, facts), "ok");
  facts.has_expert_scales = false;
  EXPECT_EQ(message_of(kA2, kBack, facts), "ok");
}

TEST(StrictModes, A3HasWhatA2HasNot) {
  StrictFacts facts = legal(kA3);
  facts.num_zero = facts.num_copy = facts.num_constant = 5;
  facts.has_elastic = facts.has_shared_expert_x = true;
  EXPECT_TRUE(check_strict(checker(kBack, kA3), facts).ok());
}

TEST(StrictModes, A2HasNoSetupFamily) {
  for (Operator op : {Operator::kDispatchSetup,
                      Operator::kDispatchTeardown,
                      Operator::kCombineSetup,
                      Operator::kCombineTeardown}) {
    EXPECT_TRUE(check_strict(checker(op, kA3), legal(kA3)).ok());
    const Status status = check_strict(checker(op, kA2), legal(kA2));
    ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.info().argument, "strict");
    EXPECT_EQ(status.message(),
              std::string(name_of(op)) +
                  ": argument strict: expected a mode whose product has the operator, which a2 has "
                  "not, got a2 (rank 1)");
  }
}

/// The window's size of a call: one megabyte less than `megabytes` is too little.
void expect_window(Strict strict,
                   const StrictFacts& facts,
                   std::int64_t megabytes,
                   const std::string& formula) {
  EXPECT_TRUE(check_strict(checker(kV2, strict, megabytes), facts).ok())
      << check_strict(checker(kV2, strict, megabytes), facts).message();
  const Status status = check_strict(checker(kV2, strict, megabytes - 1), facts);
  ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.info().argument, "HCCL_BUFFSIZE");
  EXPECT_EQ(status.message(),
            "npu_moe_distribute_dispatch_v2: argument HCCL_BUFFSIZE: expected at least " +
                std::to_string(megabytes) + " MB (of 2^20 bytes), for " + formula +
                " bytes in strict mode " + name_of_mode(strict) + ", got " +
                std::to_string(megabytes - 1) + " MB (rank 1)");
}

constexpr const char* kA3Window =
    "2*(L*maxBS*E*Align512(Align32(2H)+44) + (K+S)*maxBS*Align512(2H)) = ";

TEST(StrictWindow, OfA3) {
  StrictFacts facts = legal(kA3);
  facts.bs = 64;
  facts.max_bs = 128;
  facts.h = 7168;
  facts.k = 8;
  facts.s = 1;
  // 14336 + 44 takes 29 blocks of 512 bytes, 14336 takes 28.
  const std::int64_t bytes = 2L * (4 * 128 * 16 * (29 * 512) + (8 + 1) * 128 * (28 * 512));
  ASSERT_EQ(bytes, 276299776);  // 263.5 MB
  expect_window(kA3, facts, 264, kA3Window + std::to_string(bytes));
}

TEST(StrictWindow, OfA3RoundsRowsUp) {
  StrictFacts facts = legal(kA3);
  facts.h = 1257;
  facts.k = 8;
  facts.bs = facts.max_bs = 512;
  // 2514 bytes are 79 blocks of 32; 2528 + 44 take 6 blocks of 512, 2514 (+ 44, too) take 5.
  const std::int64_t bytes = 2L * (4 * 512 * 16 * (6 * 512) + 8 * 512 * (5 * 512));
  ASSERT_EQ(bytes, 212 << 20);  // a call that just fits
  expect_window(kA3, facts, 212, kA3Window + std::to_string(bytes));
}

TEST(StrictWindow, OfA2) {
  StrictFacts facts = legal(kA2);
  facts.bs = 256;
  facts.max_bs = 999;
  facts.k = 8;
  facts.h = 7168;
  const std::int64_t bytes = 2L * (256 * 16 * 4 * 7168 * 2 + (2 << 20));
  ASSERT_EQ(bytes, 452 << 20);
  expect_window(kA2, facts, 452, "2*(BS*E*min(L,K)*H*2 + 2 MB) = " + std::to_string(bytes));
  facts.k = 2;  // fewer than L
  facts.comm_alg = "fullmesh";
  const std::int64_t less = 2L * (256 * 16 * 2 * 7168 * 2 + (2 << 20));
  expect_window(kA2, facts, 228, "2*(BS*E*min(L,K)*H*2 + 2 MB) = " + std::to_string(less));
}

TEST(StrictWindow, OfA2sHierarchy) {
  StrictFacts facts = legal(kA2);
  facts.bs = 256;
  facts.k = 9;
  facts.comm_alg = "hierarchy";
  const std::int64_t bytes = 64L * 256 * (2048 * 2 + 4 * 16 * 4) + (104 << 20);
  ASSERT_EQ(bytes, 172 << 20);
  expect_window(kA2, facts, 172, "M*BS*(H*2+4*ceil8(K)*4) + 104 MB = " + std::to_string(bytes));
}

TEST(StrictMask, TruesComeFirst) {
  const Checker check = checker(kV2, kA3);
  const auto mask_status = [&](const std::vector<std::uint8_t>& mask) {
    const auto size = static_cast<std::int64_t>(mask.size());
    return check_strict_mask(
        check, "x_active_mask", TensorView::contiguous(mask.data(), DType::kBool, {size}));
  };
  for (const auto& mask :
       std::vector<std::vector<std::uint8_t>>{{}, {1}, {0}, {1, 1, 0, 0}, {1, 1, 1}, {0, 0, 0}}) {
    EXPECT_TRUE(mask_status(mask).ok());
  }
  const Status status = mask_status({1, 0, 0, 1});
  EXPECT_EQ(status.info().argument, "x_active_mask");
  EXPECT_EQ(status.message(),
            "npu_moe_distribute_dispatch_v2: argument x_active_mask: expected trues before falses "
            "in strict mode a3, got true at token 3 behind a false (rank 1)");
  EXPECT_FALSE(mask_status({0, 1}).ok());
}

TEST(StrictMask, OtherFormsAndOtherModesPass) {
  const std::vector<std::uint8_t> mask = {0, 1, 1, 0};
  const TensorView pairs = TensorView::contiguous(mask.data(), DType::kBool, {2, 2});
  const TensorView tokens = TensorView::contiguous(mask.data(), DType::kBool, {4});
  EXPECT_TRUE(check_strict_mask(checker(kV2, kA3), "x_active_mask", pairs).ok());
  EXPECT_TRUE(check_strict_mask(checker(kV2, kA3), "x_active_mask", std::nullopt).ok());
  EXPECT_TRUE(check_strict_mask(checker(kV2, Strict::kNone), "x_active_mask", tokens).ok());
  const TensorView strided{mask.data(), DType::kBool, {2}, {2}, 1};  // 0, 1
  EXPECT_FALSE(check_strict_mask(checker(kV2, kA3), "x_active_mask", strided).ok());
}

class StrictIds : public ::testing::TestWithParam<Strict> {};

TEST_P(StrictIds, AreAllRouted) {
  const std::vector<std::int32_t> ids = {0, 1, -1, 2};
  const TensorView view = TensorView::contiguous(ids.data(), DType::kInt32, {2, 2});
  const Checker check = checker(kV2, GetParam());
  EXPECT_EQ(check_strict_ids(check, view, std::nullopt).message(),
            std::string("npu_moe_distribute_dispatch_v2: argument expert_ids: expected ids of "
                        "experts, not -1, in strict mode ") +
                name_of_mode(GetParam()) + ", got -1 at token 1, k 0 (rank 1)");
  const std::vector<std::uint8_t> mask = {1, 1, 0, 1};
  EXPECT_TRUE(
      check_strict_ids(check, view, TensorView::contiguous(mask.data(), DType::kBool, {2, 2}))
          .ok());
  EXPECT_TRUE(check_strict_ids(checker(kV2, Strict::kNone), view, std::nullopt).ok());
}

TEST_P(StrictIds, OfOneTokenDiffer) {
  std::vector<std::int32_t> ids = {0, 1, 2, 2, 1, 0};
  const Checker check = checker(kV2, GetParam());
  const TensorView view = TensorView::contiguous(ids.data(), DType::kInt32, {2, 3});
  EXPECT_TRUE(check_strict_ids(check, view, std::nullopt).ok());
  ids[5] = 2;
  const Status status = check_strict_ids(check, view, std::nullopt);
  EXPECT_EQ(status.info().argument, "expert_ids");
  EXPECT_EQ(status.message(),
            std::string("npu_moe_distribute_dispatch_v2: argument expert_ids: expected distinct "
                        "ids of token 1 in strict mode ") +
                name_of_mode(GetParam()) + ", got 2 at k 0 and k 2 (rank 1)");
  EXPECT_TRUE(check_strict_ids(checker(kV2, Strict::kNone), view, std::nullopt).ok());
  // Columns one behind the other: tokens (0, 2, 1) and (1, 2, 2).
  const TensorView transposed{ids.data(), DType::kInt32, {2, 3}, {1, 2}, 2};
  EXPECT_NE(check_strict_ids(check, transposed, std::nullopt).message().find("2 at k 1 and k 2"),
            std::string::npos);
}

TEST_P(StrictIds, ThatAreMaskedAreNotRead) {
  const std::vector<std::int32_t> ids = {3, 3, 1, 1};
  const Checker check = checker(kV2, GetParam());
  const TensorView view = TensorView::contiguous(ids.data(), DType::kInt32, {2, 2});
  const auto passes = [&](const std::vector<std::uint8_t>& mask, const Dims& shape) {
    return check_strict_ids(check, view, TensorView::contiguous(mask.data(), DType::kBool, shape))
        .ok();
  };
  EXPECT_TRUE(passes({0, 0}, {2}));
  EXPECT_FALSE(passes({0, 1}, {2}));
  EXPECT_TRUE(passes({1, 0, 0, 1}, {2, 2}));
  EXPECT_FALSE(passes({1, 0, 1, 1}, {2, 2}));
}

INSTANTIATE_TEST_SUITE_P(Modes, StrictIds, ::testing::Values(kA2, kA3));

using U = StrictUpdateFacts;

U legal_update() {
  U facts;
  facts.bs = 8;
  facts.k = 8;
  facts.rows = 64;
  facts.columns = 3;
  facts.world_size = 16;
  facts.instances = 64;
  return facts;
}

struct UpdateLimit {
  Operator op;
  std::function<void(U&)> inside;
  std::function<void(U&)> outside;
  Said said;
};

void PrintTo(const UpdateLimit& limit, std::ostream* out) {
  *out << name_of(limit.op) << ' ' << limit.said.argument << ' ' << limit.said.expected;
}

class StrictUpdateLimits : public ::testing::TestWithParam<UpdateLimit> {};

TEST_P(StrictUpdateLimits, HoldOnOneSideOnly) {
  const UpdateLimit& limit = GetParam();
  U facts = legal_update();
  const Checker check = checker(limit.op, kA3);
  limit.inside(facts);
  EXPECT_EQ(check_strict_update_expert(check, facts).message(), "ok");
  limit.outside(facts);
  expect_refusal(check_strict_update_expert(check, facts), kA3, limit.op, limit.said);
  EXPECT_TRUE(check_strict_update_expert(checker(limit.op, Strict::kNone), facts).ok());
}

std::function<void(U&)> world(std::int64_t ranks) {
  return [=](U& facts) { facts.world_size = facts.instances = ranks; };
}

template <typename Value>
std::function<void(U&)> put(Value U::* field, std::type_identity_t<Value> value) {
  return [=](U& facts) { facts.*field = value; };
}

constexpr Operator kUpdate = Operator::kUpdateExpert;
constexpr Operator kEplb = Operator::kEplbUpdateExpert;
constexpr const char* kTokens = "1 <= BS <= 512";
constexpr const char* kColumns = "2 <= F <= 17";
constexpr const char* kWorld = "2 <= world_size <= 768";
constexpr const char* kEqual =
    "equally many instances a rank, a sum of the counts that is a multiple of world_size = 16";
const Said kMoreThanThereAre = {"expert_ids", "K <= M, the 7 rows of eplb_table,", "8"};
const Said kTooManyInstances = {"eplb_table", "a sum of the counts <= 1024", "1040"};
const Said kMaskAlone = {
    "active_mask", "None without expert_scales and pruning_threshold", "a tensor"};

const std::vector<UpdateLimit> kUpdateLimits = {
    {kUpdate, put(&U::bs, 1), put(&U::bs, 0), {"expert_ids", kTokens, "0"}},
    {kEplb, put(&U::bs, 512), put(&U::bs, 513), {"expert_ids", kTokens, "513"}},
    {kUpdate, put(&U::k, 1), put(&U::k, 0), {"expert_ids", "1 <= K <= 16", "0"}},
    {kEplb, put(&U::k, 16), put(&U::k, 17), {"expert_ids", "1 <= K <= 16", "17"}},
    {kUpdate, put(&U::rows, 8), put(&U::rows, 7), kMoreThanThereAre},
    {kUpdate,
     put(&U::rows, 1024),
     put(&U::rows, 1025),
     {"eplb_table", "1 <= rows <= 1024", "1025"}},
    {kEplb, put(&U::rows, 512), put(&U::rows, 513), {"eplb_table", "1 <= rows <= 512", "513"}},
    {kUpdate, put(&U::columns, 2), put(&U::columns, 1), {"eplb_table", kColumns, "1"}},
    {kEplb, put(&U::columns, 17), put(&U::columns, 18), {"eplb_table", kColumns, "18"}},
    {kUpdate, world(2), world(1), {"world_size", kWorld, "1"}},
    {kUpdate, world(768), world(769), {"world_size", kWorld, "769"}},
    {kEplb, world(384), world(385), {"world_size", "2 <= world_size <= 384", "385"}},
    {kUpdate, put(&U::instances, 1024), put(&U::instances, 1040), kTooManyInstances},
    {kUpdate, put(&U::instances, 80), put(&U::instances, 72), {"eplb_table", kEqual, "72"}},
    {kEplb, put(&U::instances, 1040), put(&U::instances, 1041), {"eplb_table", kEqual, "1041"}},
    {kUpdate,
     [](U& facts) { facts.has_mask = facts.has_scales = true; },
     put(&U::has_scales, false),
     kMaskAlone},
};

INSTANTIATE_TEST_SUITE_P(Table, StrictUpdateLimits, ::testing::ValuesIn(kUpdateLimits));

TEST(StrictUpdateExpert, A2HasNone) {
  for (Operator op : {kUpdate, kEplb}) {
    EXPECT_EQ(check_strict_update_expert(checker(op, kA2), legal_update()).info().argument,
              "strict");
  }
}

TEST(StrictUpdateExpert, WithoutAWorldItsLimitsDoNotCount) {
  U facts = legal_update();
  facts.world_size.reset();
  facts.columns = 1000;
  facts.instances = 71;
  EXPECT_TRUE(check_strict_update_expert(checker(kUpdate, kA3), facts).ok());
  facts.instances = 1025;
  EXPECT_FALSE(check_strict_update_expert(checker(kUpdate, kA3), facts).ok());
}

}  // namespace
}  // namespace waybill::contract
