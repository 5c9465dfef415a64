// What a session asks of a row of logits, and what comes of it, as kernels that choose tokens read
// and write it: the elements of the input "sampling" and of the output "ids". Devices copy both and
// look at neither.
#ifndef MOE_RUNTIME_DEVICE_ROWSAMPLING_H
#define MOE_RUNTIME_DEVICE_ROWSAMPLING_H

#include <cstdint>

namespace moe {

// How a token is drawn from a row of logits; Sampler.h has the formulas.
struct Draw {
  float scale = 0;        // log2(e) / temperature; 0: greedy, and what follows is not used
  int32_t topK = 0;       // 0: all tokens
  uint64_t random = 0;    // uniform
  uint64_t topP = 0;      // 2^64 times the share of the probability; 0: all of it
  uint64_t minWeight = 0; // the least weight that is kept
  bool masked = false;    // the logits of tokens that a mask leaves out are minus infinity
};

// 40 bytes of the input "sampling", one for each row. Kernels read the fields by offset; those of
// Draw have the same names.
struct RowSampling {
  enum : uint32_t {
    writesLogits = 1, // to the output "logits", as if there were no mask
    draws = 2,        // from them; otherwise the row's id is that of its largest logit
    masked = 4,       // by mask number `mask` of the input "masks"; with writesLogits
  };
  uint32_t flags;
  float scale; // with `draws` above 0
  uint64_t random;
  uint64_t topP;
  uint64_t minWeight;
  int32_t topK;
  int32_t mask;
};
static_assert(sizeof(RowSampling) == 40);

// What comes instead of an id: every logit is minus infinity; or that of a token, the lowest such,
// is NaN or infinite. Those that a mask leaves out do not count.
inline constexpr int32_t kNothingToChoose = -1;
constexpr int32_t badLogitId(int32_t token) { return -2 - token; }
constexpr int32_t tokenOfBadLogit(int32_t id) { return -2 - id; }

} // namespace moe

#endif
