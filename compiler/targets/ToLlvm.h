// From kernels as they are built to optimised LLVM IR and what a back end makes of it: the part
// that is the same for all targets.
#ifndef MOE_COMPILER_TARGETS_TOLLVM_H
#define MOE_COMPILER_TARGETS_TOLLVM_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/CodeGen.h"
#include "llvm/Support/Error.h"
#include "llvm/Target/TargetMachine.h"
#include <memory>
#include <optional>
#include <string>

namespace moe::codegen {

// The modules of several kernels as one; private functions of the same name are the same.
class KernelModule {
public:
  void add(mlir::ModuleOp kernel);                                    // which may be gone after it
  mlir::OwningOpRef<mlir::ModuleOp> take() { return std::move(all); } // after one add() or more

private:
  mlir::OwningOpRef<mlir::ModuleOp> all;
  llvm::StringSet<> known; // symbols
};

// Lowers func, scf, vector, math and arith to the LLVM dialect, in place.
mlir::LogicalResult lowerToLlvmDialect(mlir::ModuleOp module);

// What LLVM compiles for.
struct LlvmTarget {
  std::string name; // for messages: "cpu:x86-64-v4"
  std::string triple, cpu, features;
  std::optional<llvm::Reloc::Model> relocation;
};

// Optimised code for a target.
class LlvmCode {
public:
  // Translates and optimises a module of the LLVM dialect. `prepare` sees each function that has a
  // body before that, to set attributes of its own.
  static llvm::Expected<std::unique_ptr<LlvmCode>>
  make(mlir::ModuleOp module, const LlvmTarget &target,
       llvm::function_ref<void(llvm::Function &)> prepare = nullptr);

  std::string text() const;
  // May change the code: to be called once.
  llvm::Expected<llvm::SmallVector<char, 0>> emit(llvm::CodeGenFileType type);

private:
  llvm::LLVMContext context;
  std::unique_ptr<llvm::Module> module;
  std::unique_ptr<llvm::TargetMachine> machine;
};

} // namespace moe::codegen

#endif
