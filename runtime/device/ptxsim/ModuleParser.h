// The state of a parse: Parser.cpp reads declarations and statements, Functions.cpp calls.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_MODULEPARSER_H
#define MOE_RUNTIME_DEVICE_PTXSIM_MODULEPARSER_H

#include "runtime/device/ptxsim/EntryBuilder.h"
#include "runtime/device/ptxsim/Lexer.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace moe::ptxsim {

class Parser {
public:
  explicit Parser(std::string_view text) {
    Lexer lexer(text);
    do
      tokens.push_back(lexer.next());
    while (tokens.back().kind != Token::End);
  }

  Result<Module> run();

private:
  // A parameter of a device function, or a result, and what a call gives for it.
  struct Formal {
    bool isRegister;
    Variable variable;
  };
  struct Actual {
    Token token;
    bool negated;
  };

  const Token &peek(size_t ahead = 0) const {
    return tokens[std::min(at + ahead, tokens.size() - 1)];
  }
  Token take() {
    Token token = peek();
    if (at + 1 < tokens.size())
      ++at;
    return token;
  }
  bool accept(char c) { return peek().is(c) && (take(), true); }
  bool accept(std::string_view word) { return peek().is(word) && (take(), true); }
  Error error(const std::string &what) const {
    return Error{Code::InvalidArgument, "line " + std::to_string(peek().line) + ": " + what};
  }
  Error found(const std::string &expected) const {
    return error("expected " + expected + ", found '" + std::string(peek().text) + "'");
  }
  Status expect(char c) { return accept(c) ? ok() : Status(found(std::string("'") + c + "'")); }
  void skipLine() {
    for (uint32_t line = peek().line; peek().kind != Token::End && peek().line == line;)
      take();
  }
  void skipTo(char c) {
    while (peek().kind != Token::End && !accept(c))
      take();
  }

  Result<uint64_t> integer();
  Status header();
  Status topLevel();
  Status entry();
  Status params(Entry &);
  Status performance(Entry &);
  Result<Variable> variable(Space);
  Status initializer(Variable &, unsigned elementBits);
  Status body(EntryBuilder &);
  Status registers(EntryBuilder &);
  Status instruction(EntryBuilder &);
  void findFunctions();
  Result<std::vector<Formal>> formals();
  Result<std::vector<Actual>> actuals();
  Status call(EntryBuilder &, uint32_t line);
  Status expand(EntryBuilder &, uint32_t line, const std::string &name,
                const std::vector<Actual> &results, const std::vector<Actual> &arguments);
  Status operand(EntryBuilder &);
  Status address(EntryBuilder &);
  Status element(EntryBuilder &);

  std::vector<Token> tokens;
  size_t at = 0;
  Module module;
  std::vector<Variable> shared; // of the module
  unsigned depth = 0;
  std::map<std::string, size_t, std::less<>>
      functions;                    // the token behind .func of those with a body
  std::vector<std::string> calling; // functions whose bodies are being expanded
};

} // namespace moe::ptxsim

#endif
