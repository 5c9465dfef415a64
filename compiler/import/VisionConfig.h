// What config.json and preprocessor_config.json say of the vision tower, and of how pictures become
// what it sees.
#ifndef MOE_COMPILER_IMPORT_VISIONCONFIG_H
#define MOE_COMPILER_IMPORT_VISIONCONFIG_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"

#include <array>
#include <cstdint>

namespace moe {

// Ids of the tokens that stand for a picture; -1: not known.
struct PictureTokens {
  int32_t imageStart = -1, imageEnd = -1;
  int32_t tileXSeparator = -1, tileYSeparator = -1; // between two tiles of a row; after each row
  int32_t image = -1;                               // before the tile of the whole picture
  int32_t patch = -1; // that whose embedding is a row of the tower's output
};

struct VisionConfig {
  // The eps of every layer norm, whatever norm_eps says: transformers does not read that.
  static constexpr double kNormEps = 1e-5;

  int64_t hiddenSize = 0;
  int64_t layers = 0; // fewer after Llama4Config::truncate()
  int64_t checkpointLayers = 0;
  int64_t heads = 0;
  int64_t mlpWidth = 0;
  int64_t tileSize = 0;     // pixels of a side
  int64_t patchSize = 0;    // pixels of a side
  int64_t adapterWidth = 0; // of both layers of the adapter
  double ropeTheta = 0;

  // A pixel u of channel c becomes (u * rescale - mean[c]) / std[c].
  double rescale = 1 / 255.0;
  std::array<double, 3> mean{0.5, 0.5, 0.5}, std{0.5, 0.5, 0.5};
  int64_t maxTiles = 16; // of a picture, beside that of the whole

  PictureTokens tokens;

  int64_t grid() const { return tileSize / patchSize; }       // patches in a row of a tile
  int64_t rowsPerTile() const { return grid() * grid() / 4; } // that come out
  uint64_t parameters(int64_t textHiddenSize) const;          // with the projector's

  // `vision` is the field vision_config of `top`, whose required fields no released model leaves
  // out: the defaults of transformers describe none. Fails where it is of a kind that the importer
  // does not know.
  static llvm::Expected<VisionConfig> parse(const llvm::json::Object &vision,
                                            const llvm::json::Object &top, int64_t vocabSize);

  // Reads preprocessor_config.json of a folder, or the image_processor of processor_config.json,
  // if it has one of them.
  llvm::Error readPreprocessor(llvm::StringRef folder);
};

} // namespace moe

#endif
