#include "runtime/server/http/Server.h"

#include <gtest/gtest.h>

using namespace moe::server::http;

namespace {
TEST(NoTls, IsSaidWhereACertificateIsGiven) {
  Options options;
  options.port = 0;
  options.certificate = "server.crt";
  options.privateKey = "server.key";
  const auto made =
      Server::create(options, [](const HttpRequest &, const std::shared_ptr<Reply> &) {});
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message.find("this build has no TLS"), std::string::npos)
      << made.error().message;
}
} // namespace
