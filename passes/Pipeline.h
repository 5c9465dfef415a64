// The order of the passes.
#ifndef MOE_PASSES_PIPELINE_H
#define MOE_PASSES_PIPELINE_H

#include "passes/Passes.h"

namespace moe {

// From moe as imported to whole blocks.
void buildFusePipeline(mlir::OpPassManager &pm);

// From whole blocks to weights with a packing; `weights` is a recipe (Recipe.h).
void buildPackPipeline(mlir::OpPassManager &pm, DeviceKind device, llvm::StringRef weights);

// Gives tools the option --moe-fuse.
void registerMoePipelines();

} // namespace moe

#endif
