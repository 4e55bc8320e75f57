#include "waybill/env.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

namespace waybill {
namespace {

using namespace std::chrono_literals;

constexpr std::array kNames = {"WAYBILL_TIMEOUT",
                               "WAYBILL_THREADS",
                               "WAYBILL_CORES",
                               "WAYBILL_MAX_MEMORY",
                               "WAYBILL_WINDOW_BYTES",
                               "WAYBILL_SIMD",
                               "WAYBILL_STRICT",
                               "HCCL_BUFFSIZE",
                               "WAYBILL_LOG",
                               "WAYBILL_CHECK",
                               "WAYBILL_HOST",
                               "WAYBILL_PROGRESS",
                               "WAYBILL_KEEPALIVE"};

/// Tests begin without any of the variables and leave the environment as they found it.
class EnvTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (std::size_t i = 0; i < kNames.size(); ++i) {
      if (const char* value = std::getenv(kNames[i])) {
        before_[i] = value;
      }
      unsetenv(kNames[i]);
    }
  }
  void TearDown() override {
    for (std::size_t i = 0; i < kNames.size(); ++i) {
      if (before_[i]) {
        setenv(kNames[i], before_[i]->c_str(), 1);
      } else {
        unsetenv(kNames[i]);
      }
    }
  }

  static Result<Env> with(const char* name, const char* value) {
    setenv(name, value, 1);
    return Env::from_process();
  }

 private:
  std::array<std::optional<std::string>, kNames.size()> before_;
};

TEST_F(EnvTest, Hosts) {
  const auto plain = Env::from_process();
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->host, "");
  EXPECT_FALSE(plain->progress_in_calls);
  EXPECT_EQ(plain->keepalive, 30s);
  EXPECT_EQ(with("WAYBILL_HOST", "node-7")->host, "node-7");
  EXPECT_FALSE(with("WAYBILL_HOST", "two words").ok());
  EXPECT_FALSE(with("WAYBILL_HOST", std::string(128, 'x').c_str()).ok());
  unsetenv("WAYBILL_HOST");
  EXPECT_TRUE(with("WAYBILL_PROGRESS", "call")->progress_in_calls);
  EXPECT_FALSE(with("WAYBILL_PROGRESS", "thread")->progress_in_calls);
  EXPECT_FALSE(with("WAYBILL_PROGRESS", "never").ok());
  unsetenv("WAYBILL_PROGRESS");
  EXPECT_EQ(with("WAYBILL_KEEPALIVE", "2.5")->keepalive, 2500ms);
  EXPECT_EQ(with("WAYBILL_KEEPALIVE", "0")->keepalive, 0ms);
  EXPECT_FALSE(with("WAYBILL_KEEPALIVE", "0.5").ok());
}

TEST_F(EnvTest, WithoutVariablesEverythingHasItsDefault) {
  const auto env = Env::from_process();
  ASSERT_TRUE(env.ok());
  EXPECT_EQ(env->timeout, 300s);
  EXPECT_EQ(env->threads, std::nullopt);
  EXPECT_EQ(env->max_memory_bytes, std::nullopt);
  EXPECT_EQ(env->window_bytes, std::int64_t{64} << 30);
  EXPECT_EQ(env->simd, std::nullopt);
  EXPECT_EQ(env->strict, Strict::kNone);
  EXPECT_EQ(env->hccl_buffsize_mb, 200);
  EXPECT_FALSE(env->log_waits);
  EXPECT_FALSE(env->checked);
}

TEST_F(EnvTest, TimeoutIsInSecondsAndMayHaveAFraction) {
  EXPECT_EQ(with("WAYBILL_TIMEOUT", "7")->timeout, 7s);
  EXPECT_EQ(with("WAYBILL_TIMEOUT", "0.25")->timeout, 250ms);
  EXPECT_EQ(with("WAYBILL_TIMEOUT", "0.001")->timeout, 1ms);
  EXPECT_EQ(with("WAYBILL_TIMEOUT", "1e3")->timeout, 1000s);
}

TEST_F(EnvTest, ThreadsAreAWholeNumber) {
  EXPECT_EQ(with("WAYBILL_THREADS", "1")->threads, 1);
  EXPECT_EQ(with("WAYBILL_THREADS", "1024")->threads, 1024);
  EXPECT_EQ(with("WAYBILL_CORES", "4,0-2")->cores, (std::vector<int>{4, 0, 1, 2}));
}

TEST_F(EnvTest, BytesMayHaveAUnit) {
  constexpr std::int64_t kMiB = std::int64_t{1} << 20;
  EXPECT_EQ(with("WAYBILL_MAX_MEMORY", "1")->max_memory_bytes, 1);
  EXPECT_EQ(with("WAYBILL_MAX_MEMORY", "12345")->max_memory_bytes, 12345);
  EXPECT_EQ(with("WAYBILL_MAX_MEMORY", "3K")->max_memory_bytes, 3 * 1024);
  EXPECT_EQ(with("WAYBILL_MAX_MEMORY", "2.5M")->max_memory_bytes, 5 * kMiB / 2);
  EXPECT_EQ(with("WAYBILL_MAX_MEMORY", "4G")->max_memory_bytes, 4096 * kMiB);
  EXPECT_EQ(with("WAYBILL_MAX_MEMORY", "1T")->max_memory_bytes, 1024 * 1024 * kMiB);
  EXPECT_EQ(with("WAYBILL_WINDOW_BYTES", "2M")->window_bytes, 2 * kMiB);
  EXPECT_EQ(with("WAYBILL_WINDOW_BYTES", "6291456")->window_bytes, 6 * kMiB);
}

TEST_F(EnvTest, SimdIsOneOfThreeNames) {
  EXPECT_EQ(with("WAYBILL_SIMD", "scalar")->simd, SimdLevel::kScalar);
  EXPECT_EQ(with("WAYBILL_SIMD", "avx2")->simd, SimdLevel::kAvx2);
  EXPECT_EQ(with("WAYBILL_SIMD", "avx512")->simd, SimdLevel::kAvx512);
  EXPECT_EQ(with("WAYBILL_SIMD", "neon")->simd, SimdLevel::kNeon);
}

TEST_F(EnvTest, StrictIsOneOfTwoProducts) {
  EXPECT_EQ(with("WAYBILL_STRICT", "a2")->strict, Strict::kA2);
  EXPECT_EQ(with("WAYBILL_STRICT", "a3")->strict, Strict::kA3);
  EXPECT_EQ(with("WAYBILL_STRICT", "")->strict, Strict::kNone);
  EXPECT_EQ(with("HCCL_BUFFSIZE", "4096")->hccl_buffsize_mb, 4096);
  EXPECT_EQ(with("HCCL_BUFFSIZE", "")->hccl_buffsize_mb, 200);
}

TEST_F(EnvTest, DebuggingIsSwitchedOnAndOff) {
  EXPECT_TRUE(with("WAYBILL_LOG", "debug")->log_waits);
  EXPECT_FALSE(with("WAYBILL_LOG", "")->log_waits);
  EXPECT_TRUE(with("WAYBILL_CHECK", "1")->checked);
  EXPECT_FALSE(with("WAYBILL_CHECK", "0")->checked);
  EXPECT_FALSE(with("WAYBILL_CHECK", "")->checked);
}

TEST_F(EnvTest, ItIsReadAtEachCall) {
  EXPECT_EQ(with("WAYBILL_THREADS", "2")->threads, 2);
  EXPECT_EQ(with("WAYBILL_THREADS", "3")->threads, 3);
}

struct BadVariable {
  const char* label;
  const char* name;
  const char* value;
  const char* expected;
};

void PrintTo(const BadVariable& bad, std::ostream* out) { *out << bad.label; }

class BadEnv : public EnvTest, public ::testing::WithParamInterface<BadVariable> {};

TEST_P(BadEnv, NamesTheVariableAndItsValue) {
  const BadVariable& bad = GetParam();
  const Status status = with(bad.name, bad.value).status();
  ASSERT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.info().op, "environment");
  EXPECT_EQ(status.info().argument, bad.name);
  EXPECT_EQ(status.message(),
            std::string(bad.name) + ": expected " + bad.expected + ", got '" + bad.value + "'");
}

std::string label_of(const ::testing::TestParamInfo<BadVariable>& info) { return info.param.label; }

constexpr const char* kSeconds = "seconds, at least 0.001";
constexpr const char* kThreads = "a whole number from 1 to 1024";
constexpr const char* kCores = "a list of cores like 0-15,32, each once";
constexpr const char* kBytes = "a number of bytes, a suffix K, M, G or T allowed";
constexpr const char* kLevels = "scalar, avx2, avx512 or neon";
constexpr const char* kMegabytes = "a whole number of MB, at least 1";

INSTANTIATE_TEST_SUITE_P(
    Env,
    BadEnv,
    ::testing::Values(
        BadVariable{"NoTimeout", "WAYBILL_TIMEOUT", "", kSeconds},
        BadVariable{"ZeroTimeout", "WAYBILL_TIMEOUT", "0", kSeconds},
        BadVariable{"NegativeTimeout", "WAYBILL_TIMEOUT", "-5", kSeconds},
        BadVariable{"TimeoutInWords", "WAYBILL_TIMEOUT", "soon", kSeconds},
        BadVariable{"TimeoutWithUnit", "WAYBILL_TIMEOUT", "5s", kSeconds},
        BadVariable{"EndlessTimeout", "WAYBILL_TIMEOUT", "inf", kSeconds},
        BadVariable{"UndefinedTimeout", "WAYBILL_TIMEOUT", "nan", kSeconds},
        BadVariable{"OverflowingTimeout", "WAYBILL_TIMEOUT", "1e999", kSeconds},
        BadVariable{"ThirtyYears", "WAYBILL_TIMEOUT", "1000000001", kSeconds},
        BadVariable{"NoThreads", "WAYBILL_THREADS", "0", kThreads},
        BadVariable{"HalfAThread", "WAYBILL_THREADS", "1.5", kThreads},
        BadVariable{"NegativeThreads", "WAYBILL_THREADS", "-1", kThreads},
        BadVariable{"TooManyThreads", "WAYBILL_THREADS", "1025", kThreads},
        BadVariable{"ThreadsInWords", "WAYBILL_THREADS", "all", kThreads},
        BadVariable{"NoCores", "WAYBILL_CORES", "", kCores},
        BadVariable{"CoresInWords", "WAYBILL_CORES", "all", kCores},
        BadVariable{"BackwardCores", "WAYBILL_CORES", "3-1", kCores},
        BadVariable{"CoreTwice", "WAYBILL_CORES", "0-3,2", kCores},
        BadVariable{"NoMemory", "WAYBILL_MAX_MEMORY", "0", kBytes},
        BadVariable{"EmptyMemory", "WAYBILL_MAX_MEMORY", "", kBytes},
        BadVariable{"SmallUnit", "WAYBILL_MAX_MEMORY", "3k", kBytes},
        BadVariable{"LongUnit", "WAYBILL_MAX_MEMORY", "3GB", kBytes},
        BadVariable{"NegativeMemory", "WAYBILL_MAX_MEMORY", "-1G", kBytes},
        BadVariable{"MemoryPastAllMachines", "WAYBILL_MAX_MEMORY", "5000000000G", kBytes},
        BadVariable{"WindowInWords", "WAYBILL_WINDOW_BYTES", "large", kBytes},
        BadVariable{"WindowNotOfPages", "WAYBILL_WINDOW_BYTES", "3M", "a multiple of 2M"},
        BadVariable{"UnknownLevel", "WAYBILL_SIMD", "sse", kLevels},
        BadVariable{"LevelOfAnotherCase", "WAYBILL_SIMD", "AVX2", kLevels},
        BadVariable{"NoLevel", "WAYBILL_SIMD", "", kLevels},
        BadVariable{"UnknownProduct", "WAYBILL_STRICT", "a5", "a2 or a3"},
        BadVariable{"BufferInWords", "HCCL_BUFFSIZE", "big", kMegabytes},
        BadVariable{"HalfAMegabyte", "HCCL_BUFFSIZE", "0.5", kMegabytes},
        BadVariable{"BufferWithUnit", "HCCL_BUFFSIZE", "200M", kMegabytes},
        BadVariable{"LogOfAnotherLevel", "WAYBILL_LOG", "info", "debug"},
        BadVariable{"CheckInWords", "WAYBILL_CHECK", "yes", "0 or 1"}),
    label_of);

TEST(SimdLevelNames, AreThoseOfTheVariable) {
  EXPECT_STREQ(name_of(SimdLevel::kScalar), "scalar");
  EXPECT_STREQ(name_of(SimdLevel::kAvx2), "avx2");
  EXPECT_STREQ(name_of(SimdLevel::kAvx512), "avx512");
  EXPECT_STREQ(name_of(SimdLevel::kNeon), "neon");
}

}  // namespace
}  // namespace waybill
