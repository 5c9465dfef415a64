// What the inputs and outputs of step programs mean: those that a session fills and reads, by name.
//
//   tokens     i32[T]     ids
//   positions  i32[T]     in their sequences, from 0
//   sequences  i32[T]     slots of the session, below S
//   rows       i32[R]     tokens of the step whose logits or ids are wanted
//   sampling   u8[R, 40]  RowSampling (runtime/device/RowSampling.h): what is wanted of a row
//   masks      u32[S, ceil(vocabulary / 32)]
//                         of rows whose ids a grammar restricts, in any order (RowSampling::mask):
//                         bit i % 32 of word i / 32 says whether token i may be chosen
//   images     f32[C, H]  rows of pictures, of which a step's come first; C is no less than T of
//   any
//                         step
//   image_rows i32[T]     which of them a token has in place of its embedding, or -1
//   any name   i32[S, P]  of a pool: the page of each 64 positions of a sequence; what was given
//                         back is -1
//
//   logits     f32[R, vocabulary]
//   ids        i32[R]     tokens that the device chose, or a code below zero (RowSampling.h)
//   hidden     f32[R, H]  hidden states: what the last norm gives and the head reads
//
// And those of vision programs, whose T are tiles, of S by S pixels and t rows:
//
//   tiles      u8[T, S, S, 3]  pixels, red, green and blue
//   image_rows f32[T, t, H]    what steps take in place of embeddings
#ifndef MOE_RUNTIME_SESSION_STEPBINDING_H
#define MOE_RUNTIME_SESSION_STEPBINDING_H

#include "runtime/Status.h"
#include "runtime/device/Programs.h"

#include <optional>

namespace moe {

// Where they are among those of a DevicePlan. A program takes what it declares of the inputs.
struct StepBinding {
  struct Table {
    uint32_t input, pool;
  };

  size_t inputs = 0; // of the DevicePlan
  std::optional<uint32_t> tokens, positions, sequences, rows, sampling, masks;
  std::optional<uint32_t> images, imageRows; // both where every step program takes them, or neither
  int64_t imageCapacity = 0;                 // C
  std::vector<Table> tables;
  uint32_t logits = 0;
  std::optional<uint32_t> ids;             // where every program chooses them
  std::optional<uint32_t> hidden;          // where every program gives them
  std::optional<uint32_t> tiles, tileRows; // input and output of the vision programs, if there are
};

// Errors: InvalidPlan where the programs take what this runtime does not fill, or give no logits;
// where something is of another type than above; or where there are vision programs and steps that
// do not take their rows.
Result<StepBinding> bindStep(const DevicePlan &plan, int64_t vocab, int64_t hiddenSize);

} // namespace moe

#endif
