// gpu-bundle: makes what gpu-check runs on a machine with a GPU and nothing else.
//
//   gpu-bundle FOLDER [--target sm_90a]   kernels, cases with what they should make, and a plan
#include "compiler/targets/cuda/ToPtx.h"
#include "tools/gpu-check/Bundle.h"
#include "tools/gpu-check/BundleWriter.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/raw_ostream.h"

#include <CLI/CLI.hpp>

using namespace llvm;
using namespace moe;
using namespace moe::gpucheck;

namespace {

struct Options {
  std::string folder, target = "sm_90a", checkpoint = MOE_SOURCE_DIR "/models/cria";
  bool small = false, assemble = true;
};

// Of the published configuration; and small ones, which the simulator runs too.
const Shapes kScout{"scout", 5120, 40, 8, 128, 8192, 16, 202048};
const Shapes kSmall{"small", 256, 5, 1, 64, 128, 4, 512};
const Shapes kSmallCodes{"small int4", 256, 5, 1, 64, 128, 4, 512, {Storage::I4, 64, Storage::F16}};

// The begin of a held-out text, as ids of cria.
const std::vector<int32_t> kPrompt = {4032, 830, 434,  1010, 842, 297, 383, 368, 1585, 287,
                                      753,  11,  1010, 388,  320, 324, 598, 11,  2119, 460};

llvm::Error write(const std::string &path, ArrayRef<uint8_t> bytes) {
  std::error_code code;
  raw_fd_ostream stream(path, code);
  if (!code)
    stream.write(reinterpret_cast<const char *>(bytes.data()), bytes.size());
  stream.close();
  if (!code)
    code = stream.error();
  stream.clear_error();
  return code ? createStringError("cannot write '" + path + "': " + code.message())
              : llvm::Error::success();
}

llvm::Error make(const Options &options) {
  auto target = codegen::cudaTarget(options.target);
  if (!target)
    return target.takeError();
  std::optional<std::string> ptxas;
  if (options.assemble) {
    auto found = codegen::findPtxas();
    if (!found)
      return found.takeError();
    ptxas = *found;
  }
  if (auto code = sys::fs::create_directories(options.folder))
    return createStringError("cannot make the folder '" + options.folder + "': " + code.message());
  BundleWriter writer(*target, ptxas);
  if (auto error = addProbes(writer))
    return error;
  struct Step {
    const Shapes *shapes;
    int64_t tokens, context;
    bool timed = false;
  };
  std::vector<Step> steps = {{&kSmall, 3, 70}, {&kSmall, 17, 0}, {&kSmallCodes, 3, 70}};
  if (!options.small)
    steps.insert(steps.end(), {{&kSmallCodes, 17, 0},
                               {&kSmallCodes, 90, 0},
                               {&kScout, 1, 1024, true},
                               {&kScout, 1, 8191, true},
                               {&kScout, 8, 1024, true},
                               {&kScout, 64, 1024, true},
                               {&kScout, 512, 0, true},
                               {&kScout, 2048, 0, true}});
  for (const Step &step : steps)
    if (auto error = addCases(writer, *step.shapes, step.tokens, step.context, step.timed))
      return error;
  const std::string plan = options.folder + "/" + kPlanFile;
  if (auto error = addText(writer, options.checkpoint, plan, kPrompt, 16))
    return error;
  const std::vector<uint8_t> kernels = writer.finish();
  uint64_t planBytes = 0;
  if (auto code = sys::fs::file_size(plan, planBytes))
    return createStringError("cannot read '" + plan + "': " + code.message());
  if (kernels.size() + planBytes > kMostBundleBytes)
    return createStringError("the bundle would take " + std::to_string(kernels.size() + planBytes) +
                             " bytes, and has at most 12 MiB: leave out the cubins by --no-ptxas");
  if (auto error = write(options.folder + "/" + kKernelsFile, kernels))
    return error;
  outs() << "wrote " << options.folder << ": " << kernels.size() << " bytes of kernels and cases, "
         << planBytes << " of a plan\n";
  return llvm::Error::success();
}

} // namespace

int main(int argc, char **argv) {
  Options options;
  CLI::App app{"Makes the bundle that gpu-check runs on a machine with a GPU"};
  app.add_option("folder", options.folder, "where the bundle goes")->required();
  app.add_option("--target", options.target, "the GPU: sm_80, sm_90a or sm_100a");
  app.add_option("--checkpoint", options.checkpoint, "cria, if not the one of the source tree");
  app.add_flag("--small", options.small, "few cases, for the simulator");
  app.add_flag("!--no-ptxas", options.assemble, "no cubins: the driver compiles the PTX");
  CLI11_PARSE(app, argc, argv);
  if (llvm::Error error = make(options)) {
    errs() << "gpu-bundle: error: " << toString(std::move(error)) << "\n";
    return 1;
  }
  return 0;
}
