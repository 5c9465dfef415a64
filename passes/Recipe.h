// Which format the plan stores each weight in: a text that a person writes.
//
//   recipe   = format ["," format] {"," what "=" format}
//   format   = "keep" | "f32" | "bf16" | code {"-" detail}
//   code     = "int4" | "int8" | "fp8"
//   detail   = "gN", groups of N columns | "row", whole rows
//            | "f16" | "bf16" | "f32", the type of the scales
//   what     = a kind of weight | a weight's name, where * and ? stand for other characters
//
//   int4                         int4-g128-f16, and int8-g128-f16 for the embedding and the head
//   int4-g32,head=bf16           smaller groups, and the head as it is
//   keep,int8,layers.0.*=bf16    what the checkpoint has as codes stays so, the rest is int8, ...
//   int4,vision=int8             the vision tower in int8, which is bf16 by default
//
// The first format is of all weights. `keep` is the format that the checkpoint encodes a weight in;
// weights that it has as elements take the second one, bf16 unless told. The last of the overrides
// that fit a weight counts. Norms and routers are f32 whatever the recipe says: they are small, and
// their rounding would move whole tokens.
//
// Left out, the details of int4 and int8 are g128-f16, those of fp8 row-f32. With a base of int4 or
// fp8 the embedding and the head are int8, of int4's groups: their errors reach every logit. The
// matrices of the vision tower are bf16 beside a base of codes, and so is under `vision=int8` each
// whose columns groups do not divide, such as that of the patches.
#ifndef MOE_PASSES_RECIPE_H
#define MOE_PASSES_RECIPE_H

#include "dialects/moe/WeightUse.h"
#include "runtime/weights/Format.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/GlobPattern.h"

#include <optional>
#include <string>
#include <vector>

namespace moe {

llvm::StringRef nameOf(WeightKind kind);

class Recipe {
public:
  // Errors say what there is to choose from.
  static llvm::Expected<Recipe> parse(llvm::StringRef text);

  // The format of a weight that the checkpoint has in `encoding`, if in any; `cols` are its inputs.
  // Fails where groups do not divide them. Not for norms and routers.
  llvm::Expected<WeightFormat> choose(WeightKind kind, llvm::StringRef name, int64_t cols,
                                      const std::optional<WeightFormat> &encoding) const;

  // The first override by name that fits none of the names.
  std::optional<std::string> unmatched(llvm::ArrayRef<std::string> names) const;

  // The first format as it was written: "int4-g32".
  llvm::StringRef base() const { return baseText; }

private:
  struct Format {
    bool keep = false;
    WeightFormat format; // of whole rows: a group of -1
  };
  struct Override {
    std::string what;
    std::optional<WeightKind> kind; // or
    std::optional<llvm::GlobPattern> names;
    Format format;
  };
  static llvm::Expected<Format> parseFormat(llvm::StringRef text);

  std::string baseText;
  Format first, second; // the second is of weights that `keep` has no format for
  std::vector<Override> overrides;
};

} // namespace moe

#endif
