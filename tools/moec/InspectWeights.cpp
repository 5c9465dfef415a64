// How the weights of a plan are stored, and what they take.
#include "tools/Terminal.h"
#include "tools/moec/InspectParts.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/Format.h"

namespace moe {

// Of all weights, and of those that layers share a name for: how they are stored, and how many bits
// an element takes with its part of scales and padding.
void printWeights(llvm::raw_ostream &out, const fb::Plan &plan) {
  struct Sum {
    uint64_t tensors = 0, elements = 0, bytes = 0;
    void add(const fb::Tensor &tensor) {
      uint64_t count = 1;
      for (uint64_t dim : *tensor.shape())
        count *= dim;
      ++tensors;
      elements += count;
      bytes += tensor.bytes();
    }
    std::string text() const {
      std::string text;
      llvm::raw_string_ostream(text)
          << tensors << (tensors == 1 ? " tensor, " : " tensors, ") << bytesText(double(bytes))
          << llvm::format(", %.2f bits each", 8 * double(bytes) / double(elements));
      return text;
    }
  };
  // By name, storage and layout.
  llvm::MapVector<std::string, Sum, llvm::StringMap<unsigned>> kinds;
  llvm::MapVector<uint32_t, Sum> sections; // of a device each
  for (const fb::Tensor *tensor : *plan.tensors()) {
    llvm::SmallVector<llvm::StringRef> parts;
    std::string name;
    llvm::StringRef(tensor->name()->string_view()).split(parts, '.');
    for (llvm::StringRef part : parts) // layers.3.o becomes layers.*.o
      name += (name.empty() ? "" : ".") +
              (llvm::all_of(part, llvm::isDigit) ? std::string("*") : part.str());
    std::string kind;
    llvm::raw_string_ostream(kind)
        << llvm::left_justify(name, 30) << " "
        << llvm::left_justify(tensor->storage()->str() + " " + tensor->layout()->str(), 30);
    kinds[kind].add(*tensor);
    sections[tensor->section()].add(*tensor);
  }
  out << "\nweights\n";
  for (const auto &[kind, sum] : kinds)
    out << "  " << kind << " " << sum.text() << "\n";
  for (const auto &[section, sum] : sections)
    out << "  all of section " << plan.sections()->Get(section)->name()->str() << ": " << sum.text()
        << "\n";
}

void printTensors(llvm::raw_ostream &out, const fb::Plan &plan) {
  out << "\ntensors\n";
  for (const fb::Tensor *t : *plan.tensors()) {
    out << "  " << t->name()->str() << " ";
    llvm::ListSeparator x("x");
    for (uint64_t size : *t->shape())
      out << x << size;
    out << " " << t->layout()->str() << " " << t->storage()->str() << " at " << t->offset() << ", "
        << bytesText(t->bytes()) << "\n";
  }
}

} // namespace moe
