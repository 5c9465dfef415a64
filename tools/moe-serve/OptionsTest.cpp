#include "tools/moe-serve/Options.h"

#include <gtest/gtest.h>

namespace moe {
namespace {

TEST(ServeOptions, ReadsBytes) {
  for (const auto &[text, bytes] : {std::pair<const char *, uint64_t>{"512", 512},
                                    {"64K", 64 << 10},
                                    {"1.5m", 3 << 19},
                                    {"8G", uint64_t(8) << 30},
                                    {"2GB", uint64_t(2) << 30},
                                    {"1t", uint64_t(1) << 40}}) {
    const auto read = parseBytes(text);
    ASSERT_TRUE(read) << text;
    EXPECT_EQ(*read, bytes) << text;
  }
  for (const char *text :
       {"", "G", "-1", "0", "1X", "1GiB", "1 G", "nan", "inf", "1e300", "0x10", "99999999T"}) {
    const auto read = parseBytes(text);
    EXPECT_FALSE(read) << text;
    EXPECT_NE(read.error().message.find(std::string("'") + text + "'"), std::string::npos);
  }
}

TEST(ServeOptions, NamesPlans) {
  const auto named =
      namedPlans({"a.plan", "dir=x/b.plan", "/deep/c.plan", "odd=/d=e/f", "./g=h.plan"});
  ASSERT_TRUE(named);
  const std::vector<std::pair<std::string, std::string>> expected{{"a", "a.plan"},
                                                                  {"dir", "x/b.plan"},
                                                                  {"c", "/deep/c.plan"},
                                                                  {"odd", "/d=e/f"},
                                                                  {"g=h", "./g=h.plan"}};
  ASSERT_EQ(named->size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ((*named)[i].name, expected[i].first);
    EXPECT_EQ((*named)[i].path, expected[i].second);
  }
}

TEST(ServeOptions, GivesPlansTheirAliases) {
  const auto named = namedPlans({"a.plan", "b.plan"}, {"x=b", "y=b"});
  ASSERT_TRUE(named);
  EXPECT_TRUE((*named)[0].aliases.empty());
  EXPECT_EQ((*named)[1].aliases, (std::vector<std::string>{"x", "y"}));
  for (const char *alias : {"x", "=a", "x=", "x=c", "", "a"}) {
    const auto refused = namedPlans({"a.plan"}, {alias});
    ASSERT_FALSE(refused) << alias;
    EXPECT_EQ(refused.error().message,
              std::string("--alias ") + alias + ": expected ALIAS=NAME with the name of a plan");
  }
}

TEST(ServeOptions, RefusesNamesThatSayNothing) {
  for (const std::vector<std::string> &plans : {std::vector<std::string>{"=a.plan"},
                                                {"a="},
                                                {".plan"},
                                                {"dir/"},
                                                {"a.plan", "b/a.plan"},
                                                {"x=1", "x=2"}})
    EXPECT_FALSE(namedPlans(plans)) << plans[0];
}

} // namespace
} // namespace moe
