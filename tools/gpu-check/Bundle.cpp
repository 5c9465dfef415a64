// A bundle may come from anywhere: its structure is verified by flatbuffers, and all that is used
// as an index or a size is checked here.
#include "tools/gpu-check/Bundle.h"

#include "tools/gpu-check/Pattern.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

namespace moe::gpucheck {
namespace {

Error damaged(const std::string &what) {
  return Error{Code::InvalidArgument, "the bundle is damaged: " + what +
                                          "; copy it again, or make it anew with gpu-bundle"};
}

Status checkKernel(const fb::Kernel &kernel) {
  const std::string name = "kernel '" + kernel.name()->str() + "' has ";
  if (kernel.threads() == 0 || kernel.threads() > 1024)
    return damaged(name + std::to_string(kernel.threads()) + " threads, expected 1 to 1024");
  if (kernel.shared_bytes() > (256u << 10))
    return damaged(name + std::to_string(kernel.shared_bytes()) +
                   " bytes of shared memory, expected at most 256 KiB");
  if (kernel.blocks_per_sm() == 0 || kernel.blocks_per_sm() > 64)
    return damaged(name + std::to_string(kernel.blocks_per_sm()) +
                   " blocks a multiprocessor, expected 1 to 64");
  return ok();
}

Status checkPut(const fb::Operand &operand, const std::string &name) {
  const uint32_t count = operand.at() ? operand.at()->size() : 0;
  if (count != (operand.put() ? operand.put()->size() : 0) ||
      (count && operand.element() != fb::Element::F32))
    return damaged(name + " replaces elements in an unknown way");
  for (uint32_t i = 0; i < count; ++i)
    if (operand.at()->Get(i) >= operand.bytes() / 4)
      return damaged(name + " replaces element " + std::to_string(operand.at()->Get(i)) + " of " +
                     std::to_string(operand.bytes() / 4));
  return ok();
}

Status checkOperand(const fb::Bundle &bundle, const fb::Operand &operand, const std::string &name) {
  if (operand.bytes() > kMostOperandBytes)
    return damaged(name + " takes " + std::to_string(operand.bytes()) +
                   " bytes, expected at most " + std::to_string(kMostOperandBytes));
  switch (operand.fill()) {
  case fb::Fill::Undefined:
  case fb::Fill::Zero:
    return ok();
  case fb::Fill::Pattern:
    if (operand.element() > fb::Element::F16)
      return damaged(name + " has a pattern of no type of floats");
    if (operand.bytes() % bytesOf(operand.element()))
      return damaged(name + " has a part of an element");
    if (!std::isfinite(operand.scale()))
      return damaged(name + " has a pattern without a size");
    return checkPut(operand, name);
  case fb::Fill::Stored:
    if (operand.blob() >= bundle.blobs()->size())
      return damaged(name + " is blob " + std::to_string(operand.blob()) + " of " +
                     std::to_string(bundle.blobs()->size()));
    if (bundle.blobs()->Get(operand.blob())->bytes()->size() != operand.bytes())
      return damaged(name + " has another size than its blob");
    return ok();
  }
  return damaged(name + " is filled in an unknown way");
}

Status checkElements(const fb::Case &of, const fb::Check &check, const std::string &name) {
  if (check.operand() >= of.operands()->size())
    return damaged(name + " checks operand " + std::to_string(check.operand()) + " of " +
                   std::to_string(of.operands()->size()));
  if (check.element() > fb::Element::I32)
    return damaged(name + " checks elements of an unknown type");
  if (check.at()->size() != check.want()->size())
    return damaged(name + " checks elements without a value");
  if (!(check.relative() >= 0 && check.absolute() >= 0))
    return damaged(name + " has no tolerance");
  const uint64_t elements = of.operands()->Get(check.operand())->bytes() / bytesOf(check.element());
  const uint64_t terms = check.terms();
  if (terms == 0 || terms > 4096 || check.stride() > elements)
    return damaged(name + " adds up elements in an unknown way");
  for (uint64_t at : *check.at())
    if (at >= elements || (terms - 1) * check.stride() >= elements - at)
      return damaged(name + " checks element " + std::to_string(at) + " of " +
                     std::to_string(elements));
  return ok();
}

Status checkCase(const fb::Bundle &bundle, const fb::Case &of) {
  const std::string name = "case '" + of.name()->str() + "'";
  if (of.kernel() >= bundle.kernels()->size())
    return damaged(name + " runs kernel " + std::to_string(of.kernel()) + " of " +
                   std::to_string(bundle.kernels()->size()));
  if (of.tokens() == 0 || of.tokens() > (1u << 20) || of.rows() > (1u << 20) ||
      of.context() > (1u << 30) || of.table_stride() > (1u << 24) || of.blocks() == 0 ||
      of.blocks() > (1u << 24))
    return damaged(name + " is a step of no possible size");
  if (of.operands()->size() > 64)
    return damaged(name + " has " + std::to_string(of.operands()->size()) +
                   " operands, expected at most 64");
  for (uint32_t i = 0; i < of.operands()->size(); ++i)
    MOE_TRY(checkOperand(bundle, *of.operands()->Get(i),
                         "operand " + std::to_string(i) + " of " + name));
  for (const fb::Check *check : *of.checks())
    MOE_TRY(checkElements(of, *check, name));
  return ok();
}

Status checkText(const fb::Text &text) {
  const uint64_t rows = text.tokens()->size();
  if (text.prompt()->size() == 0 || rows == 0 || text.margins()->size() != rows ||
      text.logits()->size() % rows != 0 || text.logits()->size() == 0)
    return damaged("its text has " + std::to_string(text.prompt()->size()) + " and " +
                   std::to_string(rows) + " tokens, " + std::to_string(text.margins()->size()) +
                   " margins and " + std::to_string(text.logits()->size()) + " logits");
  return ok();
}

Result<std::vector<std::byte>> readFile(const std::string &path) {
  const auto failed = [&](const char *what) {
    return Error{Code::IoError, std::string("cannot ") + what + " '" + path +
                                    "': " + std::strerror(errno) +
                                    "; give the folder that gpu-bundle wrote"};
  };
  std::unique_ptr<FILE, int (*)(FILE *)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file)
    return failed("open");
  std::vector<std::byte> bytes;
  std::byte piece[1 << 16];
  while (size_t count = std::fread(piece, 1, sizeof piece, file.get())) {
    bytes.insert(bytes.end(), piece, piece + count);
    if (bytes.size() > kMostBundleBytes)
      return Error{Code::InvalidArgument, "'" + path + "' has more than the 12 MiB of a bundle"};
  }
  if (std::ferror(file.get()))
    return failed("read");
  return bytes;
}

} // namespace

Result<Bundle> Bundle::open(const std::string &folder) {
  MOE_ASSIGN(bytes, readFile(folder + "/" + kKernelsFile));
  return open(std::move(bytes));
}

Result<Bundle> Bundle::open(std::vector<std::byte> bytes) {
  Bundle bundle;
  bundle.bytes = std::move(bytes);
  const auto *data = reinterpret_cast<const uint8_t *>(bundle.bytes.data());
  if (bundle.bytes.size() < 8 || !fb::BundleBufferHasIdentifier(data))
    return damaged("it does not begin as a bundle does");
  flatbuffers::Verifier verifier(data, bundle.bytes.size());
  if (!fb::VerifyBundleBuffer(verifier))
    return damaged("its structure does not hold");
  const fb::Bundle &root = *fb::GetBundle(data);
  bundle.index = &root;
  if (root.version() != kBundleVersion)
    return Error{Code::InvalidArgument,
                 "the bundle is of version " + std::to_string(root.version()) +
                     ", and this gpu-check " + "reads version " + std::to_string(kBundleVersion) +
                     ": take both from the same build"};
  for (const fb::Kernel *kernel : *root.kernels())
    MOE_TRY(checkKernel(*kernel));
  for (const fb::Case *of : *root.cases())
    MOE_TRY(checkCase(root, *of));
  const fb::Probes &probes = *root.probes();
  for (uint32_t kernel : {probes.read(), probes.copy(), probes.products()})
    if (kernel >= root.kernels()->size())
      return damaged("a probe is kernel " + std::to_string(kernel) + " of " +
                     std::to_string(root.kernels()->size()));
  MOE_TRY(checkText(*root.text()));
  return bundle;
}

float readElement(fb::Element element, const std::byte *from) {
  uint32_t bits = 0;
  std::memcpy(&bits, from, bytesOf(element));
  if (element == fb::Element::I32)
    return float(int32_t(bits));
  return infoOf(storageOf(element)).decode(bits, 0);
}

std::string difference(const fb::Check &check, uint32_t i, float got) {
  const float want = check.want()->Get(i);
  const double tolerance = check.absolute() + double(check.relative()) * std::abs(want);
  if (std::abs(double(got) - want) <= tolerance)
    return {};
  char text[160];
  std::snprintf(text, sizeof text, "element %llu of operand %u is %.7g, expected %.7g within %.2g",
                static_cast<unsigned long long>(check.at()->Get(i)), check.operand(), got, want,
                tolerance);
  return text;
}

} // namespace moe::gpucheck
