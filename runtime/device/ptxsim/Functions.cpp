// Device functions. A call is replaced by the body of what it calls, whose .param variables are
// local memory of the caller; so there is no stack, and no recursion.
#include "runtime/device/ptxsim/ModuleParser.h"

#include <algorithm>

namespace moe::ptxsim {

void Parser::findFunctions() {
  size_t open = 0;
  for (at = 0; peek().kind != Token::End; take()) {
    open += peek().is('{') ? 1 : 0;
    open -= peek().is('}') && open ? 1 : 0;
    if (open || !peek().is(".func"))
      continue;
    size_t start = at + 1;
    std::string name;
    for (size_t parentheses = 0; !peek(1).is('{') && !peek(1).is(';');) {
      take();
      if (peek().kind == Token::End)
        break;
      parentheses += peek().is('(') ? 1 : 0;
      parentheses -= peek().is(')') && parentheses ? 1 : 0;
      if (!parentheses && name.empty() && peek().kind == Token::Word)
        name = peek().text;
    }
    if (peek(1).is('{'))
      functions.emplace(name, start);
  }
  at = 0;
}

// (.param .b32 a, .reg .b32 b), or nothing.
Result<std::vector<Parser::Formal>> Parser::formals() {
  std::vector<Formal> result;
  if (!accept('('))
    return result;
  while (!peek().is(')')) {
    bool isRegister = accept(".reg");
    if (!isRegister && !accept(".param"))
      return found(".param or .reg");
    if (isRegister && peek().is(".pred"))
      return error("predicates cannot be passed to functions");
    MOE_ASSIGN(declared, variable(Space::Local));
    result.push_back({isRegister, std::move(declared)});
    if (!accept(','))
      break;
  }
  MOE_TRY(expect(')'));
  return result;
}

Result<std::vector<Parser::Actual>> Parser::actuals() {
  std::vector<Actual> result;
  MOE_TRY(expect('('));
  while (!peek().is(')')) {
    bool negated = accept('-');
    Token token = take();
    if (token.kind != Token::Word && token.kind != Token::Integer && token.kind != Token::Float)
      return error("expected an argument, found '" + std::string(token.text) + "'");
    if (negated && token.kind == Token::Integer)
      token.value = 0 - token.value;
    result.push_back({token, negated});
    if (!accept(','))
      break;
  }
  MOE_TRY(expect(')'));
  return result;
}

// call (results), function, (arguments); the body of the function takes its place.
Status Parser::call(EntryBuilder &builder, uint32_t line) {
  std::vector<Actual> results, arguments;
  if (peek().is('(')) {
    MOE_ASSIGN(parsed, actuals());
    results = std::move(parsed);
    MOE_TRY(expect(','));
  }
  if (peek().kind != Token::Word)
    return found("a function");
  std::string name(take().text);
  if (accept(',')) {
    MOE_ASSIGN(parsed, actuals());
    arguments = std::move(parsed);
  }
  auto unknown = [&](const std::string &why) {
    return Error{Code::Unimplemented, "line " + std::to_string(line) + ": " + why};
  };
  if (name.starts_with('%') || peek().is(','))
    return unknown("calls through a register are not simulated");
  MOE_TRY(expect(';'));
  if (!functions.contains(name))
    return unknown("'" + name + "' has no body in this module, so its call is not simulated");
  if (std::find(calling.begin(), calling.end(), name) != calling.end())
    return unknown("'" + name +
                   "' calls itself, perhaps through others: recursion is not simulated");
  calling.push_back(name);
  size_t behind = at;
  at = functions.find(name)->second;
  Status status = expand(builder, line, name, results, arguments);
  if (status)
    at = behind;
  calling.pop_back();
  return status;
}

Status Parser::expand(EntryBuilder &builder, uint32_t line, const std::string &name,
                      const std::vector<Actual> &results, const std::vector<Actual> &arguments) {
  auto wrong = [&](const std::string &what) {
    return Error{Code::InvalidArgument,
                 "line " + std::to_string(line) + ": call of '" + name + "': " + what};
  };
  MOE_ASSIGN(returned, formals());
  take(); // the name
  MOE_ASSIGN(taken, formals());
  while (peek().kind == Token::Word) // .noreturn and the like
    take();
  MOE_TRY(expect('{'));
  if (results.size() != returned.size() || arguments.size() != taken.size())
    return wrong(std::to_string(arguments.size()) + " arguments and " +
                 std::to_string(results.size()) + " results, expected " +
                 std::to_string(taken.size()) + " and " + std::to_string(returned.size()));
  // What the caller names, before its names go out of sight.
  struct Match {
    const Formal *formal;
    Variable variable;
    Operand operand;
    bool isResult;
  };
  std::vector<Match> matches;
  auto match = [&](const std::vector<Formal> &expected, const std::vector<Actual> &given,
                   bool isResult) -> Status {
    for (size_t n = 0; n < expected.size(); ++n) {
      Match each{&expected[n], {}, {}, isResult};
      unsigned bits = unsigned(expected[n].variable.bytes * 8);
      if (expected[n].isRegister) {
        auto operand = builder.argument(given[n].token, given[n].negated, std::max(bits, 16u));
        if (!operand)
          return wrong(operand.error().message);
        each.operand = *operand;
      } else {
        const Variable *variable = builder.variable(given[n].token.text);
        if (!variable || variable->space != Space::Local ||
            variable->bytes < expected[n].variable.bytes)
          return wrong("'" + std::string(given[n].token.text) + "' is no .param variable of " +
                       std::to_string(expected[n].variable.bytes) + " bytes");
        each.variable = *variable;
      }
      matches.push_back(std::move(each));
    }
    return ok();
  };
  MOE_TRY(match(returned, results, true));
  MOE_TRY(match(taken, arguments, false));
  std::vector<std::pair<Operand, Operand>> leaving; // moves of results
  builder.openFunction();
  for (const Match &each : matches) {
    const Variable &formal = each.formal->variable;
    if (!each.formal->isRegister) {
      builder.bind(formal.name, each.variable);
      continue;
    }
    unsigned bits = std::max(unsigned(formal.bytes * 8), 16u);
    builder.declareRegisters(formal.name, 0, bits);
    Token token;
    token.kind = Token::Word;
    token.text = formal.name;
    MOE_ASSIGN(inside, builder.argument(token, false, bits));
    if (each.isResult)
      leaving.push_back({each.operand, inside});
    else
      MOE_TRY(builder.move(line, inside, each.operand));
  }
  MOE_TRY(body(builder));
  builder.closeFunction();
  for (const auto &[to, from] : leaving)
    MOE_TRY(builder.move(line, to, from));
  return ok();
}

} // namespace moe::ptxsim
