// Recursive descent over the declarations of a module; bodies are EntryBuilder's.
#include "runtime/device/ptxsim/Parser.h"

#include "runtime/device/ptxsim/EntryBuilder.h"
#include "runtime/device/ptxsim/Flow.h"
#include "runtime/device/ptxsim/ModuleParser.h"

#include <algorithm>
#include <bit>

namespace moe::ptxsim {

static constexpr uint64_t kMostVariableBytes = uint64_t(1) << 28;

Result<uint64_t> Parser::integer() {
  bool negative = accept('-');
  if (peek().kind != Token::Integer)
    return found("a number");
  uint64_t value = take().value;
  return negative ? 0 - value : value;
}

Status Parser::header() {
  if (!accept(".version"))
    return found(".version");
  if (peek().kind != Token::Float)
    return found("a version such as 8.0");
  std::string_view text = take().text;
  for (char c : text)
    if (c >= '0' && c <= '9')
      module.version = module.version * 10 + unsigned(c - '0');
  if (!accept(".target"))
    return found(".target");
  module.target = take().text;
  while (accept(','))
    take();
  return ok();
}

static Space spaceNamed(std::string_view name) {
  return name == ".global"   ? Space::Global
         : name == ".const"  ? Space::Const
         : name == ".shared" ? Space::Shared
         : name == ".local"  ? Space::Local
         : name == ".param"  ? Space::Param
                             : Space::Generic;
}

Status Parser::topLevel() {
  std::string_view word = peek().kind == Token::Word ? peek().text : std::string_view();
  if (word == ".address_size") {
    take();
    MOE_ASSIGN(bits, integer());
    return bits == 64 ? ok() : Status(error("only 64 bit addresses are known"));
  }
  if (word == ".file" || word == ".loc") {
    skipLine();
    return ok();
  }
  if (word == ".section") {
    skipTo('}');
    return ok();
  }
  if (word == ".pragma") {
    skipTo(';');
    return ok();
  }
  while (accept(".visible") || accept(".weak") || accept(".common") || accept(".extern"))
    ;
  if (accept(".entry"))
    return entry();
  if (accept(".func")) { // parsed where it is called
    while (peek().kind != Token::End && !peek().is(';') && !peek().is('{'))
      take();
    if (accept(';'))
      return ok();
    for (size_t open = 0; peek().kind != Token::End;) {
      open += peek().is('{') ? 1 : 0;
      if (take().is('}') && --open == 0)
        return ok();
    }
    return found("'}'");
  }
  Space space = peek().kind == Token::Word ? spaceNamed(peek().text) : Space::Generic;
  if (space == Space::Generic || space == Space::Param || space == Space::Local)
    return found("a declaration");
  take();
  MOE_ASSIGN(declared, variable(space));
  if (space == Space::Shared)
    shared.push_back(declared);
  else
    module.globals.push_back(declared);
  return expect(';');
}

// [.align N] .type name[count] [= {...}], behind its state space.
Result<Variable> Parser::variable(Space space) {
  Variable result;
  result.space = space;
  unsigned bits = 0, vector = 1;
  while (peek().kind == Token::Word && peek().text.starts_with('.')) {
    std::string_view word = take().text;
    if (word == ".align") {
      MOE_ASSIGN(align, integer());
      if (!std::has_single_bit(align) || align > 4096)
        return error("alignment " + std::to_string(align) + " is not a power of two up to 4096");
      result.align = uint32_t(align);
    } else if (word == ".ptr" || word == ".attribute") {
      // Says what a parameter points to: hints only.
    } else if (word == ".v2" || word == ".v4") {
      vector = unsigned(word[2] - '0');
    } else if (Type type = typeNamed(word.substr(1)); type != Type::None && bitsOf(type) >= 8) {
      bits = bitsOf(type);
    } else if (spaceNamed(word) == Space::Generic) {
      return error("unknown type '" + std::string(word) + "'");
    }
    // `.ptr .global .align 16` aligns what the parameter points to, not the parameter.
    if (word == ".ptr") {
      while (peek().kind == Token::Word && peek().text.starts_with('.')) {
        if (take().is(".align"))
          MOE_TRY(integer());
      }
    }
  }
  if (!bits)
    return found("a type");
  if (peek().kind != Token::Word)
    return found("a name");
  result.name = take().text;
  result.bytes = bits / 8 * vector;
  result.align = std::max(result.align, uint32_t(result.bytes));
  if (peek().is('[') && result.bytes > bits / 8)
    return error("arrays of vectors are not known");
  while (accept('[')) {
    if (accept(']')) {
      result.dynamic = true;
      result.bytes = 0;
      continue;
    }
    MOE_ASSIGN(count, integer());
    if (count > kMostVariableBytes || result.bytes * count > kMostVariableBytes)
      return error("'" + result.name + "' is too large");
    result.bytes *= count;
    MOE_TRY(expect(']'));
  }
  if (accept('='))
    MOE_TRY(initializer(result, bits));
  return result;
}

Status Parser::initializer(Variable &variable, unsigned bits) {
  bool braces = accept('{');
  do {
    uint64_t value = 0;
    if (peek().kind == Token::Float) {
      Token token = take();
      value = token.value;
      if (bits == 32 && !token.single)
        value = std::bit_cast<uint32_t>(float(std::bit_cast<double>(value)));
    } else {
      MOE_ASSIGN(number, integer());
      value = number;
    }
    if (variable.initial.size() + bits / 8 > variable.bytes)
      return error("'" + variable.name + "' has more values than room");
    for (unsigned i = 0; i < bits / 8; ++i)
      variable.initial.push_back(uint8_t(value >> 8 * i));
  } while (braces && accept(','));
  return braces ? expect('}') : ok();
}

Status Parser::params(Entry &entry) {
  if (!accept('('))
    return ok();
  while (!peek().is(')')) {
    if (!accept(".param"))
      return found(".param");
    MOE_ASSIGN(param, variable(Space::Param));
    uint64_t offset = (entry.paramBytes + uint64_t(param.align) - 1) & ~uint64_t(param.align - 1);
    if (offset + param.bytes > 32764)
      return error("more than 32764 bytes of parameters");
    param.offset = offset;
    entry.paramBytes = uint32_t(offset + param.bytes);
    entry.params.push_back(param);
    if (!accept(','))
      break;
  }
  return expect(')');
}

Status Parser::performance(Entry &entry) {
  while (peek().kind == Token::Word && peek().text.starts_with('.')) {
    Token directive = take();
    std::array<uint32_t, 3> values{1, 1, 1};
    if (directive.is(".pragma")) {
      skipTo(';');
      continue;
    }
    for (size_t i = 0; peek().kind == Token::Integer && i < 3; ++i) {
      values[i] = uint32_t(take().value);
      if (!accept(','))
        break;
    }
    if (directive.is(".maxntid"))
      entry.mostThreads = values;
    else if (directive.is(".reqntid"))
      entry.requiredBlock = values;
    else if (directive.is(".reqnctapercluster"))
      entry.cluster = values;
    else if (!directive.is(".minnctapersm") && !directive.is(".maxnreg") &&
             !directive.is(".explicitcluster") && !directive.is(".maxclusterrank") &&
             !directive.is(".maxnctapersm") && !directive.is(".noreturn"))
      return error("unknown directive '" + std::string(directive.text) + "'");
  }
  return ok();
}

Status Parser::entry() {
  Entry entry;
  if (peek().kind != Token::Word)
    return found("a name");
  entry.name = take().text;
  if (module.find(entry.name))
    return error("a second entry '" + entry.name + "'");
  MOE_TRY(params(entry));
  MOE_TRY(performance(entry));
  MOE_TRY(expect('{'));
  EntryBuilder builder(entry, module, shared);
  MOE_TRY(body(builder));
  MOE_TRY(builder.finish(peek().line));
  findReconvergence(entry);
  selectHandlers(entry);
  module.entries.push_back(std::move(entry));
  return ok();
}

// Up to the brace that closes the scope.
Status Parser::body(EntryBuilder &builder) {
  if (++depth > 64)
    return error("scopes are nested too deep");
  builder.openScope();
  while (!accept('}')) {
    if (peek().kind == Token::End || peek().kind == Token::Bad)
      return found("'}'");
    if (accept('{')) {
      MOE_TRY(body(builder));
    } else if (peek().is(".reg")) {
      MOE_TRY(registers(builder));
    } else if (peek().is(".loc") || peek().is(".file")) {
      skipLine();
    } else if (peek().is(".pragma")) {
      skipTo(';');
    } else if (peek().kind == Token::Word && peek().text.starts_with('.')) {
      Space space = spaceNamed(peek().text);
      if (space != Space::Shared && space != Space::Local && space != Space::Param)
        return found("an instruction");
      if (space == Space::Shared && !calling.empty())
        return Error{Code::Unimplemented, "line " + std::to_string(peek().line) +
                                              ": shared variables of device functions are not "
                                              "simulated: declare them outside"};
      take();
      MOE_ASSIGN(declared, variable(space));
      if (space == Space::Param) // of a call
        declared.space = Space::Local;
      if (auto status = builder.declare(declared); !status)
        return error(status.error().message);
      MOE_TRY(expect(';'));
    } else if (peek().kind == Token::Word && peek(1).is(':')) {
      Token label = take();
      take();
      if (!builder.label(label.text))
        return error("a second label '" + std::string(label.text) + "'");
    } else if (!accept(';')) {
      MOE_TRY(instruction(builder));
    }
  }
  builder.closeScope();
  --depth;
  return ok();
}

// .reg .b32 %r<22>, a;
Status Parser::registers(EntryBuilder &builder) {
  take();
  if (peek().kind != Token::Word || !peek().text.starts_with('.'))
    return found("a type");
  Type type = typeNamed(take().text.substr(1));
  unsigned bits = bitsOf(type);
  if (type != Type::Pred && bits != 16 && bits != 32 && bits != 64 && bits != 8)
    return error("registers of this type are not known");
  do {
    if (peek().kind != Token::Word)
      return found("a register");
    std::string_view name = take().text;
    uint64_t count = 0;
    if (accept('<')) {
      MOE_ASSIGN(number, integer());
      count = number;
      MOE_TRY(expect('>'));
      if (count == 0)
        return error("no registers '" + std::string(name) + "'");
    }
    builder.declareRegisters(name, count, type == Type::Pred ? 1 : bits == 8 ? 16 : bits);
  } while (accept(','));
  return expect(';');
}

Status Parser::instruction(EntryBuilder &builder) {
  uint32_t line = peek().line;
  builder.begin(line);
  bool negated = false;
  Token guard;
  if (accept('@')) {
    negated = accept('!');
    guard = take();
    if (guard.kind != Token::Word || !builder.guard(guard.text, negated))
      return error("the guard is not a predicate");
  }
  if (peek().kind != Token::Word)
    return found("an instruction");
  Token name = take();
  if (name.is("call") || name.is("call.uni")) {
    if (guard.kind == Token::End)
      return call(builder, line);
    size_t past = builder.branchUnless(line, guard.text, negated);
    MOE_TRY(call(builder, line));
    builder.land(past);
    return ok();
  }
  auto opcode = decodeOpcode(name.text);
  if (!opcode)
    return Error{opcode.error().code, "line " + std::to_string(name.line) + ": " +
                                          opcode.error().message + " in '" +
                                          std::string(name.text) + "'"};
  if (!peek().is(';') && !peek().is('}')) {
    do
      MOE_TRY(operand(builder));
    while (accept(','));
  }
  if (!peek().is('}'))
    MOE_TRY(expect(';'));
  if (auto status = builder.end(*opcode); !status)
    return Error{status.error().code, "line " + std::to_string(name.line) + ": " +
                                          std::string(name.text) + ": " + status.error().message};
  return ok();
}

Status Parser::operand(EntryBuilder &builder) {
  builder.beginGroup();
  if (accept('{')) {
    do
      MOE_TRY(element(builder));
    while (accept(','));
    return expect('}');
  }
  if (accept('['))
    return address(builder);
  MOE_TRY(element(builder));
  if (accept('|'))
    MOE_TRY(element(builder));
  return ok();
}

Status Parser::address(EntryBuilder &builder) {
  Token base = take();
  if (base.kind != Token::Word && base.kind != Token::Integer)
    return found("an address");
  int64_t offset = 0;
  if (peek().is('+') || peek().is('-')) {
    bool negative = take().is('-');
    MOE_ASSIGN(value, integer());
    offset = int64_t(negative ? 0 - value : value);
  }
  builder.address(base, offset);
  if (accept(',')) { // the coordinates of a tensor
    MOE_TRY(expect('{'));
    do
      MOE_TRY(element(builder));
    while (accept(','));
    MOE_TRY(expect('}'));
  }
  return expect(']');
}

Status Parser::element(EntryBuilder &builder) {
  bool negated = accept('!');
  bool negative = accept('-');
  Token token = take();
  if (token.kind != Token::Word && token.kind != Token::Integer && token.kind != Token::Float)
    return error("expected an operand, found '" + std::string(token.text) + "'");
  if (negative && token.kind == Token::Integer)
    token.value = 0 - token.value;
  if (negative && token.kind == Token::Float)
    token.value ^= uint64_t(1) << (token.single ? 31 : 63);
  int64_t offset = 0;
  if (token.kind == Token::Word && peek().is('+')) {
    take();
    MOE_ASSIGN(value, integer());
    offset = int64_t(value);
  }
  builder.element(token, negated, offset);
  return ok();
}

Result<Module> Parser::run() {
  findFunctions();
  MOE_TRY(header());
  while (peek().kind != Token::End)
    MOE_TRY(topLevel());
  return std::move(module);
}

Result<Module> parse(std::string_view text) { return Parser(text).run(); }

} // namespace moe::ptxsim
