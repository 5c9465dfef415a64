// Resolves the names of a kernel's statements.
#include "runtime/device/ptxsim/EntryBuilder.h"

#include "runtime/device/ptxsim/Signature.h"

#include <algorithm>
#include <bit>
#include <charconv>

namespace moe::ptxsim {

namespace {

constexpr uint32_t kMostSlots = 60000;
constexpr size_t kMostInstructions = size_t(1) << 18; // an Access tells 2^20 apart
constexpr size_t kRedZone = 16; // bytes between shared variables that belong to none

Error invalid(std::string message) { return Error{Code::InvalidArgument, std::move(message)}; }

Special specialNamed(std::string_view name) {
  static const std::unordered_map<std::string_view, Special> names = {
#define MOE_X(id, name) {name, Special::id},
      MOE_PTX_SPECIALS(MOE_X)
#undef MOE_X
          {"%clock", Special::Clock},
      {"%clock64", Special::Clock64},
      {"%globaltimer", Special::Globaltimer}};
  auto found = names.find(name);
  return found == names.end() ? Special::None : found->second;
}

uint64_t immediateBits(const Token &token, unsigned bits) {
  if (token.kind == Token::Integer)
    return bits >= 64 ? token.value : token.value & ((uint64_t(1) << bits) - 1);
  if (bits == 64)
    return token.single
               ? std::bit_cast<uint64_t>(double(std::bit_cast<float>(uint32_t(token.value))))
               : token.value;
  return token.single ? token.value
                      : std::bit_cast<uint32_t>(float(std::bit_cast<double>(token.value)));
}

} // namespace

void EntryBuilder::closeScope() {
  Scope scope = std::move(scopes.back());
  scopes.pop_back();
  for (Fixup &fixup : scope.fixups) {
    auto label = scope.labels.find(fixup.label);
    if (label != scope.labels.end())
      entry.operands[fixup.operand].value = label->second;
    else // perhaps a label around this scope
      (scopes.empty() || scope.function ? unresolved : scopes.back().fixups)
          .push_back(std::move(fixup));
  }
}

void EntryBuilder::openFunction() {
  openScope();
  scopes.back().function = true;
}

void EntryBuilder::closeFunction() {
  for (size_t operand : scopes.back().returns)
    land(operand);
  closeScope();
}

void EntryBuilder::bind(std::string_view name, Variable variable) {
  variable.name = name;
  locals.push_back(std::move(variable));
  scopes.back().variables.push_back(locals.size() - 1);
}

void EntryBuilder::declareRegisters(std::string_view name, uint64_t count, unsigned bits) {
  scopes.back().declared.push_back({name, count, uint8_t(bits)});
}

bool EntryBuilder::label(std::string_view name) {
  return scopes.back().labels.emplace(name, uint32_t(entry.code.size())).second;
}

uint16_t EntryBuilder::newSlot(unsigned bits) {
  if (entry.slots >= kMostSlots)
    return 0; // reported by `end`
  if (bits == 64)
    entry.slots += entry.slots & 1; // a 64 bit register is two slots, aligned as one
  uint16_t slot = uint16_t(entry.slots);
  entry.slots += bits == 64 ? 2 : 1;
  return slot;
}

const EntryBuilder::Reg *EntryBuilder::find(std::string_view name) {
  for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope) {
    if (auto known = scope->registers.find(name); known != scope->registers.end())
      return &known->second;
    for (const Scope::Range &range : scope->declared) {
      if (!name.starts_with(range.prefix))
        continue;
      std::string_view digits = name.substr(range.prefix.size());
      uint64_t index = 0;
      auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
      bool numbered = error == std::errc() && end == digits.data() + digits.size();
      if (range.count == 0 ? !digits.empty() : !numbered || index >= range.count)
        continue;
      Reg reg{uint16_t(range.bits == 1 ? std::min(entry.predicates++, kMostSlots)
                                       : newSlot(range.bits)),
              range.bits};
      return &scope->registers.emplace(name, reg).first->second;
    }
    if (scope->function)
      break;
  }
  return nullptr;
}

uint16_t EntryBuilder::constant(Constant::Kind kind, unsigned bits, uint64_t value) {
  auto [place, isNew] = constants.try_emplace({unsigned(kind), bits, value}, 0);
  if (isNew) {
    place->second = bits == 1 ? uint16_t(std::min(entry.predicates++, kMostSlots)) : newSlot(bits);
    entry.constants.push_back({kind, uint8_t(bits), place->second, value});
  }
  return place->second;
}

// Places a variable behind those already there.
Status EntryBuilder::layOut(Variable &variable) {
  uint64_t align = variable.align;
  if (variable.space == Space::Local) {
    uint64_t offset = (entry.localBytes + align - 1) & ~(align - 1);
    if (offset + variable.bytes > 512 * 1024)
      return invalid("more than 512 KiB of local memory");
    variable.offset = offset;
    entry.localBytes = uint32_t(offset + variable.bytes);
  } else if (variable.dynamic) {
    variable.offset = kSharedDynamic;
  } else {
    uint64_t offset = (sharedEnd + align - 1) & ~(align - 1);
    if (offset + variable.bytes > kSharedDynamic)
      return invalid("more than 48 KiB of static shared memory");
    variable.offset = offset;
    sharedEnd = offset + variable.bytes + kRedZone;
  }
  return ok();
}

Status EntryBuilder::declare(Variable variable) {
  MOE_TRY(layOut(variable));
  if (variable.space == Space::Shared)
    entry.shared.push_back(variable);
  locals.push_back(std::move(variable));
  scopes.back().variables.push_back(locals.size() - 1);
  return ok();
}

const Variable *EntryBuilder::variable(std::string_view name) {
  bool inFunction = false;
  for (auto scope = scopes.rbegin(); scope != scopes.rend() && !inFunction; ++scope) {
    for (size_t index : scope->variables)
      if (locals[index].name == name)
        return &locals[index];
    inFunction = scope->function;
  }
  for (const Variable &variable : entry.shared)
    if (variable.name == name)
      return &variable;
  for (const Variable &variable : moduleShared)
    if (variable.name == name) {
      Variable placed = variable;
      if (!layOut(placed))
        return nullptr;
      entry.shared.push_back(std::move(placed));
      return &entry.shared.back();
    }
  for (const Variable &variable : entry.params)
    if (variable.name == name && !inFunction)
      return &variable;
  for (const Variable &variable : module.globals)
    if (variable.name == name)
      return &variable;
  return nullptr;
}

void EntryBuilder::begin(uint32_t line) {
  current = Instruction();
  current.line = line;
  current.first = uint32_t(entry.operands.size());
  pending.clear();
  ownParam = false;
}

bool EntryBuilder::guard(std::string_view name, bool negated) {
  const Reg *reg = find(name);
  if (!reg || reg->bits != 1)
    return false;
  current.guard = reg->slot;
  current.guardNegated = negated;
  return true;
}

void EntryBuilder::element(const Token &token, bool negated, int64_t offset) {
  pending.back().push_back({token, false, negated, offset});
}

void EntryBuilder::address(const Token &base, int64_t offset) {
  pending.back().push_back({base, true, false, offset});
}

Result<Operand> EntryBuilder::resolveAddress(const Pending &from, const Opcode &opcode) {
  Operand operand;
  operand.kind = Operand::Address;
  operand.bits = 64;
  operand.value = from.offset;
  if (from.token.kind == Token::Integer) {
    if (opcode.space() != Space::Local)
      return invalid("immediate addresses are allowed only in local memory");
    operand.value += int64_t(from.token.value);
    operand.slot = constant(Constant::Literal, 64, 0);
  } else if (const Reg *reg = find(from.token.text)) {
    if (reg->bits != 64 && reg->bits != 32)
      return invalid("'" + std::string(from.token.text) + "' is too narrow for an address");
    operand.slot = reg->slot;
    operand.bits = reg->bits;
  } else if (const Variable *base = variable(from.token.text)) {
    bool global = base->space == Space::Global || base->space == Space::Const;
    operand.slot = global ? constant(Constant::Global, 64, uint64_t(base - &module.globals[0]))
                          : constant(Constant::Literal, 64, 0);
    operand.value += int64_t(base->offset);
    ownParam = base->space == Space::Local && opcode.has(Mod::Param);
  } else {
    return invalid("unknown name '" + std::string(from.token.text) + "'");
  }
  return operand;
}

Result<Operand> EntryBuilder::resolveName(const Pending &from, const Opcode &opcode, unsigned bits,
                                          bool exact) {
  std::string_view name = from.token.text;
  Operand operand;
  operand.negated = from.negated;
  if (name == "_")
    return operand;
  if (opcode.op == Op::Bra) {
    operand.kind = Operand::Label;
    return operand;
  }
  if (const Reg *reg = find(name)) {
    operand.kind = reg->bits == 1 ? Operand::Predicate : Operand::Register;
    operand.bits = reg->bits;
    operand.slot = reg->slot;
    bool mayBePredicate = opcode.op == Op::Wgmma; // the scale of D
    if (((reg->bits == 1) != (bits == 1) && !mayBePredicate) || (exact && reg->bits != bits))
      return invalid("'" + std::string(name) + "' has " + std::to_string(reg->bits) +
                     " bits, expected " + std::to_string(bits));
    return operand;
  }
  operand.kind = Operand::Immediate;
  operand.bits = uint8_t(bits);
  if (Special special = specialNamed(name); special != Special::None) {
    bool fixed = special < Special::Clock;
    if (bits < 32 || (!fixed && opcode.op != Op::Mov))
      return invalid("'" + std::string(name) + "' cannot stand here");
    operand.slot = fixed ? constant(Constant::Special, bits, uint64_t(special))
                         : constant(Constant::Literal, bits, 0);
    operand.value = fixed ? 0 : int64_t(special);
    operand.timer = !fixed;
    return operand;
  }
  if (name == "WARP_SZ" && bits >= 32) {
    operand.value = 32;
    operand.slot = constant(Constant::Literal, bits, 32);
    return operand;
  }
  const Variable *base = variable(name);
  if (!base)
    return invalid("unknown name '" + std::string(name) + "'");
  if (bits != 64 && bits != 32)
    return invalid("the address '" + std::string(name) + "' needs 32 or 64 bits");
  if (base->space == Space::Global || base->space == Space::Const) {
    if (from.offset)
      return invalid("an offset from a global name is not known");
    operand.slot = constant(Constant::Global, bits, uint64_t(base - &module.globals[0]));
  } else {
    operand.value = int64_t(base->offset) + from.offset;
    operand.slot = constant(Constant::Literal, bits, uint64_t(operand.value));
  }
  return operand;
}

Result<Operand> EntryBuilder::resolve(const Pending &from, const Opcode &opcode, unsigned bits,
                                      bool exact) {
  if (from.isAddress)
    return resolveAddress(from, opcode);
  if (from.token.kind == Token::Word)
    return resolveName(from, opcode, bits, exact);
  Operand operand;
  operand.bits = uint8_t(bits);
  if (from.token.kind == Token::Float && bits < 32)
    return invalid("a float cannot stand here");
  operand.kind = bits == 1 ? Operand::Predicate : Operand::Immediate;
  operand.value = int64_t(immediateBits(from.token, bits));
  operand.slot = constant(Constant::Literal, bits, uint64_t(operand.value));
  if (from.token.kind == Token::Integer) // handlers that read numbers want them whole
    operand.value = int64_t(from.token.value);
  return operand;
}

Status EntryBuilder::end(const Opcode &opcode) {
  current.opcode = opcode;
  if (pending.size() > current.starts.size())
    return invalid("too many operands");
  for (unsigned group = 0; group < pending.size(); ++group) {
    current.starts[group] = current.operands;
    unsigned size = unsigned(pending[group].size());
    for (unsigned i = 0; i < size; ++i) {
      const Pending &from = pending[group][i];
      Width width = widthOf(opcode, group, unsigned(pending.size()), size, i);
      // Coordinates stand behind the address of their tensor map.
      if (i > 0 && pending[group][0].isAddress)
        width = {32};
      if (!width.bits)
        width.bits = 32;
      MOE_ASSIGN(operand, resolve(from, opcode, std::min(width.bits, 64u), width.exact));
      if (operand.kind == Operand::Label)
        scopes.back().fixups.push_back(
            {entry.operands.size(), std::string(from.token.text), current.line});
      if (current.operands == 255)
        return invalid("too many operands");
      entry.operands.push_back(operand);
      ++current.operands;
    }
  }
  current.groups = uint8_t(pending.size());
  unsigned count = operandCount(opcode.op);
  if (count && (current.operands != count || current.groups != count))
    return invalid(std::to_string(current.operands) + " operands, expected " +
                   std::to_string(count));
  if (entry.slots >= kMostSlots || entry.predicates >= kMostSlots)
    return Error{Code::ResourceExhausted, "the kernel names too many registers"};
  if (entry.code.size() >= kMostInstructions)
    return Error{Code::ResourceExhausted,
                 "the kernel has more than " + std::to_string(kMostInstructions) +
                     " instructions, those of the functions it calls included"};
  if (ownParam) {
    current.opcode.mods.reset(unsigned(Mod::Param));
    current.opcode.mods.set(unsigned(Mod::Local));
  }
  if (opcode.op == Op::Ret)
    for (auto scope = scopes.rbegin(); scope != scopes.rend(); ++scope)
      if (scope->function) {
        scope->returns.push_back(branch());
        return ok();
      }
  entry.code.push_back(current);
  return ok();
}

// Makes the current instruction a branch. The place of its label among the operands.
size_t EntryBuilder::branch() {
  Operand label;
  label.kind = Operand::Label;
  current.opcode = Opcode();
  current.opcode.op = Op::Bra;
  current.groups = current.operands = 1;
  entry.operands.push_back(label);
  entry.code.push_back(current);
  return entry.operands.size() - 1;
}

size_t EntryBuilder::branchUnless(uint32_t line, std::string_view predicate, bool negated) {
  begin(line);
  guard(predicate, !negated);
  return branch();
}

void EntryBuilder::land(size_t branch) {
  entry.operands[branch].value = int64_t(entry.code.size());
}

Result<Operand> EntryBuilder::argument(const Token &token, bool negated, unsigned bits) {
  Opcode opcode;
  opcode.op = Op::Mov;
  return resolve({token, false, negated, 0}, opcode, bits, true);
}

Status EntryBuilder::move(uint32_t line, const Operand &to, const Operand &from) {
  begin(line);
  Opcode &opcode = current.opcode;
  opcode.op = Op::Mov;
  opcode.types[0] = to.kind == Operand::Predicate ? Type::Pred
                    : to.bits == 64               ? Type::B64
                    : to.bits == 32               ? Type::B32
                                                  : Type::B16;
  opcode.typeCount = 1;
  current.groups = current.operands = 2;
  current.starts[1] = 1;
  entry.operands.push_back(to);
  entry.operands.push_back(from);
  entry.code.push_back(current);
  return ok();
}

Status EntryBuilder::finish(uint32_t line) {
  if (!unresolved.empty())
    return invalid("line " + std::to_string(unresolved[0].line) + ": no label '" +
                   unresolved[0].label + "'");
  begin(line);
  Opcode opcode;
  opcode.op = Op::Exit;
  return end(opcode);
}

} // namespace moe::ptxsim
