// How fast this machine reads memory right now: the floor that decoding is measured against.
#ifndef MOE_TOOLS_MOE_RUN_READBANDWIDTH_H
#define MOE_TOOLS_MOE_RUN_READBANDWIDTH_H

#include <cstddef>
#include <memory>

namespace moe {

class ReadBandwidth {
public:
  // Allocates and touches 512 MB, shared out to the threads in one contiguous stream each. Null if
  // there is no memory for it.
  static std::unique_ptr<ReadBandwidth> create(int threads);
  virtual ~ReadBandwidth() = default;
  // Bytes per second, the median of some rounds; takes some tens of milliseconds.
  virtual double measure() = 0;
};

} // namespace moe

#endif
