// Counts patch tokens from the beginning of each picture.
#include "runtime/session/SequenceImages.h"

#include <algorithm>
#include <string>

namespace moe {

Status SequenceImages::set(std::span<const ImageSpan> images, int64_t length, int64_t context,
                           int64_t channels) {
  int64_t least = length;
  for (const ImageSpan &span : images) {
    if (span.position < least || span.position >= context)
      return Error{Code::InvalidArgument,
                   "a picture is at position " + std::to_string(span.position) + ", expected " +
                       std::to_string(least) + " to " + std::to_string(context - 1) +
                       ": after what the sequence has and after the picture before, within the "
                       "context"};
    if (!span.image || span.image->channels != channels)
      return Error{
          Code::InvalidArgument,
          "a picture has rows of " + std::to_string(span.image ? span.image->channels : 0) +
              " channels, expected " + std::to_string(channels) + " as this session encodes them"};
    least = span.position + 1;
  }
  if (!images.empty() && !taken)
    taken = std::make_unique_for_overwrite<int32_t[]>(size_t(context) + 1);
  std::erase_if(spans, [&](const ImageSpan &span) { return span.position >= length; });
  spans.insert(spans.end(), images.begin(), images.end());
  return ok();
}

const ImageSpan *SequenceImages::spanAt(int64_t position) const {
  const auto after = std::upper_bound(
      spans.begin(), spans.end(), position,
      [](int64_t position, const ImageSpan &span) { return position < span.position; });
  return after == spans.begin() ? nullptr : &*std::prev(after);
}

int64_t SequenceImages::takenBefore(const ImageSpan *span, int64_t position) const {
  return span && position > span->position ? taken[position] : 0;
}

void SequenceImages::advance(int64_t position, bool isPatch) {
  if (taken)
    taken[position + 1] =
        int32_t(takenBefore(spanAt(position), position) + (isPatch && rowAt(position)));
}

std::optional<SequenceImages::Row> SequenceImages::rowAt(int64_t position) const {
  const ImageSpan *span = spanAt(position);
  const int64_t row = takenBefore(span, position);
  if (!span || row >= span->image->count)
    return std::nullopt;
  return Row{span->image.get(), row};
}

} // namespace moe
