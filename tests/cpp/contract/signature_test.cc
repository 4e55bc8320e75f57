// The tables of the operators' signatures, and what a teardown repeats according to them.

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "contract/check.h"
#include "contract/repeated.h"
#include "contract/signatures.h"

namespace waybill::contract {
namespace {

namespace tables = signature;
using signature::Mark;

template <typename Table>
std::vector<std::string> names_of(const Table& table) {
  std::vector<std::string> names;
  signature::for_each_row(table, [&](const auto& row) { names.emplace_back(row.name); });
  return names;
}

template <typename Visit>
void for_each_table(Visit&& visit) {
  visit(tables::kDispatch);
  visit(tables::kDispatchV2);
  visit(tables::kCombine);
  visit(tables::kCombineV2);
  visit(tables::kCombineAddRmsNorm);
  visit(tables::kDispatchSetup);
  visit(tables::kDispatchTeardown);
  visit(tables::kCombineSetup);
  visit(tables::kCombineTeardown);
  visit(tables::kBarrier);
  visit(tables::kUpdateExpert);
  visit(tables::kEplbUpdateExpert);
}

TEST(Signature, EachOperatorHasATable) {
  std::vector<Operator> ops;
  for_each_table([&](const auto& table) { ops.push_back(table.op); });
  ASSERT_EQ(ops.size(), kOperatorNames.size());
  for (std::size_t i = 0; i < ops.size(); ++i) {
    EXPECT_EQ(ops[i], kOperatorNames[i].op);
    EXPECT_EQ(operator_named(name_of(ops[i])), ops[i]);
  }
  EXPECT_EQ(operator_named("an unknown operator"), Operator::kNone);
}

TEST(Signature, NamesAreDifferentAndInputsComeFirst) {
  for_each_table([](const auto& table) {
    const auto names = names_of(table);
    EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size())
        << name_of(table.op);
    bool options = false;
    signature::for_each_row(table, [&](const auto& row) {
      options = options || row.mark != Mark::kInput;
      EXPECT_EQ(options, row.mark != Mark::kInput) << name_of(table.op) << ": " << row.name;
    });
  });
}

TEST(Signature, GroupAndWhatIsWritten) {
  for_each_table([](const auto& table) {
    const char* group = signature::group_argument(table);
    const bool local =
        table.op == Operator::kUpdateExpert || table.op == Operator::kEplbUpdateExpert;
    const char* expected = table.op == Operator::kBarrier ? "group" : "group_ep";
    EXPECT_EQ(group == nullptr, local);
    EXPECT_EQ(std::string_view(group == nullptr ? expected : group), expected);
    const bool v2 = table.op == Operator::kDispatchV2 || table.op == Operator::kCombineV2;
    EXPECT_EQ(signature::writes(table), v2) << name_of(table.op);
  });
}

TEST(Signature, RowsLeadToTheirMembers) {
  CombineAddRmsNormArgs args;
  args.combine.zero_expert_num = 7;
  args.norm_eps = 7.0;
  std::set<std::string> found;
  signature::for_each_row(tables::kCombineAddRmsNorm, [&]<typename Row>(const Row& row) {
    if constexpr (requires { Row::of(args); }) {
      using Value = std::remove_cvref_t<decltype(Row::of(args))>;
      if constexpr (std::is_arithmetic_v<Value>) {
        if (Row::of(args) == static_cast<Value>(7)) {
          found.insert(row.name);
        }
      }
    }
  });
  EXPECT_EQ(found, (std::set<std::string>{"norm_eps", "zero_expert_num"}));
}

/// The argument that a changed teardown is blamed for; empty where it may be another one.
template <typename Setup, typename Teardown, typename Change>
std::string blamed(const Setup& setup_table, const Teardown& teardown_table, const Change& change) {
  typename Setup::Arguments setup;
  typename Teardown::Arguments teardown;
  change(teardown);
  const Checker check(teardown_table.op, {});
  const Status status = check_repeated(check, setup_table, setup, teardown_table, teardown);
  EXPECT_TRUE(status.ok() || status.code() == StatusCode::kInvalidState);
  return status.ok() ? std::string() : status.info().argument;
}

/// Changes an argument to what no default is; false where it cannot be changed.
template <typename T>
bool alter(T& value) {
  if constexpr (std::is_same_v<T, TensorView>) {
    value = TensorView::contiguous(nullptr, DType::kInt64, {5});
  } else if constexpr (std::is_same_v<T, std::string_view>) {
    value = "hierarchy";
  } else if constexpr (std::is_integral_v<T>) {
    value = 77;
  } else {
    return false;
  }
  return true;
}

template <typename Setup, typename Teardown>
void expect_repeated(const Setup& setup_table, const Teardown& teardown_table) {
  const auto names = names_of(setup_table);
  const std::set<std::string> of_setup(names.begin(), names.end());
  int repeated = 0;
  signature::for_each_row(teardown_table, [&]<typename Row>(const Row& row) {
    if constexpr (requires(typename Teardown::Arguments& args) { Row::of(args); }) {
      bool altered = false;
      const std::string argument =
          blamed(setup_table, teardown_table, [&](auto& args) { altered = alter(Row::of(args)); });
      const bool expected = altered && of_setup.contains(row.name);
      EXPECT_EQ(argument, expected ? row.name : "");
      repeated += expected ? 1 : 0;
    }
  });
  EXPECT_EQ(repeated, 12);
}

TEST(Repeated, EveryArgumentThatBothHave) {
  expect_repeated(tables::kDispatchSetup, tables::kDispatchTeardown);
  expect_repeated(tables::kCombineSetup, tables::kCombineTeardown);
}

TEST(Repeated, ErrorSaysWhatTheSetupHad) {
  DispatchSetupArgs setup;
  DispatchTeardownArgs teardown;
  setup.common.layer.comm_alg = "fullmesh";
  const Checker check(Operator::kDispatchTeardown, {});
  const Status status =
      check_repeated(check, tables::kDispatchSetup, setup, tables::kDispatchTeardown, teardown);
  EXPECT_EQ(status.code(), StatusCode::kInvalidState);
  EXPECT_NE(status.message().find(R"(expected "fullmesh" as in the setup, got "")"),
            std::string::npos)
      << status.message();
}

}  // namespace
}  // namespace waybill::contract
