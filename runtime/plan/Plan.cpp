// Maps a plan file and decides whether to trust it.
#include "runtime/plan/Plan.h"

#include "runtime/plan/Check.h"
#include "runtime/plan/Format.h"

#include <bit>
#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static_assert(std::endian::native == std::endian::little, "a plan is read in place");

namespace moe {
namespace {

// An index is a few MB. The caps bound what a hostile file can cost before its checks are through.
constexpr uint64_t kMaxIndexBytes = 256 << 20;
constexpr uint32_t kMaxTableDepth = 16;
constexpr uint32_t kMaxTables = 4'000'000;

std::string version(uint16_t major, uint16_t minor) {
  return std::to_string(major) + "." + std::to_string(minor);
}

Error invalid(const std::string &what) { return {Code::InvalidPlan, what}; }

Error damaged(const std::string &what) {
  return invalid(what + ": the file is damaged or incomplete; copy it again, or compile it again "
                        "with `moec compile`");
}

// The writer's version with nothing in it that could harm a terminal.
std::string writerOf(const Header &header) {
  std::string writer;
  for (char c : header.writer)
    if (c >= ' ' && c <= '~')
      writer += c;
  return writer.empty() ? "an unknown compiler" : writer;
}

Status checkVersion(const Header &header) {
  const std::string wrote = writerOf(header) + " wrote it in format " +
                            version(header.major, header.minor) + ", and this runtime reads " +
                            version(kPlanMajor, kPlanMinor);
  if (header.major > kPlanMajor)
    return invalid(wrote +
                   ": update the runtime, or compile the plan again with the `moec compile` "
                   "of this version");
  if (header.major < kPlanMajor)
    return invalid(wrote + " only: compile it again with `moec compile`");
  if (uint32_t unknown = header.features & ~kPlanFeatures)
    return invalid(wrote + ", but it needs feature bits " + std::to_string(unknown) +
                   " that this runtime lacks: update the runtime, or compile the plan again with "
                   "the `moec compile` of this version");
  return ok();
}

} // namespace

struct Plan::File {
  void *data = nullptr;
  size_t size = 0;
  int fd = -1;
};

void Plan::Closer::operator()(File *file) const {
  if (file->data)
    munmap(file->data, file->size);
  if (file->fd >= 0)
    close(file->fd);
  delete file;
}

// Reads all of a file; `read` moves at most 2 GiB at a time.
static bool readAll(int fd, std::byte *out, size_t size) {
  for (size_t done = 0; done < size;) {
    const ssize_t n = pread(fd, out + done, std::min(size - done, size_t(256) << 20), done);
    if (n > 0) {
      done += n;
    } else if (n == 0 || errno != EINTR) {
      if (n == 0)
        errno = EIO; // shorter than it was a moment ago
      return false;
    }
  }
  return true;
}

Result<Plan> Plan::open(const std::string &path, OpenOptions options) {
  const auto ioError = [&](const char *what) {
    return Error{Code::IoError,
                 std::string("cannot ") + what + " plan '" + path + "': " + std::strerror(errno)};
  };
  Plan plan;
  plan.name = path;
  plan.owned.reset(new File);
  File &file = *plan.owned;
  file.fd =
      ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a pipe is refused, not awaited
  if (file.fd < 0)
    return ioError("open");
  struct stat info;
  if (fstat(file.fd, &info))
    return ioError("open");
  if (!S_ISREG(info.st_mode))
    return Error{Code::IoError, "cannot open plan '" + path + "': it is not a regular file"};
  if (info.st_size == 0)
    return damaged("plan '" + path + "' is empty");

  const size_t size = info.st_size;
  const bool map = options.load == OpenOptions::Load::Map;
  void *data =
      map ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE | (options.prefault ? MAP_POPULATE : 0),
                 file.fd, 0)
          : mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED)
    return ioError(map ? "map" : "find memory for");
  file.data = data;
  file.size = size;
  if (!map) {
    madvise(data, size, MADV_HUGEPAGE);
    if (!readAll(file.fd, static_cast<std::byte *>(data), size))
      return ioError("read");
    mprotect(data, size, PROT_READ);
  }
  plan.bytes = {static_cast<const std::byte *>(data), size};
  if (Status status = plan.verify(options); !status)
    return Error{status.error().code, "plan '" + path + "': " + status.error().message};
  return plan;
}

Result<Plan> Plan::open(std::span<const std::byte> file, OpenOptions options) {
  if (reinterpret_cast<uintptr_t>(file.data()) % kTensorAlignment)
    return Error{Code::InvalidArgument, "a plan in memory must start at a multiple of 64 bytes"};
  Plan plan;
  plan.bytes = file;
  if (Status status = plan.verify(options); !status)
    return Error{status.error().code, "plan: " + status.error().message};
  return plan;
}

Status Plan::verify(const OpenOptions &options) {
  // The header, whose layout is the same in all versions.
  if (bytes.size() < sizeof(Header))
    return damaged("it has " + std::to_string(bytes.size()) + " bytes, and a header takes " +
                   std::to_string(sizeof(Header)));
  Header header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (std::memcmp(header.magic, kPlanMagic, sizeof(kPlanMagic)))
    return invalid("it does not start as a plan does: is this the output of `moec compile`?");
  if (header.hash != headerHash(header))
    return damaged("the hash of its header does not match");
  MOE_TRY(checkVersion(header));

  // The index.
  if (header.indexOffset > bytes.size() || header.indexOffset % kSectionAlignment ||
      header.indexOffset < kSectionAlignment ||
      bytes.size() - header.indexOffset != header.indexLength)
    return damaged("its header puts " + std::to_string(header.indexLength) +
                   " bytes of index at byte " + std::to_string(header.indexOffset) +
                   ", and the file ends at byte " + std::to_string(bytes.size()));
  if (header.indexLength > kMaxIndexBytes)
    return invalid("its index has " + std::to_string(header.indexLength) +
                   " bytes, more than the " + std::to_string(kMaxIndexBytes) +
                   " that this runtime accepts");
  const auto *start = reinterpret_cast<const uint8_t *>(bytes.data()) + header.indexOffset;
  if (hashBytes(start, header.indexLength) != header.indexHash)
    return damaged("the hash of its index does not match");
  // The smallest index has two dozen tables; FlatBuffers' own accessors read 8 bytes unasked.
  flatbuffers::Verifier verifier(start, header.indexLength, kMaxTableDepth, kMaxTables);
  if (header.indexLength < 16 || !fb::VerifyPlanBuffer(verifier))
    return invalid("its index is not well formed, though its hash matches; " + writerOf(header) +
                   " wrote it: compile it again with `moec compile`");
  root = fb::GetPlan(start);
  indexBytes = header.indexLength;
  if (Status status = checkIndex(*root, header.indexOffset); !status)
    return invalid(status.error().message + "; " + writerOf(header) +
                   " wrote it: compile it again with `moec compile`");

  // The sections: what is executed or parsed always, the many bytes of the weights on request.
  for (uint32_t i = 0; i < root->sections()->size(); ++i) {
    const fb::Section &info = *root->sections()->Get(i);
    if (info.kind() == fb::SectionKind::Weights && !options.verifyWeights)
      continue;
    const std::span<const std::byte> data = section(i);
    if (hashBytes(data.data(), data.size()) != info.hash())
      return damaged("the hash of section '" + info.name()->str() + "' does not match");
    // The driver reads PTX up to its NUL.
    if (info.kind() == fb::SectionKind::Ptx && (data.empty() || data.back() != std::byte(0)))
      return invalid("section '" + info.name()->str() + "' is PTX without a NUL at its end; " +
                     writerOf(header) + " wrote it: compile it again with `moec compile`");
  }
  return ok();
}

std::span<const std::byte> Plan::section(uint32_t i) const {
  const fb::Section &info = *root->sections()->Get(i);
  return bytes.subspan(info.offset(), info.length());
}

std::vector<const fb::Program *> Plan::programs(std::string_view device,
                                                fb::ProgramKind kind) const {
  std::vector<const fb::Program *> found;
  for (const fb::Program *program : *root->programs())
    if (program->kind() == kind && program->device()->string_view() == device)
      found.push_back(program);
  return found;
}

static Header headerOf(std::span<const std::byte> bytes) {
  Header header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  return header;
}

std::string Plan::writer() const { return writerOf(headerOf(bytes)); }
uint64_t Plan::hash() const { return headerOf(bytes).indexHash; }
uint16_t Plan::major() const { return headerOf(bytes).major; }
uint16_t Plan::minor() const { return headerOf(bytes).minor; }
int Plan::file() const { return owned ? owned->fd : -1; }

} // namespace moe
