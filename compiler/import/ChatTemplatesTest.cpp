#include "compiler/import/ChatTemplates.h"

#include "runtime/text/ChatTemplate.h"

#include <gtest/gtest.h>

#include <fstream>

using namespace moe;

// SHA-256 of "ab" and of nothing.
TEST(ChatTemplates, hashLeavesOutCommentsAndSpace) {
  const char *ab = "fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603";
  const char *nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
  EXPECT_EQ(chatTemplateHash("ab"), ab);
  EXPECT_EQ(chatTemplateHash(" a\n\tb\r\n"), ab);
  EXPECT_EQ(chatTemplateHash("{# x #}a{#- {{ y }}\n-#}b{#c#}"), ab);
  EXPECT_EQ(chatTemplateHash("ab{# not closed"), ab);
  EXPECT_EQ(chatTemplateHash(""), nothing);
  EXPECT_NE(chatTemplateHash("aB"), ab);
}

TEST(ChatTemplates, knowsTheTemplateOfCria) {
  std::ifstream file(MOE_SOURCE_DIR "/models/cria/chat_template.jinja");
  std::string text(std::istreambuf_iterator<char>(file), {});
  EXPECT_STREQ(toolsOfChatTemplate(text), ChatFormat::kHfJson);
  EXPECT_STREQ(toolsOfChatTemplate("{# mine #}\n" + text + "\n"), ChatFormat::kHfJson);
  EXPECT_EQ(toolsOfChatTemplate(text + "{{ x }}"), nullptr);
  EXPECT_EQ(toolsOfChatTemplate(""), nullptr);
}
