// Writes a plan file: from IR of the plan dialect, machine code and the checkpoint's weights.
#ifndef MOE_COMPILER_PLAN_PLANWRITER_H
#define MOE_COMPILER_PLAN_PLANWRITER_H

#include "compiler/plan/Pack.h"
#include "compiler/targets/CodeImage.h"
#include "mlir/IR/BuiltinOps.h"
#include "runtime/plan/Plan_generated.h"
#include "llvm/ADT/StringMap.h"

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace moe {

struct TokenizerInput {
  std::vector<char> tables; // see runtime/text/TokenizerTables.h
  fb::TokenizerT info;      // `section` is the writer's affair
};

struct PlanInputs {
  // plan.tensor, plan.pool, plan.kernel and plan.program after memory planning. The attribute
  // `moe.model` is a dictionary with the fields of the table Model; those that are missing are 0,
  // and `weights` is then the storage of most of the packed bytes. With programs of kind vision
  // the attribute `moe.vision` is a dictionary with the fields of the table Vision.
  mlir::ModuleOp module;
  // By device, the module whose `moe.weight` each plan.tensor of the device is packed from.
  llvm::StringMap<mlir::ModuleOp> models;
  std::vector<CodeImage> images; // best first
  std::optional<TokenizerInput> tokenizer;
  std::optional<fb::ChatFormatT> chat;
  std::optional<fb::SamplingT> sampling;
  fb::ProvenanceT provenance;            // its compiler, if empty, is this version
  const TensorSource *tensors = nullptr; // of the checkpoint
  Packer::Options packing;
  unsigned jobs = 0; // threads that pack; 0: as many as the machine has
};

// How packing went, for who wonders what the time is spent on.
struct PackingFigures {
  unsigned threads = 0;
  double seconds = 0;
  uint64_t bytesRead = 0; // of the checkpoint, as they are stored there
  // Of the threads' time, what they computed; in the rest they waited, for what is read and written
  // or for a processor.
  double busySeconds = 0;
};

// Called now and then from the thread that called writePlan.
using WriteProgress = std::function<void(uint64_t bytesDone, uint64_t bytesTotal)>;

// Writes to a temporary name beside `path`, and renames when all is on the disk: on an error, and
// when `cancel` becomes true, nothing is left and what `path` was is untouched. Everything but the
// weights' bytes is checked before the first byte is written. The same inputs give the same bytes.
//
// Of the weights no more is in memory than jobs + 2 pieces (of 8 MiB, see Pack.h), with what
// packing one takes for each of the jobs, whatever the size of the plan: about 12 MiB a job. What a
// reader maps comes on top. The error of a cancelled call has the code
// std::errc::operation_canceled. `figures` are added to.
llvm::Error writePlan(const PlanInputs &inputs, llvm::StringRef path,
                      const WriteProgress &progress = {}, std::atomic<bool> *cancel = nullptr,
                      PackingFigures *figures = nullptr);

} // namespace moe

#endif
