// Names of kernels, from their specs.
#include "compiler/targets/KernelSpec.h"
#include "llvm/ADT/Hashing.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/xxhash.h"

namespace moe::codegen {

template <typename... F> struct Overloaded : F... {
  using F::operator()...;
};

// Distinguishes constants that have no short spelling.
static std::string digest(llvm::ArrayRef<float> values) {
  auto bytes = llvm::ArrayRef(reinterpret_cast<const uint8_t *>(values.data()),
                              values.size() * sizeof(float));
  return llvm::formatv("{0:x-8}", uint32_t(llvm::xxh3_64bits(bytes)));
}

static std::string nameOf(const CacheSpec &c) {
  std::string name =
      llvm::formatv("{0}_{1}x{2}_p{3}", nameOf(c.storage), c.heads, c.headDim, c.pageBytes);
  return c.chunk ? name + "_c" + std::to_string(c.chunk) : name;
}

// Of the shared and the routed experts.
static std::string formatsOf(const WeightFormat &shared, const WeightFormat &routed,
                             int64_t experts) {
  return !experts || shared == routed ? nameOf(shared) : nameOf(shared) + "_" + nameOf(routed);
}

static std::string expertsOf(int64_t experts, int64_t k) {
  return experts ? llvm::formatv("_e{0}k{1}", experts, k).str() : "";
}

std::string nameOf(const KernelSpec &spec) {
  return std::visit(
      Overloaded{
          [](const EmbedSpec &s) -> std::string {
            return llvm::formatv("embed_{0}_{1}", nameOf(s.format), s.hidden);
          },
          [](const RopeTableSpec &s) -> std::string {
            return llvm::formatv("rope_table_f32_{0}_{1}", 2 * s.frequencies.size(),
                                 digest(s.frequencies));
          },
          [](const NormRowsSpec &s) -> std::string {
            return llvm::formatv("norm_rows_{0}_{1}{2}_{3}",
                                 formatsOf(s.shared, s.routed, s.experts), s.hidden,
                                 expertsOf(s.experts, s.k), digest(s.eps));
          },
          [](const QkvSpec &s) -> std::string {
            llvm::SmallVector<float> constants{s.eps};
            std::string finish;
            if (s.prepared)
              finish += "_prepared";
            if (s.rope)
              finish += "_rope";
            if (s.qkNorm) {
              finish += "_norm";
              constants.push_back(*s.qkNorm);
            }
            if (s.temperature) {
              finish += "_temperature";
              constants.append({s.temperature->first, s.temperature->second});
            }
            if (s.attention)
              finish += "_attention_" + nameOf(*s.attention);
            return llvm::formatv("qkv_{0}_{1}_{2}h{3}{4}_{5}", nameOf(s.format), nameOf(s.cache),
                                 s.hidden, s.heads, finish, digest(constants));
          },
          [](const AttentionSpec &s) -> std::string {
            return llvm::formatv("attention_{0}_h{1}_{2}", nameOf(s.cache), s.heads,
                                 nameOf(s.output));
          },
          [](const LinearResidualSpec &s) -> std::string {
            return llvm::formatv("linear_residual_{0}_{1}x{2}{3}", nameOf(s.format), s.outputs,
                                 s.inputs, s.fromFloats ? "_floats" : "");
          },
          [](const GateUpSpec &s) -> std::string {
            return llvm::formatv(
                "gate_up_{0}_to_{1}_{2}x{3}{4}{5}_{6}", formatsOf(s.shared, s.routed, s.experts),
                formatsOf(s.sharedDown, s.routedDown, s.experts), s.width, s.hidden,
                expertsOf(s.experts, s.k), s.prepared ? "_prepared" : "", digest(s.eps));
          },
          [](const DownSpec &s) -> std::string {
            return llvm::formatv("down_{0}_{1}x{2}{3}", formatsOf(s.shared, s.routed, s.experts),
                                 s.hidden, s.width, expertsOf(s.experts, s.k));
          },
          [](const HeadSpec &s) -> std::string {
            return llvm::formatv("head_{0}_{1}x{2}_{3}", nameOf(s.format), s.vocabulary, s.hidden,
                                 digest(s.eps));
          },
      },
      spec);
}

int64_t operandsOf(const KernelSpec &spec) {
  return std::visit(Overloaded{
                        [](const EmbedSpec &) { return 3; },
                        [](const RopeTableSpec &) { return 2; },
                        [](const NormRowsSpec &s) { return s.experts ? 6 : 3; },
                        [](const QkvSpec &s) { return 8 + s.rope + 2 * s.attention.has_value(); },
                        [](const AttentionSpec &) { return 6; },
                        [](const LinearResidualSpec &) { return 3; },
                        [](const GateUpSpec &s) { return (s.experts ? 7 : 4) - s.prepared; },
                        [](const DownSpec &s) { return s.experts ? 5 : 3; },
                        [](const HeadSpec &) { return 5; },
                    },
                    spec);
}

} // namespace moe::codegen
