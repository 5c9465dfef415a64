#include "runtime/server/api/Batch.h"

#include "runtime/server/api/TestApi.h"

#include <nlohmann/json.hpp>

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <set>

#include <unistd.h>

using namespace moe;
using namespace moe::server;
using namespace moe::server::api;
using nlohmann::json;

namespace {

// Requests move on while the batch waits for them: each call of the queue asks for the next.
class Batch : public testing::Test {
protected:
  Batch() {
    path = testing::TempDir() + "moe-batch-" + std::to_string(::getpid());
    options.input = path + ".in";
    options.output = path + ".out";
    std::remove(options.output.c_str());
    options.interrupted = [this] {
      test.queue.post([this] { test.generator->step(); });
      return interrupt;
    };
  }
  ~Batch() override {
    std::remove(options.input.c_str());
    std::remove(options.output.c_str());
  }

  void writeInput(int lines) {
    std::ofstream file(options.input);
    for (int i = 0; i < lines; ++i)
      file << json{{"custom_id", std::to_string(i)},
                   {"method", "POST"},
                   {"url", "/v1/completions"},
                   {"body", {{"prompt", "x"}, {"max_tokens", 3}}}}
                  .dump()
           << "\n";
  }

  std::vector<json> outputLines() const {
    std::vector<json> lines;
    std::ifstream file(options.output);
    for (std::string line; std::getline(file, line);)
      lines.push_back(json::parse(line));
    return lines;
  }

  std::set<std::string> outputIds() const {
    std::set<std::string> ids;
    for (const json &line : outputLines())
      EXPECT_TRUE(ids.insert(line["custom_id"]).second) << line;
    return ids;
  }

  TestApi test;
  BatchOptions options;
  std::string path;
  bool interrupt = false;
};

TEST_F(Batch, AnswersEachLine) {
  writeInput(40);
  options.parallel = 7;
  const auto result = runBatch(*test.api, test.queue, options);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->lines, 40);
  EXPECT_EQ(result->answered, 40);
  EXPECT_EQ(outputIds().size(), 40u);
  const json line = outputLines()[0];
  EXPECT_EQ(line["response"]["status_code"], 200);
  EXPECT_EQ(line["response"]["body"]["choices"][0]["text"], "Hel");
  EXPECT_TRUE(line["error"].is_null());
}

TEST_F(Batch, GoesOnWhereItWasInterrupted) {
  writeInput(30);
  options.parallel = 4;
  options.progress = [&](int64_t done, int64_t) { interrupt = interrupt || done == 10; };
  auto result = runBatch(*test.api, test.queue, options);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_TRUE(result->interrupted);
  const auto before = outputIds();
  EXPECT_GE(before.size(), 1u);
  EXPECT_LT(before.size(), 30u);
  EXPECT_EQ(test.generator->open(), 0u);
  // As a process leaves it that is killed while it writes.
  std::ofstream(options.output, std::ios::app) << R"({"id":"batch_req_1","custom_id":"29","resp)";
  interrupt = false;
  options.progress = nullptr;
  result = runBatch(*test.api, test.queue, options);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(result->skipped, int64_t(before.size()));
  EXPECT_EQ(outputIds().size(), 30u);
  result = runBatch(*test.api, test.queue, options);
  EXPECT_EQ(result->skipped, 30);
  EXPECT_EQ(result->answered, 0);
}

TEST_F(Batch, KeepsAnswersThatAreErrors) {
  std::ofstream(options.input)
      << R"({"custom_id":"a","url":"/v1/completions","body":{}})" << "\n\n"
      << R"({"custom_id":"b","url":"/v1/none","body":{}})" << "\n"
      << R"({"custom_id":"c","url":"/v1/completions","body":{"prompt":"x","stream":true}})";
  const auto result = runBatch(*test.api, test.queue, options);
  ASSERT_TRUE(result) << result.error().message;
  std::map<std::string, json> lines;
  for (const json &line : outputLines())
    lines[line["custom_id"]] = line;
  EXPECT_EQ(lines["a"]["response"]["status_code"], 400);
  EXPECT_EQ(lines["a"]["response"]["body"]["error"]["param"], "prompt");
  EXPECT_GE(lines["b"]["response"]["status_code"], 404);
  EXPECT_TRUE(lines["c"]["response"].is_null());
  EXPECT_NE(lines["c"]["error"]["message"].get<std::string>().find("stream"), std::string::npos);
}

TEST_F(Batch, ChecksAllLinesFirst) {
  const std::string good = R"({"custom_id":"a","url":"/v1/completions","body":{"prompt":"x"}})";
  for (const std::string &bad :
       {std::string("{"), std::string("[]"), std::string("{}"), good,
        std::string(R"({"custom_id":"b","url":"http://x","body":{}})"),
        std::string(R"({"custom_id":"b","url":"/v1/completions"})"),
        std::string(R"({"custom_id":"b","method":"GET","url":"/v1/models","body":{}})"),
        std::string(R"({"custom_id":7,"url":"/v1/completions","body":{}})")}) {
    std::ofstream(options.input) << good << "\n" << bad << "\n";
    const auto result = runBatch(*test.api, test.queue, options);
    ASSERT_FALSE(result) << bad;
    EXPECT_NE(result.error().message.find("line 2"), std::string::npos) << result.error().message;
    EXPECT_TRUE(test.generator->seen.empty());
  }
  std::ofstream(options.input) << good << "\n";
  options.output = options.input;
  EXPECT_EQ(runBatch(*test.api, test.queue, options).error().code, Code::InvalidArgument);
  options.input += ".none";
  options.output += ".out";
  EXPECT_EQ(runBatch(*test.api, test.queue, options).error().code, Code::IoError);
  EXPECT_FALSE(std::ifstream(options.output)); // nothing was left behind
}

} // namespace
