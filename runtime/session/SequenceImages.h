// The pictures of one sequence, and which row of which of them each patch token takes.
#ifndef MOE_RUNTIME_SESSION_SEQUENCEIMAGES_H
#define MOE_RUNTIME_SESSION_SEQUENCEIMAGES_H

#include "runtime/Status.h"
#include "runtime/session/EncodedImage.h"

#include <optional>

namespace moe {

// Tokens are told in order of their positions, and may be told again from any position on: what was
// said of earlier ones stays.
class SequenceImages {
public:
  bool empty() const { return spans.empty(); }

  // Replaces the pictures at `length` and after; those before stay. Positions are below `context`,
  // the most that this object is ever told. Error: InvalidArgument, and nothing is changed, for one
  // before `length`, for two that do not ascend, and for rows of other than `channels`.
  Status set(std::span<const ImageSpan> images, int64_t length, int64_t context, int64_t channels);

  // The token at `position` is a patch or is none. A patch for which the picture before it has no
  // row left, or that has none before it, is a token as others are. Allocates nothing.
  void advance(int64_t position, bool isPatch);

  struct Row {
    const EncodedImage *image;
    int64_t row;
  };
  // Of a patch token that advance was told of; nothing if it has none.
  std::optional<Row> rowAt(int64_t position) const;

private:
  // The picture whose tokens `position` is among; null before the first.
  const ImageSpan *spanAt(int64_t position) const;
  int64_t takenBefore(const ImageSpan *span, int64_t position) const;

  std::vector<ImageSpan> spans; // ascending
  // [context + 1] rows that the picture at position - 1 has given to tokens before `position`.
  std::unique_ptr<int32_t[]> taken;
};

} // namespace moe

#endif
