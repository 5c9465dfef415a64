#include "tools/moe-run/ActiveBytes.h"

namespace moe {

uint64_t activeWeightBytes(const Plan &plan) {
  const fb::Model &model = *plan.index().model();
  const uint64_t experts = model.experts(), used = model.experts_per_token();
  const auto *tensors = plan.index().tensors();
  const auto isEmbedding = [](const fb::Tensor &tensor) {
    return tensor.name()->string_view().find("embed") != std::string_view::npos;
  };
  bool hasHead = false;
  for (uint32_t i = 0; tensors && i < tensors->size(); ++i)
    hasHead |= !isEmbedding(*tensors->Get(i)) && tensors->Get(i)->shape()->size() == 2 &&
               tensors->Get(i)->shape()->Get(0) == model.vocab_size();
  uint64_t sum = 0;
  for (uint32_t i = 0; tensors && i < tensors->size(); ++i) {
    const fb::Tensor &tensor = *tensors->Get(i);
    if (isEmbedding(tensor) && hasHead) // else it is the head too
      continue;
    bool moe = experts && tensor.shape()->size() == 3; // all other weights are matrices or vectors
    uint64_t first = moe ? tensor.shape()->Get(0) : 0;
    if (first && first == experts + 1) // the shared expert is one of them
      sum += tensor.bytes() / (experts + 1) * (used + 1);
    else if (first && first == experts)
      sum += tensor.bytes() / experts * used;
    else
      sum += tensor.bytes();
  }
  return sum;
}

} // namespace moe
