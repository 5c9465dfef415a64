// Recipes are read once and asked for every weight.
#include "passes/Recipe.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"

using namespace llvm;
using namespace moe;

namespace {

constexpr int64_t kWholeRows = -1;
constexpr WeightKind kKinds[] = {WeightKind::Embedding, WeightKind::Attention, WeightKind::Shared,
                                 WeightKind::Routed,    WeightKind::Dense,     WeightKind::Head,
                                 WeightKind::Vision};

std::string kindNames() {
  return join(map_range(kKinds, [](WeightKind kind) { return nameOf(kind).str(); }), ", ");
}

} // namespace

StringRef moe::nameOf(WeightKind kind) {
  switch (kind) {
  case WeightKind::Norm:
    return "norm";
  case WeightKind::Router:
    return "router";
  case WeightKind::Embedding:
    return "embedding";
  case WeightKind::Attention:
    return "attention";
  case WeightKind::Shared:
    return "shared";
  case WeightKind::Routed:
    return "routed";
  case WeightKind::Dense:
    return "dense";
  case WeightKind::Head:
    return "head";
  case WeightKind::Vision:
    return "vision";
  }
  llvm_unreachable("unknown kind");
}

Expected<Recipe::Format> Recipe::parseFormat(StringRef text) {
  const auto fail = [&](const Twine &why) {
    return createStringError(
        "'" + text + "' is no format of weights" + why +
        ": use keep, f32, bf16, int4, int8 or fp8, the last three with -gN for "
        "groups of N columns or -row for whole rows, and -f16, -bf16 or -f32 "
        "for the type of the scales, for example int4-g32");
  };
  SmallVector<StringRef> parts;
  text.split(parts, '-');
  Format format;
  if (text == "keep") {
    format.keep = true;
    return format;
  }
  const std::optional<Storage> element = storageNamed(parts[0]);
  if (!element || !infoOf(*element).weights || (!infoOf(*element).codes && parts.size() > 1))
    return fail("");
  format.format.element = *element;
  if (!infoOf(*element).codes)
    return format;
  if (infoOf(*element).integers)
    format.format = {*element, 128, Storage::F16};
  else
    format.format = {*element, kWholeRows, Storage::F32};
  for (StringRef detail : ArrayRef(parts).drop_front()) {
    int64_t group;
    const std::optional<Storage> scale = storageNamed(detail);
    if (detail == "row")
      format.format.group = kWholeRows;
    else if (scale && !infoOf(*scale).codes)
      format.format.scale = *scale;
    else if (detail == "z")
      return fail(", as zeros other than the middle come with a checkpoint, by keep");
    else if (detail.consume_front("g") && !detail.getAsInteger(10, group) && group > 0)
      format.format.group = group;
    else
      return fail("");
  }
  return format;
}

Expected<Recipe> Recipe::parse(StringRef text) {
  Recipe recipe;
  SmallVector<StringRef> items;
  text.split(items, ',');
  int bases = 0;
  for (StringRef item : items) {
    auto [what, value] = item.split('=');
    const bool isOverride = item.contains('=');
    Expected<Format> format = parseFormat(isOverride ? value : item);
    if (!format)
      return format.takeError();
    if (!isOverride) {
      if (bases == 0) {
        recipe.first = *format;
        recipe.baseText = item.str();
      } else if (bases == 1 && recipe.first.keep && !format->keep) {
        recipe.second = *format;
      } else {
        return createStringError("'" + text + "' has the formats '" + recipe.baseText + "' and '" +
                                 item +
                                 "' for all weights: use one, or keep and one for what the "
                                 "checkpoint has not as codes, or say which weights, as "
                                 "head=" +
                                 item);
      }
      ++bases;
      continue;
    }
    Override made{what.str(), std::nullopt, std::nullopt, *format};
    if (what == "norm" || what == "router")
      return createStringError("'" + item +
                               "': norms and routers are stored as f32 always; "
                               "formats are for " +
                               kindNames() + ", or names of weights");
    const auto *kind = find_if(kKinds, [&](WeightKind k) { return nameOf(k) == what; });
    if (kind != std::end(kKinds)) {
      made.kind = *kind;
    } else {
      Expected<GlobPattern> pattern = GlobPattern::create(what);
      if (!pattern)
        return createStringError("'" + what +
                                 "' is no pattern of names: " + toString(pattern.takeError()));
      made.names = std::move(*pattern);
    }
    recipe.overrides.push_back(std::move(made));
  }
  if (bases == 0)
    return createStringError("'" + text +
                             "' does not say the format of all other weights: begin "
                             "with it, as in bf16," +
                             text);
  return recipe;
}

Expected<WeightFormat> Recipe::choose(WeightKind kind, StringRef name, int64_t cols,
                                      const std::optional<WeightFormat> &encoding) const {
  // Of a base.
  const auto ofKind = [&](const Format &base) {
    WeightFormat format = base.format;
    if (kind == WeightKind::Vision && format.quantized())
      return WeightFormat{Storage::BF16};
    if (kind != WeightKind::Embedding && kind != WeightKind::Head)
      return format;
    if (format.element == Storage::I4)
      format.element = Storage::I8;
    else if (format.element == Storage::F8E4M3)
      format = {Storage::I8, 128, Storage::F16};
    return format;
  };
  WeightFormat format = ofKind(first.keep ? second : first);
  bool keep = first.keep;
  for (const Override &o : overrides)
    if (o.kind ? *o.kind == kind : o.names->match(name)) {
      keep = o.format.keep;
      format = keep ? ofKind(first.keep ? second : first) : o.format.format;
    }
  if (keep && encoding)
    return *encoding;
  if (format.group == kWholeRows)
    format.group = cols;
  if (format.quantized() && cols % format.group && kind == WeightKind::Vision)
    return WeightFormat{Storage::BF16};
  if (format.quantized() && cols % format.group) {
    int64_t fits = format.group;
    while (cols % fits)
      --fits;
    const std::string other =
        fits < 16 ? "bf16" : std::string(nameOf(format.element)) + "-g" + std::to_string(fits);
    return createStringError("weight '" + name + "' (" + nameOf(kind) + ") has rows of " +
                             Twine(cols) + " columns, which groups of " + Twine(format.group) +
                             " do not divide: choose another format, for example --weights " +
                             baseText + "," + name + "=" + other);
  }
  return format;
}

std::optional<std::string> Recipe::unmatched(ArrayRef<std::string> names) const {
  for (const Override &o : overrides)
    if (o.names && none_of(names, [&](const std::string &name) { return o.names->match(name); }))
      return o.what;
  return std::nullopt;
}
