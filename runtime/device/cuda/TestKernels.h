// A kernel in PTX for tests of whole plans, on the simulator and on a GPU.
#ifndef MOE_RUNTIME_DEVICE_CUDA_TESTKERNELS_H
#define MOE_RUNTIME_DEVICE_CUDA_TESTKERNELS_H

#include <string>

namespace moe::cuda {

// "store" puts each token into the cache, at its position's place: pages of 64 tokens, 4 bytes
// each. WAIT: an instruction that waits for the kernel before, or nothing.
inline std::string storeKernel(const std::string &wait) {
  return R"(
.visible .entry store(.param .u64 tokens, .param .u64 positions, .param .u64 sequences,
                      .param .u64 table, .param .u64 cache, .param .u64 info)
{
  .reg .pred %p; .reg .b32 %i, %n, %step, %stride, %t<8>;
  .reg .b64 %tokens, %positions, %sequences, %table, %cache, %info, %d<4>;
  ld.param.u64 %tokens, [tokens]; ld.param.u64 %positions, [positions];
  ld.param.u64 %sequences, [sequences]; ld.param.u64 %table, [table];
  ld.param.u64 %cache, [cache]; ld.param.u64 %info, [info];
)" + wait +
         R"(
  ld.global.u32 %n, [%info];
  ld.global.u32 %stride, [%info+8];
  mov.u32 %t0, %tid.x; mov.u32 %t1, %ctaid.x; mov.u32 %t2, %ntid.x; mov.u32 %t3, %nctaid.x;
  mad.lo.s32 %i, %t1, %t2, %t0;
  mul.lo.s32 %step, %t2, %t3;
LOOP:
  setp.ge.s32 %p, %i, %n;
  @%p bra END;
  mul.wide.s32 %d0, %i, 4;
  add.s64 %d1, %tokens, %d0;
  ld.global.u32 %t0, [%d1];
  add.s64 %d1, %positions, %d0;
  ld.global.u32 %t1, [%d1];
  add.s64 %d1, %sequences, %d0;
  ld.global.u32 %t2, [%d1];
  shr.u32 %t3, %t1, 6;
  mad.lo.s32 %t3, %t2, %stride, %t3;
  mul.wide.s32 %d2, %t3, 4;
  add.s64 %d2, %table, %d2;
  ld.global.u32 %t4, [%d2];
  and.b32 %t5, %t1, 63;
  mad.lo.s32 %t5, %t4, 64, %t5;
  mul.wide.s32 %d3, %t5, 4;
  add.s64 %d3, %cache, %d3;
  st.global.u32 [%d3], %t0;
  add.s32 %i, %i, %step;
  bra LOOP;
END:
  ret;
}
)";
}

} // namespace moe::cuda

#endif
