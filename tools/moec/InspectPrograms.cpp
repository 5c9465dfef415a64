// The kernels of a plan and the calls of its programs.
#include "tools/Terminal.h"
#include "tools/moec/InspectParts.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Format.h"

namespace moe {

static std::string operandText(const fb::Plan &plan, const fb::Operand &operand) {
  switch (operand.kind()) {
  case fb::OperandKind::Input: {
    std::string name = fb::EnumNameInputName(fb::InputName(operand.index()));
    return llvm::StringRef(name).lower();
  }
  case fb::OperandKind::Arena:
    return "arena+" + std::to_string(operand.offset());
  case fb::OperandKind::Weight:
    for (const fb::Tensor *tensor : *plan.tensors())
      if (tensor->section() == operand.index() && tensor->offset() == operand.offset())
        return "@" + tensor->name()->str();
    return "weights+" + std::to_string(operand.offset());
  case fb::OperandKind::Cache:
    return plan.caches()->Get(operand.index())->name()->str() + "+" +
           std::to_string(operand.offset());
  case fb::OperandKind::Logits:
    return "logits";
  case fb::OperandKind::Ids:
    return "ids";
  case fb::OperandKind::Counters:
    return "counters+" + std::to_string(operand.offset());
  }
  return "?";
}

// How each of a GPU's targets launches a kernel, and with how many blocks the programs do.
static void printLaunches(llvm::raw_ostream &out, const fb::Plan &plan, uint32_t kernel) {
  uint32_t least = UINT32_MAX, most = 0;
  for (const fb::Program *program : *plan.programs())
    for (const fb::Call *call : *program->calls())
      if (call->kernel() == kernel) {
        least = std::min(least, call->blocks());
        most = std::max(most, call->blocks());
      }
  for (const fb::Image *image : *plan.images()) {
    if (!image->launches() || image->entries()->Get(kernel) == ~uint64_t(0))
      continue;
    const fb::Launch &l = *image->launches()->Get(kernel);
    out << "    " << llvm::left_justify(image->target()->str(), 16) << " " << l.threads()
        << " threads, ";
    if (l.registers())
      out << l.registers() << " registers, ";
    out << bytesText(l.shared_bytes()) << " shared, " << l.blocks_per_sm()
        << (l.blocks_per_sm() == 1 ? " block" : " blocks") << " a multiprocessor"
        << (l.dependent() ? ", dependent" : "");
    if (most)
      out << "; " << least << (least < most ? " to " + std::to_string(most) : "")
          << (most == 1 ? " block" : " blocks") << " a launch";
    out << "\n";
  }
}

void printKernels(llvm::raw_ostream &out, const fb::Plan &plan) {
  out << "\nkernels\n";
  for (uint32_t i = 0; i < plan.kernels()->size(); ++i) {
    const fb::Kernel *k = plan.kernels()->Get(i);
    out << "  " << k->device()->str() << " " << k->name()->str() << ", " << k->operands()
        << " operands\n";
    printLaunches(out, plan, i);
  }
}

void printPrograms(llvm::raw_ostream &out, const fb::Plan &plan, bool calls) {
  out << "\nprograms\n";
  for (const fb::Program *p : *plan.programs()) {
    out << "  " << p->device()->str() << " up to " << p->tokens() << " tokens, " << p->rows()
        << " rows of logits: " << p->calls()->size() << " calls, arena "
        << bytesText(p->arena_bytes());
    if (p->counter_bytes())
      out << ", counters " << bytesText(p->counter_bytes());
    if (p->scratch_bytes() || p->device()->string_view() == "cpu")
      out << ", scratch " << bytesText(p->scratch_bytes()) << " a worker";
    out << "\n";
    if (!calls)
      continue;
    for (const fb::Call *call : *p->calls()) {
      out << "    " << plan.kernels()->Get(call->kernel())->name()->str() << "(";
      llvm::ListSeparator comma;
      for (const fb::Operand *operand : *call->operands())
        out << comma << operandText(plan, *operand);
      out << ")";
      if (call->blocks())
        out << " in " << call->blocks() << (call->blocks() == 1 ? " block" : " blocks");
      out << "\n";
    }
  }
}

} // namespace moe
