// Looks up the words of an instruction's name.
#include "runtime/device/ptxsim/Opcode.h"

#include <string>
#include <unordered_map>

namespace moe::ptxsim {

namespace {

using Words = std::unordered_map<std::string_view, uint8_t>;

const Words &ops() {
  static const Words words = {
#define MOE_X(id, name) {name, uint8_t(Op::id)},
      MOE_PTX_OPS(MOE_X)
#undef MOE_X
  };
  return words;
}

const Words &mods() {
  static const Words words = {
#define MOE_X(id, name) {name, uint8_t(Mod::id)},
      MOE_PTX_MODS(MOE_X)
#undef MOE_X
  };
  return words;
}

const Words &types() {
  static const Words words = {
#define MOE_X(id, name, bits) {name, uint8_t(Type::id)},
      MOE_PTX_TYPES(MOE_X)
#undef MOE_X
  };
  return words;
}

bool isDigit(char c) { return c >= '0' && c <= '9'; }

// Reads digits at WORD[AT] and moves AT behind them; false if there are none or too many.
bool readNumber(std::string_view word, size_t &at, uint16_t &number) {
  size_t start = at;
  unsigned value = 0;
  for (; at < word.size() && isDigit(word[at]) && value < 1000; ++at)
    value = value * 10 + unsigned(word[at] - '0');
  number = uint16_t(value);
  return at > start;
}

bool readShape(std::string_view word, Opcode &opcode) {
  uint16_t m, n, k = 0;
  size_t at = 1;
  if (word[0] != 'm' || !readNumber(word, at, m) || at == word.size() || word[at++] != 'n' ||
      !readNumber(word, at, n))
    return false;
  if (at < word.size() && (word[at++] != 'k' || !readNumber(word, at, k)))
    return false;
  if (at != word.size())
    return false;
  opcode.m = m, opcode.n = n, opcode.k = k;
  return true;
}

bool readWord(std::string_view word, Opcode &opcode) {
  if (auto type = types().find(word); type != types().end()) {
    if (opcode.typeCount == opcode.types.size())
      return false;
    opcode.types[opcode.typeCount++] = Type(type->second);
    return true;
  }
  if (auto mod = mods().find(word); mod != mods().end() && word != "::") {
    opcode.mods.set(mod->second);
    return true;
  }
  if (word.starts_with("L1::") || word.starts_with("L2::")) {
    opcode.mods.set(unsigned(Mod::Hint));
    return true;
  }
  if (word.size() == 2 && isDigit(word[1]) && (word[0] == 'v' || word[0] == 'x')) {
    unsigned number = unsigned(word[1] - '0');
    if (number != 1 && number != 2 && number != 4 && number != 8)
      return false;
    (word[0] == 'v' ? opcode.vector : opcode.count) = uint8_t(number);
    return true;
  }
  if (word.size() == 2 && word[1] == 'd' && word[0] >= '1' && word[0] <= '5') {
    opcode.dims = uint8_t(word[0] - '0');
    return true;
  }
  return readShape(word, opcode);
}

} // namespace

std::string_view nameOf(Type type) {
  static constexpr std::string_view names[] = {
#define MOE_X(id, name, bits) name,
      MOE_PTX_TYPES(MOE_X)
#undef MOE_X
          "none"};
  return names[unsigned(type)];
}

std::string_view nameOf(Op op) {
  static constexpr std::string_view names[] = {
#define MOE_X(id, name) name,
      MOE_PTX_OPS(MOE_X)
#undef MOE_X
  };
  return names[unsigned(op)];
}

Type typeNamed(std::string_view name) {
  auto type = types().find(name);
  return type == types().end() ? Type::None : Type(type->second);
}

Space Opcode::space() const {
  if (hasAny({Mod::Shared, Mod::SharedCta, Mod::SharedCluster}))
    return Space::Shared;
  if (has(Mod::Global))
    return Space::Global;
  if (has(Mod::Param))
    return Space::Param;
  if (has(Mod::Local))
    return Space::Local;
  return has(Mod::Const) ? Space::Const : Space::Generic;
}

Result<Opcode> decodeOpcode(std::string_view text) {
  Opcode opcode;
  size_t dot = text.find('.');
  auto op = ops().find(text.substr(0, dot));
  if (op == ops().end())
    return Error{Code::Unimplemented, "unknown instruction '" + std::string(text) + "'"};
  opcode.op = Op(op->second);
  while (dot != std::string_view::npos) {
    text.remove_prefix(dot + 1);
    dot = text.find('.');
    std::string_view word = text.substr(0, dot);
    if (word.empty() || !readWord(word, opcode))
      return Error{Code::Unimplemented, "unknown modifier '." + std::string(word) + "'"};
  }
  return opcode;
}

} // namespace moe::ptxsim
