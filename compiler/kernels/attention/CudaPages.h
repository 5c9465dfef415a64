// Keys and values on their way from the pages of the cache to the ring.
#ifndef MOE_COMPILER_KERNELS_ATTENTION_CUDAPAGES_H
#define MOE_COMPILER_KERNELS_ATTENTION_CUDAPAGES_H

#include "compiler/kernels/attention/CacheSpec.h"
#include "compiler/targets/cuda/CudaKernel.h"

namespace moe::codegen {

// The positions [low, high) of a sequence in pages firstPage .. firstPage + pages - 1.
struct Span {
  Val low, high, firstPage, pages;
};

// The producer warp's part: brings the span's keys and values of one head into the ring, a stage
// for the keys of a page and one for its values. Only the span's rows are read, since what is
// around them may never have been written; values around them become zero, as 0 times NaN is NaN.
// `heads` is where the head begins in page 0; clearKeys: keys around the span become zero, too, as
// tensor cores read them. Returns the count of stages after it.
Val streamSpan(CudaKernel &k, Ring &ring, const CacheSpec &cache, Val stage, Ptr heads,
               Ptr tableRow, const Span &span, bool clearKeys = false);

} // namespace moe::codegen

#endif
