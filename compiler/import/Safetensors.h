// A checkpoint in safetensors files: one file, or shards with an index. Files are mapped, not read,
// and may come from anywhere: everything is checked before the first element is used.
//
//   file := u64 length | JSON of `length` bytes, {name: {dtype, shape, data_offsets}} | data
#ifndef MOE_COMPILER_IMPORT_SAFETENSORS_H
#define MOE_COMPILER_IMPORT_SAFETENSORS_H

#include "runtime/weights/TensorSource.h"

#include "llvm/Support/FileSystem.h"

namespace moe {

class Checkpoint final : public TensorSource {
public:
  // `path` is a folder with model.safetensors or model.safetensors.index.json, a .safetensors file,
  // or an index. The files must stay as they are while the checkpoint lives.
  static llvm::Expected<Checkpoint> open(llvm::StringRef path);

  const std::byte *data(const TensorInfo &tensor) const override;

  // The files of the checkpoint, in the order of their names.
  llvm::ArrayRef<std::string> files() const { return paths; }

private:
  // Where the elements of infos[i] are: bytes begin .. of maps[map].
  struct Place {
    size_t map;
    uint64_t begin;
  };

  Status readElements(const TensorInfo &tensor, uint64_t begin,
                      std::span<float> out) const override;
  llvm::Error addFile(llvm::StringRef path);
  llvm::Error addIndex(llvm::StringRef path);

  std::vector<std::string> paths;
  std::vector<llvm::sys::fs::mapped_file_region> maps; // as paths
  std::vector<Place> places;                           // as infos
};

} // namespace moe

#endif
