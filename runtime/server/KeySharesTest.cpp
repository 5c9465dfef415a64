#include "runtime/server/KeyShares.h"

#include <gtest/gtest.h>

namespace moe::server {
namespace {

TEST(KeyShares, RemembersWhatAKeyHasHad) {
  KeyShares shares;
  const size_t a = shares.enter("a");
  shares.charge(a, 100);
  EXPECT_EQ(shares.enter("a"), a);
  shares.leave(a);
  shares.leave(a);
  EXPECT_EQ(shares.enter("a"), a);
  EXPECT_EQ(shares.all()[a].served, 100);
  EXPECT_TRUE(shares.all()[a].limited);
  const size_t nobody = shares.enter("");
  EXPECT_FALSE(shares.all()[nobody].limited);
}

TEST(KeyShares, DoesNotLetAKeySaveUp) {
  KeyShares shares;
  const size_t a = shares.enter("a"), b = shares.enter("b");
  shares.charge(a, 1000);
  shares.charge(b, 300);
  const size_t fresh = shares.enter("new");
  EXPECT_EQ(shares.all()[fresh].served, 300);
  shares.leave(b);
  shares.charge(fresh, 500);
  const size_t again = shares.enter("b"); // left at 300, now beside 1000 and 800
  EXPECT_EQ(shares.all()[again].served, 800);
}

TEST(KeyShares, ForgetsKeysWithoutRequests) {
  KeyShares shares;
  for (int i = 0; i < 5000; ++i)
    shares.leave(shares.enter("key " + std::to_string(i)));
  EXPECT_LE(shares.all().size(), 1025u);
  // Those with requests stay, however many.
  for (int i = 0; i < 2000; ++i)
    shares.enter("open " + std::to_string(i));
  EXPECT_GE(shares.all().size(), 2000u);
}

} // namespace
} // namespace moe::server
