// The order of the passes.
#ifndef MOE_PASSES_PIPELINE_H
#define MOE_PASSES_PIPELINE_H

#include "passes/Passes.h"

namespace moe {

// From moe as imported to whole blocks.
void buildFusePipeline(mlir::OpPassManager &pm);

// From whole blocks to weights with a packing that the kernels of `target` take, one of those that
// `find` knows; `weights` is a recipe (Recipe.h).
void buildPackPipeline(mlir::OpPassManager &pm, FindTarget find, llvm::StringRef target,
                       llvm::StringRef weights);

// Gives tools an option for each pass, and --moe-fuse; --moe-pack-weights packs for the targets
// that `find` knows.
void registerMoePassesAndPipelines(const FindTarget &find);

} // namespace moe

#endif
