// The calling convention between CUDA kernels in a plan and the runtime that launches them.
//
// A kernel is a PTX entry `name` with operands + 1 parameters of 64 bits: the device address of
// each operand of the call, in order, then that of the StepInfo. Operands are 64-byte aligned, and
// are what Plan.fbs says. The grid is {min(Call.blocks, blocks_per_sm * multiprocessors), 1, 1}; a
// kernel strides over its work, so any grid gives the same bits, and its whole grid is resident at
// once.
//
// Buffers of kind Counters and the KV pages are zero when a session begins; a kernel leaves
// counters zero. Of a block table only the entries up to the page of a sequence's last token are
// set. A kernel marked `dependent` executes griddepcontrol.wait in every block before it reads or
// writes anything but weights, the step's inputs and its StepInfo, and is launched with
// programmatic stream serialization.
#ifndef MOE_RUNTIME_DEVICE_CUDA_KERNELABI_H
#define MOE_RUNTIME_DEVICE_CUDA_KERNELABI_H

#include "runtime/device/RowSampling.h"

#include <cstdint>

namespace moe::cuda {

// Facts of the step at hand, in device memory. Kernels read these fields by offset
// (compiler/targets/cuda).
struct StepInfo {
  int32_t tokens;      // T, at least 1
  int32_t rows;        // R, may be 0
  int32_t tableStride; // pages a sequence may have: row length of the block tables
  int32_t reserved;
};

// An element of the input "sampling".
using moe::RowSampling;

} // namespace moe::cuda

#endif
