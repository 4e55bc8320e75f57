#pragma once

#include <vector>

#include "calls.h"

namespace waybill::contract {

/// What can be wrong in elastic_info, alike in dispatch and combine.
template <typename Call>
std::vector<BadCall<Call>> bad_elastic() {
  constexpr const char* kName = "elastic_info";
  // One wrong element of the legal elastic_info.
  const auto element = [](std::size_t index, std::int32_t value) {
    return [index, value](Call& call) {
      call.elastic[index] = value;
      call.args.elastic_info = call.elastic_view();
    };
  };
  return {
      {"OfAnotherLength",
       [](Call& call) { call.args.elastic_info = shaped(DType::kInt32, {11}); },
       kName,
       "(4 + 2E,) = (12,) int32",
       "(11,) int32"},
      {"OfAnotherDtype",
       [](Call& call) { call.args.elastic_info = shaped(DType::kInt64, {12}); },
       kName,
       "(4 + 2E,) = (12,) int32",
       "(12,) int64"},
      {"OfTwoDimensions",
       [](Call& call) { call.args.elastic_info = shaped(DType::kInt32, {1, 12}); },
       kName,
       "(4 + 2E,) = (12,) int32",
       "(1, 12) int32"},
      {"NoRanks", element(1, 0), kName, "1 <= newE <= E = 4", "0 at element 1"},
      {"MoreRanksThanBefore", element(1, 5), kName, "1 <= newE <= E = 4", "5 at element 1"},
      {"FewerRanksThanNamed",
       element(1, 2),
       kName,
       "-1 or the new rank of rank 3, below newE = 2",
       "2 at element 7"},
      {"MoreRanksThanNamed",
       element(1, 4),
       kName,
       "the rank that table1 gives the new rank 3",
       "-1 at element 11"},
      {"NewRankTooLarge",
       element(7, 3),
       kName,
       "-1 or the new rank of rank 3, below newE = 3",
       "3 at element 7"},
      {"NewRankBelowMinusOne",
       element(6, -2),
       kName,
       "-1 or the new rank of rank 2, below newE = 3",
       "-2 at element 6"},
      {"TwoRanksWithOneNewRank",
       element(6, 2),
       kName,
       "2, since table1 gives rank 2 the new rank 2",
       "3 at element 10"},
      {"TablesThatAreNotInverse",
       element(10, 2),
       kName,
       "3, since table1 gives rank 3 the new rank 2",
       "2 at element 10"},
      {"OldRankTooLarge",
       element(8, 4),
       kName,
       "0, since table1 gives rank 0 the new rank 0",
       "4 at element 8"},
      {"ARankPastTheNewOnes", element(11, 2), kName, "-1 past newE", "2 at element 11"},
      {"ANewRankThatNobodyHas",
       element(7, -1),
       kName,
       "the rank that table1 gives the new rank 2",
       "3 at element 10"},
      {"WithoutTheCaller",
       [](Call& call) {
         call.elastic = {1, 3, 0, 6, 0, -1, 1, 2, 0, 2, 3, -1};
         call.args.elastic_info = call.elastic_view();
       },
       kName,
       "a new rank for the rank that calls",
       "-1 at element 5"},
      {"SharedRanksWhereThereWereNone",
       element(2, 1),
       kName,
       "newSR (element 2) 0, since shared_expert_rank_num is 0",
       "1"},
      {"NegativeSharedRanks",
       element(2, -1),
       kName,
       "newSR (element 2) 0, since shared_expert_rank_num is 0",
       "-1"},
      {"SharedRanksNotDivisible",
       [element](Call& call) {
         call.args.layer.shared_expert_num = 2;
         call.args.layer.shared_expert_rank_num = 2;
         element(2, 1)(call);
       },
       kName,
       "newSR (element 2) a positive multiple of S = 2 below newE = 3",
       "1"},
      {"NoSharedRanksLeft",
       [element](Call& call) {
         call.args.layer.shared_expert_rank_num = 2;
         element(2, 0)(call);
       },
       kName,
       "newSR (element 2) a positive multiple of S = 1 below newE = 3",
       "0"},
      {"OnlySharedRanksLeft",
       [element](Call& call) {
         call.args.layer.shared_expert_rank_num = 2;
         element(2, 3)(call);
       },
       kName,
       "newSR (element 2) a positive multiple of S = 1 below newE = 3",
       "3"},
      {"ExpertsAsBefore",
       element(3, 8),
       kName,
       "newM (element 3) L*(newE - newSR) = 6, since L stays 2",
       "8"},
      {"ExpertsThatDoNotDivide",
       element(3, 7),
       kName,
       "newM (element 3) L*(newE - newSR) = 6, since L stays 2",
       "7"},
      {"MoreExpertsThanBefore",
       [element](Call& call) {
         call.args.layer.shared_expert_rank_num = 3;
         call.elastic[2] = 1;
         element(3, 16)(call);
       },
       kName,
       "newM (element 3) at most M = 8",
       "16"},
  };
}

}  // namespace waybill::contract
