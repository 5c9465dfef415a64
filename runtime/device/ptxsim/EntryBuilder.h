// Turns the statements of a kernel into dense code: names become slots, immediates become constant
// registers, labels become indices.
#ifndef MOE_RUNTIME_DEVICE_PTXSIM_ENTRYBUILDER_H
#define MOE_RUNTIME_DEVICE_PTXSIM_ENTRYBUILDER_H

#include "runtime/Status.h"
#include "runtime/device/ptxsim/Lexer.h"
#include "runtime/device/ptxsim/Module.h"

#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

namespace moe::ptxsim {

class EntryBuilder {
public:
  // Both outlive the builder: SHARED are the shared variables of the module.
  EntryBuilder(Entry &entry, const Module &module, const std::vector<Variable> &shared)
      : entry(entry), module(module), moduleShared(shared) {}

  void openScope() { scopes.emplace_back(); }
  void closeScope();
  // The body of a device function, in place of its call: it sees no name of its caller, and `ret`
  // goes to where it is closed.
  void openFunction();
  void closeFunction();
  // In the body of the function: what it calls NAME is VARIABLE of the caller.
  void bind(std::string_view name, Variable variable);
  // COUNT 0: one register of that name; else NAME0 to NAME<COUNT - 1>. BITS 1: predicates.
  void declareRegisters(std::string_view name, uint64_t count, unsigned bits);
  Status declare(Variable);
  bool label(std::string_view name);

  // One instruction: begin, guard, then per operand beginGroup and what it holds, then end.
  void begin(uint32_t line);
  bool guard(std::string_view name, bool negated);
  void beginGroup() { pending.emplace_back(); }
  void element(const Token &, bool negated, int64_t offset);
  void address(const Token &base, int64_t offset);
  Status end(const Opcode &);
  // The operand that a token names where the call stands, and a move to or from one.
  Result<Operand> argument(const Token &, bool negated, unsigned bits);
  Status move(uint32_t line, const Operand &to, const Operand &from);
  const Variable *variable(std::string_view name);
  // A branch past a guarded call, and where it goes.
  size_t branchUnless(uint32_t line, std::string_view predicate, bool negated);
  void land(size_t branch);

  // Ends the code with an exit, so that every label has an instruction.
  Status finish(uint32_t line);

private:
  struct Reg {
    uint16_t slot;
    uint8_t bits;
  };
  struct Fixup {
    size_t operand;
    std::string label;
    uint32_t line;
  };
  struct Scope {
    struct Range {
      std::string_view prefix;
      uint64_t count;
      uint8_t bits;
    };
    std::vector<Range> declared;
    std::unordered_map<std::string_view, Reg> registers; // those used so far
    std::unordered_map<std::string_view, uint32_t> labels;
    std::vector<size_t> variables; // in locals
    std::vector<Fixup> fixups;
    bool function = false;
    std::vector<size_t> returns; // operands, of a function
  };
  struct Pending {
    Token token;
    bool isAddress;
    bool negated;
    int64_t offset;
  };

  const Reg *find(std::string_view name);
  uint16_t newSlot(unsigned bits);
  uint16_t constant(Constant::Kind, unsigned bits, uint64_t value);
  size_t branch();
  Status layOut(Variable &);
  Result<Operand> resolve(const Pending &, const Opcode &, unsigned bits, bool exact);
  Result<Operand> resolveAddress(const Pending &, const Opcode &);
  Result<Operand> resolveName(const Pending &, const Opcode &, unsigned bits, bool exact);

  Entry &entry;
  const Module &module;
  const std::vector<Variable> &moduleShared;
  std::vector<Scope> scopes;
  std::vector<Variable> locals; // shared and local, of this entry
  std::map<std::tuple<unsigned, unsigned, uint64_t>, uint16_t> constants;
  std::vector<std::vector<Pending>> pending;
  std::vector<Fixup> unresolved; // when the outermost scope has closed
  Instruction current;
  bool ownParam = false; // of a call, which is local memory here
  uint64_t sharedEnd = kSharedStatic;
};

} // namespace moe::ptxsim

#endif
