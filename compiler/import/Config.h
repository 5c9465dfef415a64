// What config.json says of a Llama 4 model, with everything derived and checked.
#ifndef MOE_COMPILER_IMPORT_CONFIG_H
#define MOE_COMPILER_IMPORT_CONFIG_H

#include "compiler/import/QuantizationConfig.h"
#include "compiler/import/VisionConfig.h"
#include "runtime/weights/TensorSource.h"

#include <optional>
#include <string>
#include <vector>

namespace moe {

// The rope scaling of Llama 3: wavelengths above originalPositions / lowFrequency are stretched by
// `factor`, those below originalPositions / highFrequency stay.
struct RopeScaling {
  double factor, lowFrequency, highFrequency;
  int64_t originalPositions;
};

// How tokens are drawn where nobody says otherwise.
struct SamplingDefaults {
  double temperature = 1; // 0: greedy
  int64_t topK = 0;       // 0: all tokens
  double topP = 1;
  double repetitionPenalty = 1;
};

struct Llama4Config {
  std::string architecture; // "Llama4ForCausalLM" or "Llama4ForConditionalGeneration"

  int64_t vocabSize = 0;
  int64_t hiddenSize = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kvHeads = 0;
  int64_t headDim = 0;
  int64_t expertWidth = 0; // of each routed expert and of the shared one
  int64_t denseWidth = 0;  // of the MLP of a layer that does not route
  int64_t experts = 0;
  int64_t expertsPerToken = 0;
  int64_t maxPositions = 0;
  bool tiedEmbeddings = false;
  Storage dtype = Storage::BF16; // as stated; the tensors of a checkpoint have their own
  std::optional<QuantizationConfig> quantization;

  double normEps = 0;
  double ropeTheta = 0;
  std::optional<RopeScaling> ropeScaling;
  bool qkNorm = false;      // in the layers with rope
  bool temperature = false; // in the layers without
  double temperatureScale = 0;
  double temperatureFloor = 0;
  std::optional<int64_t> attentionChunk; // of the layers with rope; none: they see everything too

  int64_t bosToken = -1; // -1: none
  int64_t padToken = -1;
  std::vector<int32_t> eosTokens; // generation stops at any of them

  std::optional<SamplingDefaults> sampling; // none: not said

  std::optional<VisionConfig> vision; // none: the model sees no pictures

  // `layers` is smaller after truncate().
  int64_t checkpointLayers = 0;

  bool usesRope(int64_t layer) const { return rope[layer]; }
  bool isMoe(int64_t layer) const { return moe[layer]; }
  int64_t moeLayers() const;

  // Weights of the model, and those that one decoded token uses: the head, one row of the embedding
  // and expertsPerToken experts of a layer, but not the others, nor those of the vision tower.
  uint64_t parameters() const;
  uint64_t activeParameters() const;

  // Keeps the first `count` layers, of the vision tower too: a small model with the real shapes.
  llvm::Error truncate(int64_t count);

  // `path` is a config.json, or the folder that has one; generation_config.json, if it lies beside
  // it, says where generation stops and how it samples, and hf_quant_config.json how weights are
  // quantized where config.json does not, and preprocessor_config.json what becomes of pictures.
  // What is legal but suspicious is appended to `warnings`. Without `vision` nothing of pictures is
  // read.
  static llvm::Expected<Llama4Config> open(llvm::StringRef path, std::vector<std::string> &warnings,
                                           bool vision = true);
  // `name` starts the messages.
  static llvm::Expected<Llama4Config> parse(llvm::StringRef json, llvm::StringRef name,
                                            std::vector<std::string> &warnings, bool vision = true);

private:
  std::vector<bool> rope, moe; // of each layer
  friend class ConfigReader;
};

} // namespace moe

#endif
