// Turns IR of the plan dialect into the tables of Plan.fbs.
#ifndef MOE_COMPILER_PLAN_INDEX_H
#define MOE_COMPILER_PLAN_INDEX_H

#include "compiler/plan/PlanWriter.h"
#include "dialects/moe/MoeOps.h"
#include "dialects/plan/PlanDialect.h"

namespace moe {

// The index of the plan with its sections placed, in this order: code of each image, cubins,
// tokenizer, weights of each device. Their hashes are not known yet. Fails where the IR is not
// ready for a file.
llvm::Expected<std::unique_ptr<fb::PlanT>> makeIndex(const PlanInputs &inputs);

// The weight whose elements a tensor holds, of the model of its device. Fails where there is none,
// or one of another type or format.
llvm::Expected<WeightOp> weightOf(const PlanInputs &inputs, plan::TensorOp tensor);

// The devices that have weights, in the order of their sections.
std::vector<std::string> weightDevices(mlir::ModuleOp module);

// Where the index starts: behind the last section.
uint64_t indexOffset(const fb::PlanT &plan);

} // namespace moe

#endif
