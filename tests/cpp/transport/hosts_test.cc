#include "transport/hosts.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <numeric>
#include <set>
#include <vector>

namespace waybill::transport {
namespace {

TEST(Hosts, AreNumberedInTheOrderOfTheirFirstRanks) {
  EXPECT_EQ(number_hosts({"b", "a", "b", "c", "a"}), (std::vector<int>{0, 1, 0, 2, 1}));
  EXPECT_EQ(number_hosts({}), std::vector<int>());
}

TEST(Hosts, ThisOneHasANameThatStays) {
  const std::string name = this_host();
  EXPECT_EQ(name, this_host());
  EXPECT_NE(name.find("-" + std::to_string(geteuid())), std::string::npos);
  EXPECT_EQ(name.find(' '), std::string::npos);
}

TEST(Agents, SpreadTheRanksOfAHostOverThoseOfAnother) {
  const std::vector<int> hosts{0, 0, 0, 1, 1, 1};
  const std::vector<int> members{0, 1, 2, 3, 4, 5};
  std::set<int> agents;
  for (const int source : {0, 1, 2}) {
    agents.insert(agent_of(members, hosts, source, 1));
  }
  EXPECT_EQ(agents, (std::set<int>{3, 4, 5}));
}

TEST(Agents, AreMembersOnly) {
  const std::vector<int> hosts{0, 1, 0, 1, 2};
  // Rank 1 does not take part; the order of members is that of their new numbers.
  const std::vector<int> members{3, 0, 2, 4};
  EXPECT_EQ(agent_of(members, hosts, 0, 1), 3);
  EXPECT_EQ(agent_of(members, hosts, 2, 1), 3);
  EXPECT_EQ(agent_of(members, hosts, 3, 2), 4);
  EXPECT_EQ(agent_of({0, 2}, hosts, 0, 1), -1);
}

TEST(Agents, AreTheSameWhoeverAsks) {
  // Sender and receivers compute it from the same list; it depends on nothing else.
  const std::vector<int> hosts{0, 1, 2, 0, 1, 2, 0, 1};
  std::vector<int> members(hosts.size());
  std::iota(members.begin(), members.end(), 0);
  for (int source = 0; source < 8; ++source) {
    for (int host = 0; host < 3; ++host) {
      const int agent = agent_of(members, hosts, source, host);
      EXPECT_EQ(hosts[static_cast<std::size_t>(agent)], host);
    }
  }
}

}  // namespace
}  // namespace waybill::transport
