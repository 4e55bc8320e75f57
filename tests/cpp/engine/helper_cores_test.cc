#include "engine/helper_cores.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace waybill::engine {
namespace {

CoreSet set(const std::string& list) { return core_set_of(parse_cores(list).value()); }

/// "threads: cores of the helpers" of each rank, and "*" where each has one of its own.
std::vector<std::string> placed(const std::vector<std::string>& callers,
                                const std::vector<std::string>& processes,
                                int threads = 0,
                                const std::vector<int>& asked = {}) {
  std::vector<std::string> texts;
  HelperFacts facts;
  for (const std::string& list : callers) {
    facts.callers.push_back(set(list));
  }
  facts.threads = threads;
  facts.asked = asked;
  for (facts.own = 0; facts.own < callers.size(); ++facts.own) {
    facts.process = set(processes[facts.own]);
    const HelperCores cores = place_helpers(facts);
    std::string text = std::to_string(cores.threads) + ":";
    for (const int core : cores.cores_of_helpers) {
      text += " " + std::to_string(core);
    }
    texts.push_back(text + (cores.has_cores ? "*" : ""));
  }
  return texts;
}

using Texts = std::vector<std::string>;

TEST(HelperCores, OfRanksThatShareTheHost) {
  EXPECT_EQ(placed({"0-7", "0-7"}, {"0-7", "0-7"}), (Texts{"4: 1 2 3*", "4: 5 6 7*"}));
  EXPECT_EQ(placed({"0-1", "0-1"}, {"0-1", "0-1"}), (Texts{"1:*", "1:*"}));
  EXPECT_EQ(placed({"0-1", "0-1", "0-1"}, {"0-1", "0-1", "0-1"}), (Texts{"1:", "1:", "1:"}));
}

TEST(HelperCores, OfRanksThatALauncherPinned) {
  EXPECT_EQ(placed({"0-3", "4-7"}, {"0-3", "4-7"}), (Texts{"4: 1 2 3*", "4: 5 6 7*"}));
  EXPECT_EQ(placed({"0", "1"}, {"0", "1"}), (Texts{"1:*", "1:*"}));
}

TEST(HelperCores, OfCallersThatOpenMPBinds) {
  EXPECT_EQ(placed({"0"}, {"0-3"}), (Texts{"4: 1 2 3*"}));
  EXPECT_EQ(placed({"0", "4"}, {"0-7", "0-7"}), (Texts{"4: 1 2 3*", "4: 5 6 7*"}));
  EXPECT_EQ(placed({"0", "1"}, {"0-3", "0-3"}), (Texts{"2: 2*", "2: 3*"}))
      << "no helper is where another rank's calling thread is";
  EXPECT_EQ(placed({"0", "4"}, {"0-3", "4-7"}), (Texts{"4: 1 2 3*", "4: 5 6 7*"}))
      << "within what a launcher left";
  EXPECT_EQ(placed({"0", "0"}, {"0-3", "0-3"}), (Texts{"2: 1", "2: 2"}))
      << "callers on one core do not spin";
  EXPECT_EQ(placed({"0"}, {"0"}, 2), (Texts{"2: 0"}));
}

TEST(HelperCores, OfMoreThreadsThanCores) {
  EXPECT_EQ(placed({"0-1", "0-1"}, {"0-1", "0-1"}, 2), (Texts{"2: 0", "2: 1"}));
  EXPECT_EQ(placed({"0-1"}, {"0-1"}, 4), (Texts{"4: 0 1 0"}));
}

TEST(HelperCores, ThatWereAskedFor) {
  EXPECT_EQ(placed({"0-7"}, {"0-7"}, 3, {6, 2}), (Texts{"3: 6 2*"}));
  EXPECT_EQ(placed({"0"}, {"0-7"}, 3, {6, 2}), (Texts{"3: 6 2*"}));
  EXPECT_EQ(placed({"0-7"}, {"0-7"}, 4, {6, 2}), (Texts{"4: 6 2 6"}));
}

}  // namespace
}  // namespace waybill::engine
