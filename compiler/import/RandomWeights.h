// Weights that are made up as they are read: a model of any size without a checkpoint, for work on
// size, memory and speed. The same configuration and seed give the same weights on every machine.
#ifndef MOE_COMPILER_IMPORT_RANDOMWEIGHTS_H
#define MOE_COMPILER_IMPORT_RANDOMWEIGHTS_H

#include "compiler/import/Config.h"
#include "runtime/weights/TensorSource.h"

namespace moe {

// Tensors have the names and shapes of a Llama4ForCausalLM checkpoint, and with a vision tower also
// those of the tower and the projector of a Llama4ForConditionalGeneration one. With t the FNV-1a
// hash (64 bits) of the tensor's name, xor seed * 0x9E3779B97F4A7C15, element i is, modulo 2^64,
//
//   z = t * 0xD1342543DE82EF95 + (i + 1) * 0x9E3779B97F4A7C15
//   z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9
//   z = (z ^ z >> 27) * 0x94D049BB133111EB
//   z = z ^ z >> 31
//   float32(offset + scale * ((z >> 40) / 2^24 - 0.5)), in double, then rounded to the dtype
//
// with offset 1 and scale 0.5 for norms, 0 and 2 for the embedding, 0 and 0.5 for biases, 0 and 1
// for the tower's class row and positions, and 0 and 2 * sqrt(3 / inputs) for all else, which makes
// outputs of the variance of their inputs.
class RandomWeights final : public TensorSource {
public:
  RandomWeights(const Llama4Config &config, uint64_t seed);

private:
  Status readElements(const TensorInfo &tensor, uint64_t begin,
                      std::span<float> out) const override;

  uint64_t seed;
};

} // namespace moe

#endif
