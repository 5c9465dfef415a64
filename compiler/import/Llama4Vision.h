// The vision tower of Llama 4: tiles of pictures in, rows that take the place of embeddings out.
#ifndef MOE_COMPILER_IMPORT_LLAMA4VISION_H
#define MOE_COMPILER_IMPORT_LLAMA4VISION_H

#include "compiler/import/ModuleBuilder.h"
#include "compiler/import/VisionConfig.h"
#include "mlir/IR/BuiltinAttributes.h"

namespace moe {

// Whether a checkpoint has a tensor of a vision tower, by any of the names that they come under.
bool hasVisionTower(const TensorSource &tensors);

// Fails where a checkpoint has the tower in a form that gives other rows.
llvm::Error checkVisionTensors(const TensorSource &tensors);

// The tower, its adapter and the projector, at the builder's place: the rows of all tiles,
// [tiles * rowsPerTile, outputs], of tiles [tiles, S, S, 3].
mlir::Value importVision(ModuleBuilder &module, const VisionConfig &config, int64_t outputs,
                         mlir::Value tiles);

// The attribute moe.vision: the facts of table Vision in Plan.fbs.
mlir::DictionaryAttr visionFacts(const VisionConfig &config, mlir::Builder &builder);

// Why a tensor that no weight took is not needed, if it is one of pictures and there is a reason.
std::optional<std::string> reasonToIgnoreOfVision(llvm::StringRef name,
                                                  const std::optional<VisionConfig> &config);

} // namespace moe

#endif
