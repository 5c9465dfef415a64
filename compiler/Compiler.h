// The whole compiler: a checkpoint in, a plan (or the IR of a level) out.
#ifndef MOE_COMPILER_COMPILER_H
#define MOE_COMPILER_COMPILER_H

#include "llvm/Support/Error.h"
#include "llvm/Support/raw_ostream.h"
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace moe {

// What to print instead of writing a plan. Nothing of the weights is read. Of several devices each
// is printed as a module of its own from `Fused` on, but for `Plan`. `Ptx` is of GPUs alone, with
// each kernel by itself; `Asm` is all of a target's kernels, and of a GPU that is PTX too.
enum class Emit { Moe, Fused, Plan, Kernels, Llvm, Ptx, Asm, File };

struct CompileOptions {
  std::string input; // a checkpoint, or with `randomSeed` a config.json
  // Path of the plan. With Emit::Ptx: a folder for files <target>/<kernel>.ptx. Empty where `emit`
  // prints.
  std::string output;
  std::vector<std::string>
      targets;                  // "cpu:x86-64-v4", "cuda:sm_90a"; empty: all CPUs' of this version
  std::string weights = "keep"; // formats of the weights: see passes/Recipe.h
  // Of keys and values: on CPUs f32, bf16 or int8, on GPUs f16 or bf16. Empty: the first of these.
  // Rounding them to bf16 makes nearly tied experts change places more than all other rounding
  // does.
  std::string cache;
  std::string ptxas;                  // the assembler of PTX; empty: the one that is found, if any
  bool assemblePtx = true;            // false: GPUs get PTX alone
  std::optional<uint64_t> randomSeed; // synthetic weights
  std::optional<int64_t> layers;      // only the first ones
  std::vector<std::string> lora;      // folders of PEFT adapters to merge, one after the other
  // A text that the codes of int4 and int8 weights are chosen by (calibrate/Calibrate.h); empty:
  // none. At most so many tokens of it are used.
  std::string calibrate;
  int64_t calibrationTokens = 16384;
  bool tokenizer = true; // false: the plan takes ids only
  // How conversations lay out tools: hf-json, pythonic or none. Empty: as the checkpoint's chat
  // template does, if it is one that is known.
  std::string tools;
  bool vision = true;          // false: the plan sees no pictures, though the model could
  bool embeddings = false;     // step programs give hidden states too
  int64_t maxStep = 512;       // tokens of the largest step program
  bool allowNonFinite = false; // weights may be NaN or infinite
  unsigned jobs = 0;           // threads that calibrate and pack weights; 0: all
  Emit emit = Emit::File;
  std::vector<std::string> printAfter; // passes, by their names on the command line
};

// What packing the weights took.
struct CompileFigures {
  uint64_t weightBytes = 0; // of the checkpoint, as it stores them, that were read; once a device
  unsigned threads = 0;
  double seconds = 0;
  double busy = 0; // part of the threads' time in which they computed and did not wait
};

struct CompileEvents {
  std::function<void(const std::string &)> note;                  // warnings, ignored tensors
  std::function<void(uint64_t done, uint64_t total)> calibration; // matrices whose codes are chosen
  std::function<void(uint64_t done, uint64_t total)> progress;    // bytes written
  std::function<void(const CompileFigures &)> packed;             // when all are
  std::atomic<bool> *cancel = nullptr;
};

// Prints IR to `out`, or writes the plan to options.output. On an error nothing is at that path
// that was not there before.
llvm::Error compile(const CompileOptions &options, llvm::raw_ostream &out,
                    const CompileEvents &events);

} // namespace moe

#endif
