#include "base/cores.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

namespace waybill {
namespace {

CoreSet set(const char* list) { return core_set_of(parse_cores(list).value()); }

std::string decided(const CoreFacts& facts) { return to_text(decide_cores(facts).cores); }

TEST(CoreLists, AreInTheOrderOfTheirAuthor) {
  EXPECT_EQ(parse_cores("7"), std::vector<int>{7});
  EXPECT_EQ(parse_cores("4,0-2,1023"), (std::vector<int>{4, 0, 1, 2, 1023}));
  EXPECT_EQ(parse_cores("3-3"), std::vector<int>{3});
}

TEST(CoreLists, ThatAreNone) {
  for (const char* list : {"",       ",",           "0,",  ",0",   "1,,2",  "-1",    "1-",  "-",
                           "2-1",    "0 ",          " 0",  "0, 1", "1-2-3", "0-3,2", "5,5", "1024",
                           "0-1024", "99999999999", "all", "0x1",  "+1",    "1--2",  "1.5"}) {
    EXPECT_FALSE(parse_cores(list)) << "'" << list << "'";
  }
}

TEST(CoreSets, AsText) {
  EXPECT_EQ(to_text({}), "none");
  EXPECT_EQ(to_text(set("0")), "0");
  EXPECT_EQ(to_text(set("32,0-15,64-65,1023")), "0-15,32,64-65,1023");
  EXPECT_EQ(list_of(set("70,3")), (std::vector<int>{3, 70}));
  EXPECT_EQ(count(set("60-70")), 11);
  EXPECT_TRUE(intersect(set("0-3"), set("3-5")));
  EXPECT_FALSE(intersect(set("0-2"), set("3-5")));
  EXPECT_EQ(to_text(without(set("0-5"), set("1,4"))), "0,2-3,5");
}

TEST(CoresOfAProcess, WithoutOpenMP) {
  EXPECT_EQ(decided({set("0-15"), set("0-15"), set("0-15")}), "0-15");
  EXPECT_EQ(decided({set("4-7"), set("4-7"), set("0-15")}), "4-7")
      << "pinned after some library had started threads";
  EXPECT_EQ(decided({set("0"), set("0"), set("0")}), "0") << "a launcher left one core";
  EXPECT_EQ(decided({set("0"), set("0"), set("0-15")}), "0-15") << "the main thread alone is bound";
  EXPECT_EQ(decided({set("0-7"), set("3"), set("0-7")}), "0-7") << "the calling thread is";
}

CoreFacts bound(const char* core, int counted) {
  CoreFacts facts{set(core), set(core), set(core)};
  facts.before_binding = counted;
  facts.places = set(core);
  facts.permitted = set("0-15");
  facts.parent = set("0-15");
  return facts;
}

TEST(CoresOfAProcess, BoundByOpenMP) {
  EXPECT_EQ(decided(bound("0", 16)), "0-15") << "nobody narrowed it";
  EXPECT_EQ(decided(bound("3", 1)), "3") << "a launcher did, to one core";
  EXPECT_EQ(decided(bound("0-1", 16)), "0-15") << "to the threads of a core";
  CoreFacts facts = bound("4", 4);
  facts.places = set("4-7");
  EXPECT_EQ(decided(facts), "4-7") << "a launcher did, and OpenMP has its cores as places";
  facts.places = set("4");
  facts.threads = set("4-7");
  EXPECT_EQ(decided(facts), "4-7") << "and OpenMP's threads are bound to them";
  facts.threads = set("4");
  facts.parent = set("4-7");
  EXPECT_EQ(decided(facts), "4-7") << "and so is the launcher";
}

TEST(CoresOfAProcess, ThatCannotBeFound) {
  CoreFacts facts = bound("4", 4);
  EXPECT_EQ(decided(facts), "4") << "a launcher narrowed it, OpenMP has one place";
  EXPECT_EQ(to_text(decide_cores(facts).allowed), "0-15") << "who knows better may say so";
  facts.parent = set("8-11");
  EXPECT_EQ(decided(facts), "4") << "as many, but not these";
}

TEST(CoresOfAProcess, OfThisOne) {
  const ProcessCores own = process_cores();
  EXPECT_GE(count(own.cores), 1);
  EXPECT_EQ(count(without(cores_of_thread(), own.cores)), 0);
  CoreSet seen{};
  std::string name;
  const int core = list_of(own.cores).back();
  std::thread([&] {
    begin_thread("waybill-test", core_set_of({core}));
    seen = cores_of_thread();
    std::array<char, 16> text{};
    pthread_getname_np(pthread_self(), text.data(), text.size());
    name = text.data();
    EXPECT_EQ(to_text(process_cores().cores), to_text(own.cores)) << "from a bound thread";
  }).join();
  EXPECT_EQ(list_of(seen), std::vector<int>{core});
  EXPECT_EQ(name, "waybill-test");
}

}  // namespace
}  // namespace waybill
