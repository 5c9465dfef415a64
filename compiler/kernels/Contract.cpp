// Names of operands, and what names of kernels are made of.
#include "compiler/kernels/Contract.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/xxhash.h"
#include <bit>

namespace moe::codegen {

llvm::StringRef nameOf(Operand operand) {
  switch (operand) {
  case Operand::Tokens:
    return "tokens";
  case Operand::Positions:
    return "positions";
  case Operand::Sequences:
    return "sequences";
  case Operand::BlockTable:
    return "block_table";
  case Operand::Rows:
    return "rows";
  case Operand::Sampling:
    return "sampling";
  case Operand::Masks:
    return "masks";
  case Operand::Logits:
    return "logits";
  case Operand::Ids:
    return "ids";
  case Operand::HiddenStates:
    return "hidden_states";
  case Operand::ImageRows:
    return "image_rows";
  case Operand::Tiles:
    return "tiles";
  case Operand::Images:
    return "images";
  case Operand::Embedding:
    return "embedding";
  case Operand::Norm:
    return "norm";
  case Operand::NormBias:
    return "norm_bias";
  case Operand::Router:
    return "router";
  case Operand::Bias:
    return "bias";
  case Operand::ClassRow:
    return "class_row";
  case Operand::RowTable:
    return "row_table";
  case Operand::Weight:
    return "weight";
  case Operand::SharedWeight:
    return "shared_weight";
  case Operand::RoutedWeight:
    return "routed_weight";
  case Operand::H:
    return "h";
  case Operand::X:
    return "x";
  case Operand::RopeTable:
    return "rope_table";
  case Operand::Sums:
    return "sums";
  case Operand::Q:
    return "q";
  case Operand::Cache:
    return "cache";
  case Operand::Keys:
    return "keys";
  case Operand::Values:
    return "values";
  case Operand::AttentionOut:
    return "attention_out";
  case Operand::Hidden:
    return "hidden";
  case Operand::Experts:
    return "experts";
  case Operand::Scores:
    return "scores";
  case Operand::ExpertLogits:
    return "expert_logits";
  case Operand::Order:
    return "order";
  case Operand::Offsets:
    return "offsets";
  case Operand::Partials:
    return "partials";
  case Operand::Counters:
    return "counters";
  }
  llvm_unreachable("no such operand");
}

std::string identifier(std::string name) {
  std::replace_if(name.begin(), name.end(), [](char c) { return !llvm::isAlnum(c); }, '_');
  return name;
}

std::string numberName(float value) {
  return llvm::utohexstr(std::bit_cast<uint32_t>(value), /*LowerCase=*/true);
}

std::string digest(llvm::ArrayRef<float> values) {
  auto bytes = llvm::ArrayRef(reinterpret_cast<const uint8_t *>(values.data()),
                              values.size() * sizeof(float));
  return llvm::formatv("{0:x-8}", uint32_t(llvm::xxh3_64bits(bytes)));
}

std::string formatNames(const WeightFormat &shared, const WeightFormat &routed, int64_t experts) {
  return !experts || shared == routed ? nameOf(shared) : nameOf(shared) + "_" + nameOf(routed);
}

std::string expertsName(int64_t experts, int64_t k) {
  return experts ? llvm::formatv("_e{0}k{1}", experts, k).str() : "";
}

} // namespace moe::codegen
