// PTX as compilers and people write it, and as neither would.
#include "runtime/device/ptxsim/Parser.h"

#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <random>
#include <sstream>

namespace moe::ptxsim {
namespace {

const char kHeader[] = ".version 8.0\n.target sm_80\n.address_size 64\n";

const char kSample[] = R"(
.global .align 4 .b32 table[2] = {1, 2};
.extern .shared .align 1024 .b8 dynamic[];
.visible .entry sample(
	.param .align 64 .b8 sample_param_0[128],
	.param .u64 .ptr .global .align 16 sample_param_1,
	.param .u32 sample_param_2
)
.reqntid 64, 1, 1
.minnctapersm 1
{
	.reg .pred 	%p<3>;
	.reg .b32 	%r<9>;
	.reg .b64 	%rd<9>;
	.shared .align 16 .b8 tile[64];
	ld.param.b64 	%rd1, [sample_param_1];
	mov.b64 	%rd2, tile; // a comment
	mov.u32 	%r1, %tid.x;
	setp.lt.u32 	%p1, %r1, 0x20;
	@!%p1 bra 	$L_done;
	{
	.reg .b32 %r1;
	LAB_WAIT:
	add.s32 %r1, -1, 0f3F800000;
	@%p1 bra.uni LAB_WAIT;
	}
	{ LAB_WAIT: elect.sync %r3|%p2, -1; @%p2 bra LAB_WAIT; }
	ld.global.nc.L1::no_allocate.v2.b32 {%r4, _}, [%rd1+-8];
	st.shared.b32 [dynamic+4], %r4;
$L_done:
	ret;
}
)";

TEST(Parser, ReadsDeclarationsScopesAndLabels) {
  auto module = parse(std::string(kHeader) + kSample);
  ASSERT_TRUE(module) << module.error().message;
  EXPECT_EQ(module->version, 80u);
  EXPECT_EQ(module->target, "sm_80");
  const Entry *entry = module->find("sample");
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->paramBytes, 140u);
  EXPECT_EQ(entry->params[1].offset, 128u);
  EXPECT_EQ(entry->requiredBlock[0], 64u);
  ASSERT_EQ(entry->code.size(), 13u);
  const Instruction &branch = entry->code[4];
  EXPECT_TRUE(branch.guardNegated);
  EXPECT_EQ(entry->operands[branch.first].value, 11); // of the ret
  EXPECT_EQ(branch.reconverge, 11u);
  EXPECT_EQ(entry->operands[entry->code[6].first].value, 5); // its own LAB_WAIT
  EXPECT_EQ(entry->operands[entry->code[8].first].value, 7);
  EXPECT_EQ(entry->operands[entry->code[9].first + 1].kind, Operand::Sink);
  EXPECT_EQ(entry->operands[entry->code[9].first + 2].value, -8);
  EXPECT_EQ(entry->shared.size(), 2u);
  EXPECT_EQ(module->globals[0].initial.size(), 8u);
}

struct Wrong {
  const char *body, *message;
};

TEST(Parser, NamesTheLineOfAnError) {
  const Wrong wrongs[] = {
      {"add.s32 %r1, %r2, 1;\n bra nowhere;", "line 7: no label 'nowhere'"},
      {"frobnicate.b32 %r1;", "line 6: unknown instruction"},
      {"add.s33 %r1, %r1, %r1;", "line 6: unknown modifier '.s33'"},
      {"add.s64 %r1, %r1, %r1;", "'%r1' has 32 bits, expected 64"},
      {"setp.eq.s32 %r2, %r1, 0;", "'%r2' has 32 bits, expected 1"},
      {"add.s32 %r1, %r2;", "line 6: add.s32: 2 operands, expected 3"},
      {"mov.b32 %r1, %r9;", "unknown name '%r9'"},
      {"@%r1 ret;", "the guard is not a predicate"},
      {"a: a: ret;", "a second label"},
      {"ld.global.b32 %r1, [%r1;", "expected ']'"},
  };
  for (const Wrong &wrong : wrongs) {
    auto module =
        parse(std::string(kHeader) + ".entry k()\n{ .reg .b32 %r<3>;\n" + wrong.body + "\nret; }");
    ASSERT_FALSE(module) << wrong.body;
    EXPECT_NE(module.error().message.find(wrong.message), std::string::npos)
        << module.error().message;
  }
}

// Any text is answered by a module or an error.
TEST(Parser, SurvivesDamage) {
  const std::string text = std::string(kHeader) + kSample;
  for (size_t size = 0; size < text.size(); ++size)
    (void)bool(parse(std::string_view(text).substr(0, size)));
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = text;
    for (int i = 0; i < 1 + round % 5; ++i) {
      size_t at = random() % damaged.size();
      switch (random() % 3) {
      case 0:
        damaged[at] = char(random());
        break;
      case 1:
        damaged.erase(at, random() % 9);
        break;
      default:
        damaged.insert(at, damaged.substr(random() % damaged.size(), random() % 20));
      }
    }
    (void)bool(parse(damaged));
  }
}

// Files that a compiler wrote, when a folder of them is given.
TEST(Parser, ReadsCompilerOutput) {
  const char *folder = std::getenv("MOE_PTX_FOLDER");
  if (!folder)
    GTEST_SKIP() << "MOE_PTX_FOLDER is not set";
  for (const auto &file : std::filesystem::directory_iterator(folder)) {
    if (file.path().extension() != ".ptx")
      continue;
    std::stringstream text;
    text << std::ifstream(file.path()).rdbuf();
    auto module = parse(text.str());
    EXPECT_TRUE(module) << file.path() << ": " << module.error().message;
  }
}

} // namespace
} // namespace moe::ptxsim
