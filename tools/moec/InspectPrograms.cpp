// The kernels of a plan and the calls of its programs.
#include "tools/Terminal.h"
#include "tools/moec/InspectParts.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/Format.h"

namespace moe {

static std::string operandText(const fb::Plan &plan, const fb::Program &program,
                               const fb::Operand &operand) {
  switch (operand.kind()) {
  case fb::OperandKind::Input:
    return program.inputs()->Get(operand.index())->name()->str();
  case fb::OperandKind::Output:
    return program.outputs()->Get(operand.index())->name()->str();
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
  case fb::OperandKind::Counters:
    return "counters+" + std::to_string(operand.offset());
  }
  return "?";
}

// "i32[S, P] of chunked"
static std::string typeText(const fb::Plan &plan, const fb::TensorSpec &spec) {
  std::string text = llvm::StringRef(fb::EnumNameElementType(spec.element())).lower() + "[";
  llvm::ListSeparator comma;
  for (const fb::Dimension *dim : *spec.dims()) {
    text += llvm::StringRef(comma);
    if (dim->extent() == fb::Extent::Constant)
      text += std::to_string(dim->count());
    else
      text += *fb::EnumNameExtent(dim->extent()); // T, R, S or P
  }
  text += "]";
  if (spec.pool() >= 0)
    text += " of " + plan.caches()->Get(uint32_t(spec.pool()))->name()->str();
  return text;
}

static void printSpecs(llvm::raw_ostream &out, const fb::Plan &plan, const char *what,
                       const flatbuffers::Vector<flatbuffers::Offset<fb::TensorSpec>> &specs) {
  if (specs.size() == 0)
    return;
  out << "    " << what << " ";
  llvm::ListSeparator comma;
  for (const fb::TensorSpec *spec : specs)
    out << comma << spec->name()->str() << " " << typeText(plan, *spec);
  out << "\n";
}

// How each of a GPU's targets launches a kernel, and with how many blocks the programs do.
static void printLaunches(llvm::raw_ostream &out, const fb::Plan &plan, uint32_t kernel) {
  uint32_t least = UINT32_MAX, most = 0;
  for (const fb::Program *program : *plan.programs())
    for (const fb::Call *call : *program->calls())
      if (const fb::KernelCall &to = *call->operation_as_KernelCall(); to.kernel() == kernel) {
        least = std::min(least, to.blocks());
        most = std::max(most, to.blocks());
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
    out << "  " << p->device()->str() << " "
        << llvm::StringRef(fb::EnumNameProgramKind(p->kind())).lower() << " up to " << p->tokens();
    if (p->kind() == fb::ProgramKind::Vision)
      out << " tiles: ";
    else
      out << " tokens, " << p->rows() << " rows: ";
    out << p->calls()->size() << " calls, arena " << bytesText(p->arena_bytes());
    if (p->counter_bytes())
      out << ", counters " << bytesText(p->counter_bytes());
    if (p->scratch_bytes())
      out << ", scratch " << bytesText(p->scratch_bytes()) << " a worker";
    out << "\n";
    if (!calls)
      continue;
    printSpecs(out, plan, "inputs ", *p->inputs());
    printSpecs(out, plan, "outputs", *p->outputs());
    for (const fb::Call *call : *p->calls()) {
      const fb::KernelCall &to = *call->operation_as_KernelCall();
      out << "    " << plan.kernels()->Get(to.kernel())->name()->str() << "(";
      llvm::ListSeparator comma;
      for (const fb::Operand *operand : *to.operands())
        out << comma << operandText(plan, *p, *operand);
      out << ")";
      if (to.blocks())
        out << " in " << to.blocks() << (to.blocks() == 1 ? " block" : " blocks");
      out << "\n";
    }
  }
}

} // namespace moe
