// Lowers CUDA kernels to LLVM, optimises, and prints PTX.
#include "compiler/targets/cuda/ToPtx.h"
#include "compiler/targets/ToLlvm.h"
#include "compiler/targets/cuda/HazardCheck.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Program.h"
#include <cstdlib>

using namespace mlir;

namespace moe::codegen {

LogicalResult lowerCudaKernels(ModuleOp module) {
  if (failed(lowerToLlvmDialect(module)))
    return failure();
  return checkNvvmHazards(module);
}

static llvm::Expected<std::unique_ptr<LlvmCode>> optimise(ModuleOp module,
                                                          const CudaTarget &target) {
  return LlvmCode::make(
      module, {target.name, "nvptx64-nvidia-cuda", target.chip, target.ptx, std::nullopt});
}

llvm::Expected<std::string> toNvvmText(ModuleOp module, const CudaTarget &target) {
  auto code = optimise(module, target);
  if (!code)
    return code.takeError();
  return (*code)->text();
}

llvm::Expected<std::string> toPtx(ModuleOp module, const CudaTarget &target) {
  auto code = optimise(module, target);
  if (!code)
    return code.takeError();
  auto text = (*code)->emit(llvm::CodeGenFileType::AssemblyFile);
  if (!text)
    return text.takeError();
  return std::string(text->begin(), text->end());
}

//===----------------------------------------------------------------------===//
// The assembler
//===----------------------------------------------------------------------===//

llvm::Expected<std::optional<std::string>> findPtxas(StringRef given) {
  if (!given.empty()) {
    if (!llvm::sys::fs::can_execute(given))
      return llvm::createStringError("'" + given +
                                     "' is no program that can run: give the path of ptxas");
    return given.str();
  }
  if (const char *path = std::getenv("MOE_PTXAS"))
    return *path ? findPtxas(path) : std::optional<std::string>();
  if (auto path = llvm::sys::findProgramByName("ptxas"))
    return *path;
  if (auto path = llvm::sys::findProgramByName("ptxas", {"/usr/local/cuda/bin"}))
    return *path;
  return std::nullopt;
}

// The number before `what` in a line such as "Used 31 registers, used 1 barriers, 400 bytes smem".
static int64_t numberBefore(StringRef line, StringRef what) {
  StringRef before = line.take_front(line.find(what));
  if (before.size() == line.size())
    return 0;
  int64_t value = 0;
  before.rtrim().rsplit(' ').second.getAsInteger(10, value);
  return value;
}

static void readReport(StringRef report, Cubin &cubin) {
  Assembled *kernel = nullptr;
  for (StringRef line : llvm::split(report, '\n')) {
    if (line.contains("Compiling entry function"))
      kernel = &cubin.kernels[line.split('\'').second.split('\'').first];
    else if (line.contains("warning") || line.contains("(C75")) // "serialized" is but an info
      cubin.warnings += (line + "\n").str();
    if (!kernel)
      continue;
    if (line.contains("spill stores"))
      kernel->spillBytes = numberBefore(line, "bytes spill stores");
    if (line.contains(" registers")) {
      kernel->registers = numberBefore(line, "registers");
      kernel->sharedBytes = numberBefore(line, "bytes smem");
      kernel->barriers = numberBefore(line, "barriers");
    }
  }
}

llvm::Expected<Cubin> assemble(StringRef ptxas, StringRef ptx, const CudaTarget &target) {
  llvm::SmallString<128> folder;
  if (llvm::sys::fs::createUniqueDirectory("moec", folder))
    return llvm::createStringError("cannot make a temporary folder; set TMPDIR to a writable one");
  llvm::scope_exit removal([&] { (void)llvm::sys::fs::remove_directories(folder); });
  std::string base = std::string(folder), in = base + "/kernels.ptx", out = base + "/kernels.cubin",
              report = base + "/report";
  {
    std::error_code code;
    llvm::raw_fd_ostream stream(in, code);
    if (!code)
      stream << ptx;
    stream.close();
    if (code || stream.has_error())
      return llvm::createStringError("cannot write the temporary file " + in);
  }
  std::string arch = "-arch=" + target.chip, message;
  int result = llvm::sys::ExecuteAndWait(ptxas, {ptxas, "-v", arch, "-O3", in, "-o", out},
                                         /*Env=*/std::nullopt, {"", report, report},
                                         /*SecondsToWait=*/0, /*MemoryLimit=*/0, &message);
  std::string said = message;
  if (auto text = llvm::MemoryBuffer::getFile(report))
    said += (*text)->getBuffer().str();
  if (result != 0)
    return llvm::createStringError(ptxas + " refused the kernels for " + target.name + ": " + said);
  auto file = llvm::MemoryBuffer::getFile(out);
  if (!file)
    return llvm::createStringError("cannot read back what " + ptxas + " wrote");
  Cubin cubin;
  cubin.bytes.assign((*file)->getBufferStart(), (*file)->getBufferEnd());
  readReport(said, cubin);
  return cubin;
}

} // namespace moe::codegen
