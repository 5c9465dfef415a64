// Opens safetensors files and checks every byte of their headers.
#include "compiler/import/Safetensors.h"
#include "compiler/import/Json.h"
#include "compiler/import/Messages.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/Endian.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/Path.h"

#include <algorithm>
#include <map>
#include <set>

using namespace moe;
namespace fs = llvm::sys::fs;

// The limit of the safetensors library: no real header comes near it.
static constexpr uint64_t kMaxHeader = 100'000'000;

// Bits of an element; 0: no such type.
static unsigned bitsOf(llvm::StringRef dtype) {
  return llvm::StringSwitch<unsigned>(dtype)
      .Cases({"C64", "F64", "I64", "U64"}, 64)
      .Cases({"F32", "I32", "U32"}, 32)
      .Cases({"F16", "BF16", "I16", "U16"}, 16)
      .Cases({"BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"}, 8)
      .Cases({"F8_E4M3FNUZ", "F8_E5M2FNUZ"}, 8)
      .Cases({"F6_E2M3", "F6_E3M2"}, 6)
      .Case("F4", 4)
      .Default(0);
}

static std::optional<Storage> dtypeOf(llvm::StringRef name) {
  return llvm::StringSwitch<std::optional<Storage>>(name)
      .Case("F32", Storage::F32)
      .Case("F16", Storage::F16)
      .Case("BF16", Storage::BF16)
      .Default(std::nullopt);
}

namespace {

// One entry of a header; begin and end count from the start of the data.
struct Entry {
  TensorInfo tensor;
  uint64_t begin, end;
};

} // namespace

static llvm::Expected<Entry> parseEntry(llvm::StringRef file, llvm::StringRef name,
                                        const llvm::json::Value &value) {
  auto error = [&](const llvm::Twine &text) {
    return llvm::createStringError(file + ": tensor " + name + " " + text);
  };
  const llvm::json::Object *fields = value.getAsObject();
  if (!fields)
    return error("is not described by an object {dtype, shape, data_offsets}");

  Entry entry;
  entry.tensor.name = name.str();
  entry.tensor.file = file.str();
  std::optional<llvm::StringRef> dtype = fields->getString("dtype");
  if (!dtype)
    return error("has no dtype");
  unsigned bits = bitsOf(*dtype);
  if (!bits)
    return error("has the unknown dtype " + *dtype + ", expected F32, F16 or BF16");
  entry.tensor.dtype = dtypeOf(*dtype);
  entry.tensor.dtypeName = dtype->str();

  // Each product may overflow: of the dimensions, and with the bits of an element.
  const llvm::json::Array *shape = fields->getArray("shape");
  if (!shape)
    return error("has no shape");
  uint64_t elements = 1;
  bool overflow = false;
  for (const llvm::json::Value &dim : *shape) {
    std::optional<uint64_t> size = dim.getAsUINT64();
    if (!size || *size > uint64_t(std::numeric_limits<int64_t>::max()))
      return error("has a shape that is not a list of sizes");
    entry.tensor.shape.push_back(int64_t(*size));
    bool here = false;
    elements = llvm::SaturatingMultiply(elements, *size, &here);
    overflow |= here;
  }
  bool here = false;
  uint64_t totalBits = llvm::SaturatingMultiply<uint64_t>(elements, bits, &here);
  if (overflow || here)
    return error("of shape " + shapeText(entry.tensor.shape) + " is larger than any file");
  if (totalBits % 8)
    return error("of shape " + shapeText(entry.tensor.shape) + " and type " + *dtype +
                 " does not end at a byte");

  const llvm::json::Array *offsets = fields->getArray("data_offsets");
  std::optional<uint64_t> begin, end;
  if (offsets && offsets->size() == 2) {
    begin = (*offsets)[0].getAsUINT64();
    end = (*offsets)[1].getAsUINT64();
  }
  if (!begin || !end)
    return error("has no data_offsets [begin, end]");
  if (*begin > *end)
    return error("ends at byte " + llvm::Twine(*end) + ", before it begins at " +
                 llvm::Twine(*begin));
  if (*end - *begin != totalBits / 8)
    return error("has " + llvm::Twine(*end - *begin) + " bytes, but " + *dtype + " " +
                 shapeText(entry.tensor.shape) + " needs " + llvm::Twine(totalBits / 8));
  entry.begin = *begin;
  entry.end = *end;
  return entry;
}

// The entries of a header in the order of their bytes, which they cover without overlap or hole.
static llvm::Expected<std::vector<Entry>> parseHeader(llvm::StringRef file, llvm::StringRef json,
                                                      uint64_t dataBytes) {
  llvm::Expected<llvm::json::Value> header = parseJson(json, "the header of " + file);
  if (!header)
    return header.takeError();
  const llvm::json::Object *object = header->getAsObject();
  if (!object)
    return llvm::createStringError("the header of " + file + " is not an object of tensors");

  std::vector<Entry> entries;
  for (const auto &[key, value] : *object) {
    llvm::StringRef name = key;
    if (name == "__metadata__") {
      const llvm::json::Object *strings = value.getAsObject();
      if (!strings || !llvm::all_of(*strings, [](const auto &e) {
            return e.second.kind() == llvm::json::Value::String;
          }))
        return llvm::createStringError(file + ": __metadata__ is not an object of strings");
      continue;
    }
    llvm::Expected<Entry> entry = parseEntry(file, name, value);
    if (!entry)
      return entry.takeError();
    entries.push_back(std::move(*entry));
  }

  llvm::sort(entries, [](const Entry &a, const Entry &b) {
    return std::tie(a.begin, a.end, a.tensor.name) < std::tie(b.begin, b.end, b.tensor.name);
  });
  uint64_t at = 0;
  llvm::StringRef before;
  for (const Entry &entry : entries) {
    llvm::StringRef name = entry.tensor.name;
    if (entry.begin < at)
      return llvm::createStringError(file + ": tensors " + before + " and " + name +
                                     " overlap at byte " + llvm::Twine(entry.begin));
    if (entry.begin > at)
      return llvm::createStringError(file + ": no tensor covers the bytes " + llvm::Twine(at) +
                                     " to " + llvm::Twine(entry.begin) + ", before tensor " + name);
    if (entry.end > dataBytes)
      return llvm::createStringError(file + " is truncated: tensor " + name + " ends at byte " +
                                     llvm::Twine(entry.end) + " of the data, of which there are " +
                                     llvm::Twine(dataBytes) + "; fetch the file again");
    at = entry.end;
    before = name;
  }
  if (at != dataBytes)
    return llvm::createStringError(file + " has " + llvm::Twine(dataBytes - at) +
                                   " bytes after its last tensor");
  return entries;
}

llvm::Error Checkpoint::addFile(llvm::StringRef path) {
  auto error = [&](const llvm::Twine &text) { return llvm::createStringError(path + " " + text); };
  llvm::Expected<fs::file_t> file = fs::openNativeFileForRead(path);
  if (!file)
    return llvm::createStringError("cannot read " + path + ": " + llvm::toString(file.takeError()));
  fs::file_status status;
  std::error_code failed = fs::status(*file, status);
  uint64_t size = status.getSize();
  bool isFile = status.type() == fs::file_type::regular_file;
  fs::mapped_file_region map;
  if (!failed && isFile && size >= 8)
    map = fs::mapped_file_region(*file, fs::mapped_file_region::readonly, size, 0, failed);
  (void)fs::closeFile(*file); // it was only read
  if (failed)
    return llvm::createStringError("cannot read " + path + ": " + failed.message());
  if (!isFile)
    return error("is not a file");
  if (size < 8)
    return error("is not a safetensors file: it has " + llvm::Twine(size) +
                 " bytes, expected at least 8");

  llvm::StringRef bytes(map.const_data(), size);
  if (bytes.starts_with("version https://git-lfs"))
    return error("is a Git LFS pointer, not the file itself; run `git lfs pull` beside it");
  uint64_t length = llvm::support::endian::read64le(bytes.data());
  if (length > kMaxHeader)
    return error("is not a safetensors file: its header would have " + llvm::Twine(length) +
                 " bytes, more than the " + llvm::Twine(kMaxHeader) + " that are allowed");
  if (length > size - 8)
    return error("is truncated: its header has " + llvm::Twine(length) + " bytes, the file " +
                 llvm::Twine(size));

  auto entries = parseHeader(path, bytes.substr(8, length), size - 8 - length);
  if (!entries)
    return entries.takeError();
  for (Entry &entry : *entries) {
    std::string name = entry.tensor.name;
    if (!add(std::move(entry.tensor)))
      return llvm::createStringError("tensor " + name + " is in two files: " + find(name)->file +
                                     " and " + path);
    places.push_back({maps.size(), 8 + length + entry.begin});
  }
  paths.push_back(path.str());
  maps.push_back(std::move(map));
  return llvm::Error::success();
}

llvm::Error Checkpoint::addIndex(llvm::StringRef path) {
  llvm::Expected<llvm::json::Value> index = readJson(path);
  if (!index)
    return index.takeError();
  const llvm::json::Object *top = index->getAsObject();
  const llvm::json::Object *weights = top ? top->getObject("weight_map") : nullptr;
  if (!weights)
    return llvm::createStringError(path + " has no weight_map {tensor: file}");

  // An index names files beside itself; a name that leads elsewhere is a trick or a mistake.
  std::map<std::string, std::set<std::string>> shards;
  for (const auto &[key, value] : *weights) {
    std::optional<llvm::StringRef> shard = value.getAsString();
    llvm::StringRef name = key;
    if (!shard || shard->empty() || llvm::sys::path::filename(*shard) != *shard || *shard == "." ||
        *shard == ".." || shard->contains('\0'))
      return llvm::createStringError(path + ": tensor " + name +
                                     " is not mapped to the name of a file in the same folder");
    shards[shard->str()].insert(name.str());
  }

  llvm::SmallString<128> folder = llvm::sys::path::parent_path(path);
  std::vector<std::string> missing;
  for (const auto &[shard, names] : shards) {
    llvm::SmallString<128> file = folder;
    llvm::sys::path::append(file, shard);
    if (!fs::exists(file))
      missing.push_back(shard);
  }
  if (!missing.empty())
    return llvm::createStringError(path + " names files that are missing (" +
                                   llvm::Twine(missing.size()) + " of " +
                                   llvm::Twine(shards.size()) + "): " + firstTen(missing) +
                                   "; fetch the rest of the checkpoint");

  for (const auto &[shard, names] : shards) {
    llvm::SmallString<128> file = folder;
    llvm::sys::path::append(file, shard);
    size_t before = infos.size();
    if (llvm::Error error = addFile(file))
      return error;
    std::vector<std::string> absent, unlisted;
    for (const TensorInfo &tensor : llvm::drop_begin(infos, before))
      if (!names.count(tensor.name))
        unlisted.push_back(tensor.name);
    for (const std::string &name : names)
      if (const TensorInfo *tensor = find(name); !tensor || tensor->file != file)
        absent.push_back(name);
    if (!absent.empty())
      return llvm::createStringError(path + " maps tensors to " + shard + " that the file lacks (" +
                                     llvm::Twine(absent.size()) + "): " + firstTen(absent));
    if (!unlisted.empty())
      return llvm::createStringError(file + " holds tensors that " +
                                     llvm::sys::path::filename(path) + " does not map to it (" +
                                     llvm::Twine(unlisted.size()) + "): " + firstTen(unlisted));
  }
  return llvm::Error::success();
}

llvm::Expected<Checkpoint> Checkpoint::open(llvm::StringRef path) {
  Checkpoint checkpoint;
  llvm::SmallString<128> file = path;
  if (fs::is_directory(path)) {
    llvm::sys::path::append(file, "model.safetensors");
    if (!fs::exists(file))
      file += ".index.json";
    if (!fs::exists(file))
      return llvm::createStringError(
          path + " has neither model.safetensors nor model.safetensors.index.json; other formats "
                 "must be converted to safetensors first");
  } else if (!fs::exists(path)) {
    return llvm::createStringError("there is no file or folder " + path);
  }

  bool isIndex = llvm::sys::path::extension(file) == ".json";
  if (llvm::Error error = isIndex ? checkpoint.addIndex(file) : checkpoint.addFile(file))
    return error;
  return checkpoint;
}

const std::byte *Checkpoint::data(const TensorInfo &tensor) const {
  const Place &place = places[size_t(&tensor - infos.data())];
  return reinterpret_cast<const std::byte *>(maps[place.map].const_data()) + place.begin;
}

Status Checkpoint::readElements(const TensorInfo &tensor, uint64_t begin,
                                std::span<float> out) const {
  toFloat(*tensor.dtype, data(tensor) + begin * bytesOf(*tensor.dtype), out.size(), out.data());
  return ok();
}
