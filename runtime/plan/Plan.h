// A plan file, mapped and verified: what the compiler made of a model, as the runtime reads it.
#ifndef MOE_RUNTIME_PLAN_PLAN_H
#define MOE_RUNTIME_PLAN_PLAN_H

#include "runtime/Status.h"
#include "runtime/plan/Plan_generated.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

struct OpenOptions {
  enum class Load {
    Map,  // map the file; pages come from the disk when they are first touched
    Read, // read all of it into memory of its own, in large pages where the system has them
  };
  Load load = Load::Map;
  bool prefault = false;      // Map: read all pages before open returns
  bool verifyWeights = false; // hash the Weights sections too: reads the whole file
};

// A verified plan. Constant, movable; spans and index() live as long as the plan, also when it is
// moved. Any number of threads may read it.
//
// After open() a caller may rely on everything that Plan.fbs says: required fields are there,
// indices are in range, operands lie inside arena, section or page or are inputs and outputs that
// the program declares, programs of a device and kind are in ascending order, and header, index,
// code and tokenizer are as they were written. The contents of the tokenizer's tables are verified
// by Tokenizer::create.
class Plan {
public:
  // Errors: IoError when the system refuses, InvalidPlan when the file is no plan that this version
  // can run.
  static Result<Plan> open(const std::string &path, OpenOptions options = {});

  // A plan in memory, which starts at a multiple of 64, is not copied and must outlive the result.
  // Of the options only `verifyWeights` matters.
  static Result<Plan> open(std::span<const std::byte> file, OpenOptions options = {});

  const fb::Plan &index() const { return *root; }

  // The bytes of index().sections()->Get(i). Those of a file start at a multiple of 4096.
  std::span<const std::byte> section(uint32_t i) const;

  // The programs of a device and kind, in ascending order of tokens; empty if the plan has none.
  std::vector<const fb::Program *> programs(std::string_view device,
                                            fb::ProgramKind kind = fb::ProgramKind::Step) const;

  uint64_t fileSize() const { return bytes.size(); }
  uint64_t indexSize() const { return indexBytes; }
  // Of the index, which has the hash of each section: two plans with the same one are the same.
  uint64_t hash() const;
  std::string writer() const; // "moec 0.1.0"
  uint16_t major() const;     // of the file's format
  uint16_t minor() const;

  // The path as given to open; empty for a plan in memory.
  const std::string &path() const { return name; }

  // The open file, valid as long as the plan, or -1 for a plan in memory. Section i lies at
  // index().sections()->Get(i)->offset(), so that a device can map it with other rights or read it
  // directly. Only section() is what was verified: the file may since have been written to.
  int file() const;

private:
  struct File; // owns the mapping and the descriptor

  struct Closer {
    void operator()(File *file) const;
  };

  Plan() = default;
  Status verify(const OpenOptions &options);

  std::unique_ptr<File, Closer> owned; // null for a plan in memory
  std::string name;
  std::span<const std::byte> bytes;
  const fb::Plan *root = nullptr;
  uint64_t indexBytes = 0;
};

} // namespace moe

#endif
