// Lowers kernels to LLVM, optimises, emits an object, and links it into one flat image.
#include "compiler/targets/cpu/ToObject.h"
#include "compiler/targets/ToLlvm.h"
#include "lld/Common/Driver.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/Object/ELFObjectFile.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"

LLD_HAS_DRIVER(elf)

using namespace mlir;

namespace moe::codegen {

LogicalResult lowerKernels(ModuleOp module) {
  module.walk([&](func::FuncOp function) {
    // What no other kernel calls may be inlined or dropped.
    if (function.isPrivate())
      function->setAttr("llvm.linkage",
                        LLVM::LinkageAttr::get(module.getContext(), LLVM::Linkage::Internal));
  });
  return lowerToLlvmDialect(module);
}

static llvm::Expected<std::unique_ptr<LlvmCode>> optimise(ModuleOp module,
                                                          const CpuTarget &target) {
  LlvmTarget llvmTarget{target.name, target.triple, target.cpu, target.cpuFeatures,
                        llvm::Reloc::PIC_};
  return LlvmCode::make(module, llvmTarget, [&](llvm::Function &f) {
    f.addFnAttr("prefer-vector-width", std::to_string(target.lanes * 32));
    if (f.hasInternalLinkage() && f.getName().starts_with("tile_"))
      f.addFnAttr(llvm::Attribute::NoInline);
  });
}

llvm::Expected<std::string> toLlvmText(ModuleOp module, const CpuTarget &target) {
  auto code = optimise(module, target);
  if (!code)
    return code.takeError();
  return (*code)->text();
}

llvm::Expected<std::string> toAssembly(ModuleOp module, const CpuTarget &target) {
  auto code = optimise(module, target);
  if (!code)
    return code.takeError();
  auto bytes = (*code)->emit(llvm::CodeGenFileType::AssemblyFile);
  if (!bytes)
    return bytes.takeError();
  return std::string(bytes->begin(), bytes->end());
}

// Code and constants in one section, so that the bytes between them are fixed; on a page, because
// AArch64 addresses by page. What the linker adds of its own lies outside and is not used.
static constexpr const char *kLinkerScript = R"(SECTIONS {
  .text 0x100000 : ALIGN(4096) { *(.text .text.* .rodata .rodata.*) }
  /DISCARD/ : { *(.eh_frame .comment .note.*) }
}
)";

static llvm::Error writeFile(llvm::StringRef path, llvm::StringRef bytes) {
  std::error_code code;
  llvm::raw_fd_ostream stream(path, code);
  if (!code)
    stream << bytes;
  stream.close();
  if (!code)
    code = stream.error();
  stream.clear_error(); // or its end would end the process
  return code ? llvm::createStringError("cannot write the temporary file " + path + ": " +
                                        code.message())
              : llvm::Error::success();
}

llvm::Expected<CpuImage> toImage(ModuleOp module, const CpuTarget &target) {
  auto code = optimise(module, target);
  if (!code)
    return code.takeError();
  auto object = (*code)->emit(llvm::CodeGenFileType::ObjectFile);
  if (!object)
    return object.takeError();

  llvm::SmallString<128> folder;
  if (llvm::sys::fs::createUniqueDirectory("moec", folder))
    return llvm::createStringError("cannot make a temporary folder; set TMPDIR to a writable one");
  llvm::scope_exit removal([&] { (void)llvm::sys::fs::remove_directories(folder); });
  std::string base = std::string(folder), in = base + "/kernels.o", script = base + "/flat.ld",
              out = base + "/kernels.so";
  if (auto error = writeFile(in, {object->data(), object->size()}))
    return error;
  if (auto error = writeFile(script, kLinkerScript))
    return error;
  const char *arguments[] = {"ld.lld", "-shared",      "-z",       "defs", "--threads=1",
                             "-T",     script.c_str(), in.c_str(), "-o",   out.c_str()};
  std::string messages;
  llvm::raw_string_ostream stream(messages);
  auto linked = lld::lldMain(arguments, stream, stream, {{lld::Gnu, &lld::elf::link}});
  if (linked.retCode != 0)
    return llvm::createStringError("linking the kernels for " + target.name +
                                   " failed: " + messages);

  auto file = llvm::MemoryBuffer::getFile(out);
  if (!file)
    return llvm::createStringError("cannot read back the linked kernels");
  auto binary = llvm::object::ObjectFile::createELFObjectFile((*file)->getMemBufferRef());
  if (!binary)
    return binary.takeError();
  auto &elf = cast<llvm::object::ELFObjectFileBase>(**binary);
  CpuImage image;
  image.target = target;
  std::optional<llvm::object::SectionRef> text;
  for (auto section : elf.sections()) {
    auto name = section.getName();
    if (!name)
      return name.takeError();
    if (*name == ".text")
      text = section;
    else if (name->starts_with(".rela") || name->starts_with(".data") ||
             name->starts_with(".bss") || name->starts_with(".got"))
      if (section.getSize())
        return llvm::createStringError("the kernels for " + target.name + " need the section " +
                                       *name + ", which a plan cannot hold");
  }
  if (!text)
    return llvm::createStringError("the kernels for " + target.name + " have no code");
  auto bytes = text->getContents();
  if (!bytes)
    return bytes.takeError();
  image.code.assign(bytes->begin(), bytes->end());
  for (auto symbol : elf.getDynamicSymbolIterators()) {
    auto name = symbol.getName();
    auto address = symbol.getAddress();
    if (!name || !address)
      return name ? address.takeError() : name.takeError();
    auto function = module.lookupSymbol<LLVM::LLVMFuncOp>(*name);
    if (function && !function.isPrivate())
      image.entries[*name] = *address - text->getAddress();
  }
  return image;
}

} // namespace moe::codegen
