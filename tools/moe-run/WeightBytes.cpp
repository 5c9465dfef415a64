#include "tools/moe-run/WeightBytes.h"

#include <set>

namespace moe {

WeightBytes weightBytes(const Plan &plan, std::string_view device) {
  std::set<std::pair<uint32_t, uint64_t>> read; // section and offset
  for (const fb::Program *program : plan.programs(device))
    for (const fb::Call *call : *program->calls())
      for (const fb::Operand *operand : *call->operation_as_KernelCall()->operands())
        if (operand->kind() == fb::OperandKind::Weight)
          read.insert({operand->index(), operand->offset()});
  const auto isRead = [&](const fb::Tensor &tensor) {
    auto first = read.lower_bound({tensor.section(), tensor.offset()});
    return first != read.end() && first->first == tensor.section() &&
           first->second < tensor.offset() + tensor.bytes();
  };
  const fb::Model &model = *plan.index().model();
  const uint64_t experts = model.experts(), used = model.experts_per_token();
  const auto *tensors = plan.index().tensors();
  const auto isEmbedding = [](const fb::Tensor &tensor) {
    return tensor.name()->string_view().find("embed") != std::string_view::npos;
  };
  bool hasHead = false;
  for (uint32_t i = 0; tensors && i < tensors->size(); ++i)
    hasHead |= isRead(*tensors->Get(i)) && !isEmbedding(*tensors->Get(i)) &&
               tensors->Get(i)->shape()->size() == 2 &&
               tensors->Get(i)->shape()->Get(0) == model.vocab_size();
  WeightBytes sum;
  for (uint32_t i = 0; tensors && i < tensors->size(); ++i) {
    const fb::Tensor &tensor = *tensors->Get(i);
    if (!isRead(tensor))
      continue;
    sum.all += tensor.bytes();
    if (isEmbedding(tensor) && hasHead) // else it is the head too
      continue;
    bool moe = experts && tensor.shape()->size() == 3; // all other weights are matrices or vectors
    uint64_t first = moe ? tensor.shape()->Get(0) : 0;
    if (first && first == experts)
      sum.active += tensor.bytes() / experts * used;
    else
      sum.active += tensor.bytes();
  }
  return sum;
}

} // namespace moe
