// gpu-check: is this GPU right, and how near to its limits do the kernels come?
//
//   gpu-check [--json FILE]     tests, limits, the time of each kernel, tokens/s of Scout's shape
//   gpu-check --simulate        the same path on the simulator, with small shapes and no figures
//
// Needs the build it belongs to: tests and programs are found beside it.
#include "compiler/targets/cuda/CudaTarget.h"
#include "runtime/device/ptxsim/Driver.h"
#include "tools/gpu-check/Cases.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/raw_ostream.h"
#include <CLI/CLI.hpp>
#include <cstdlib>

using namespace llvm;
using namespace moe::gpucheck;

namespace {

struct Options {
  int device = 0;
  bool simulate = false;
  int repetitions = 200;
  int64_t layers = 4;
  std::string json, programs, checkpoints;
};

// "scout" of the published configuration; "small" for the simulator.
const Shapes kScout{"scout", 5120, 40, 8, 128, 8192, 16, 202048};
const Shapes kSmall{"small", 256, 5, 1, 64, 128, 4, 512};

class GpuCheck {
public:
  explicit GpuCheck(const Options &options) : options(options) {}
  llvm::Error run();
  bool passed() const { return allPassed; }

private:
  llvm::Error openBench();
  void runTests();
  llvm::Error measure();
  llvm::Error timeModel(int64_t layers);
  llvm::Error writeJson();
  Expected<std::string> output(std::vector<std::string> command);

  std::string program(StringRef name) const { return options.programs + "/" + name.str(); }

  const Options &options;
  std::unique_ptr<Bench> bench;
  json::Object report;
  Limits limits;
  bool allPassed = true;
};

llvm::Error GpuCheck::openBench() {
  const moe::cuda::DriverApi *api = nullptr;
  if (options.simulate) {
    api = &moe::ptxsim::simulatedDriver();
  } else {
    auto loaded = moe::cuda::loadDriver();
    if (!loaded)
      return createStringError(loaded.error().message);
    api = *loaded;
  }
  auto opened = Bench::open(*api, options.device);
  if (!opened)
    return opened.takeError();
  bench = std::move(*opened);
  const moe::cuda::Gpu &gpu = bench->gpu();
  outs() << gpu.label << ", compute capability " << gpu.major << "." << gpu.minor << ", "
         << gpu.multiprocessors << " multiprocessors, driver for CUDA "
         << moe::cuda::versionText(gpu.driverVersion) << ", kernels for " << bench->target().chip
         << "\n\n";
  report["device"] = gpu.model;
  report["compute_capability"] = std::to_string(gpu.major) + "." + std::to_string(gpu.minor);
  report["multiprocessors"] = gpu.multiprocessors;
  report["driver_cuda_version"] = moe::cuda::versionText(gpu.driverVersion);
  report["target"] = bench->target().chip;
  return llvm::Error::success();
}

// Each kernel against plain loops, and cria against its stored results, on this very device.
void GpuCheck::runTests() {
  json::Object results;
  setenv("MOE_TEST_GPU", options.simulate ? "ptxsim" : "cuda", 1);
  for (auto [test, filter] : {std::pair{"MoeCudaTest", "*"}, {"CriaTest", "*Gpu*"}}) {
    std::string path = options.programs + "/../unittests/" + test, message;
    StringRef result = "passed";
    if (!sys::fs::can_execute(path))
      result = "not built";
    else if (sys::ExecuteAndWait(path,
                                 {path, std::string("--gtest_filter=") + filter, "--gtest_brief=1"},
                                 std::nullopt, {}, 0, 0, &message) != 0)
      result = "FAILED";
    outs() << test << ": " << result << "\n";
    results[test] = result;
    allPassed &= result == "passed";
  }
  report["tests"] = std::move(results);
  outs() << "\n";
}

llvm::Error GpuCheck::measure() {
  auto measured = measureLimits(*bench, options.simulate);
  if (!measured)
    return measured.takeError();
  limits = *measured;
  if (!options.simulate) {
    outs() << format("memory: %.0f GB/s copied, %.0f GB/s read; mma.sync bf16: %.0f TFLOP/s\n\n",
                     limits.copyBytesPerSecond / 1e9, limits.readBytesPerSecond / 1e9,
                     limits.tensorFlops / 1e12);
    report["copy_gb_per_second"] = limits.copyBytesPerSecond / 1e9;
    report["read_gb_per_second"] = limits.readBytesPerSecond / 1e9;
    report["mma_tflops"] = limits.tensorFlops / 1e12;
  }

  struct Step {
    int64_t tokens, context;
  };
  std::vector<Step> steps = {{1, 1024}, {1, 8191}, {8, 1024}, {64, 1024}, {512, 0}, {2048, 0}};
  if (options.simulate)
    steps = {{1, 70}, {3, 70}, {17, 0}};
  const Shapes &shapes = options.simulate ? kSmall : kScout;
  int repetitions = options.simulate ? 1 : options.repetitions;
  outs() << shapes.name << ", bf16, median of " << repetitions << " launches\n"
         << "tokens context kernel            us      min      max    GB/s  of read  TFLOP/s  of "
            "mma  regs  blocks\n";
  json::Array table;
  for (auto [tokens, context] : steps) {
    std::vector<Row> rows;
    if (llvm::Error error = timeKernels(*bench, shapes, tokens, context, repetitions, rows))
      return error;
    for (const Row &row : rows) {
      outs() << format("%6d %7d %-15s", int(row.tokens), int(row.context), row.kernel.c_str());
      if (options.simulate) { // its clock says nothing
        outs() << " ran\n";
        continue;
      }
      outs() << format(" %8.1f %8.1f %8.1f %7.0f    %4.0f %% %8.1f   %4.0f %% %5d %7d\n",
                       row.time.median, row.time.least, row.time.most, row.bytesPerSecond() / 1e9,
                       100 * row.bytesPerSecond() / limits.readBytesPerSecond,
                       row.flopsPerSecond() / 1e12, 100 * row.flopsPerSecond() / limits.tensorFlops,
                       row.registers, int(row.blocks));
      table.push_back(json::Object{
          {"kernel", row.kernel},
          {"tokens", row.tokens},
          {"context", row.context},
          {"microseconds", row.time.median},
          {"microseconds_min", row.time.least},
          {"microseconds_max", row.time.most},
          {"bytes", row.bytes},
          {"flops", row.flops},
          {"fraction_of_read_bandwidth", row.bytesPerSecond() / limits.readBytesPerSecond},
          {"fraction_of_mma_peak", row.flopsPerSecond() / limits.tensorFlops},
          {"registers", row.registers},
          {"shared_bytes", row.sharedBytes},
          {"blocks", row.blocks}});
    }
  }
  outs() << "\n";
  report["kernels"] = std::move(table);
  return llvm::Error::success();
}

Expected<std::string> GpuCheck::output(std::vector<std::string> command) {
  SmallString<128> file;
  if (sys::fs::createTemporaryFile("gpu-check", "out", file))
    return createStringError("cannot make a temporary file; set TMPDIR to a writable folder");
  FileRemover remove(file);
  std::vector<StringRef> arguments(command.begin(), command.end());
  std::string message;
  if (sys::ExecuteAndWait(command[0], arguments, std::nullopt,
                          {std::nullopt, StringRef(file), std::nullopt}, 0, 0, &message) != 0)
    return createStringError("'" + command[0] + " " + command[1] + "' failed " + message);
  auto buffer = MemoryBuffer::getFile(file);
  if (!buffer)
    return createStringError("cannot read back what " + command[0] + " printed");
  return (*buffer)->getBuffer().str();
}

// A plan of Scout's shape with some of its layers; the rest is the same again, so the time of a
// whole model follows from two plans.
llvm::Error GpuCheck::timeModel(int64_t layers) {
  std::string config = options.checkpoints + "/scout/config.json";
  std::string target = bench->target().name;
  double seconds[2];
  int64_t counts[2] = {layers / 2, layers};
  json::Object model;
  for (int i = 0; i < 2; ++i) {
    SmallString<128> plan;
    if (sys::fs::createTemporaryFile("gpu-check", "plan", plan))
      return createStringError("cannot make a temporary file; set TMPDIR to a writable folder");
    FileRemover remove(plan);
    std::string count = std::to_string(counts[i]);
    auto compiled = output({program("moec"), "compile", config, "--random-weights", "1", "--layers",
                            count, "--target", target, "--no-tokenizer", "-o", plan.str().str()});
    if (!compiled)
      return compiled.takeError();
    auto text = output({program("moe-run"), "bench", plan.str().str(), "--device",
                        options.simulate ? "ptxsim" : "cuda", "--json", "--prompt", "512",
                        "--generate", "64", "--depth", "1024", "--repeat", "5"});
    if (!text)
      return text.takeError();
    auto parsed = json::parse(*text);
    if (!parsed)
      return parsed.takeError();
    auto median = [&](StringRef key) {
      const json::Object *spread = parsed->getAsObject()->getObject(key);
      return spread ? spread->getNumber("median").value_or(0) : 0;
    };
    double rate = median("decode_tokens_per_second");
    seconds[i] = 1 / rate;
    outs() << count << " of 48 layers, random bf16 weights, measured: decode "
           << format("%.1f tokens/s after 1024 tokens, prefill of 512 %.0f tokens/s\n", rate,
                     median("prefill_tokens_per_second"));
    model["measured_" + count + "_layers"] = std::move(*parsed);
  }
  double perLayer = (seconds[1] - seconds[0]) / double(counts[1] - counts[0]);
  double whole = seconds[1] + perLayer * double(48 - counts[1]);
  outs() << format("48 layers, scaled from those two, not measured: decode %.1f tokens/s\n",
                   1 / whole);
  model["scaled_48_layers_decode_tokens_per_second"] = 1 / whole;
  report["scout"] = std::move(model);
  return llvm::Error::success();
}

llvm::Error GpuCheck::writeJson() {
  if (options.json.empty())
    return llvm::Error::success();
  std::error_code code;
  raw_fd_ostream stream(options.json, code);
  if (!code)
    stream << formatv("{0:2}\n", json::Value(json::Object(report)));
  stream.close();
  if (code || stream.has_error())
    return createStringError("cannot write '" + options.json + "': " + code.message());
  return llvm::Error::success();
}

llvm::Error GpuCheck::run() {
  if (llvm::Error error = openBench())
    return error;
  runTests();
  if (llvm::Error error = measure())
    return error;
  if (!options.simulate)
    if (llvm::Error error = timeModel(options.layers))
      return error;
  return writeJson();
}

} // namespace

int main(int argc, char **argv) {
  Options options;
  SmallString<256> self(sys::fs::getMainExecutable(argv[0], reinterpret_cast<void *>(&main)));
  options.programs = sys::path::parent_path(self).str();
  options.checkpoints = MOE_SOURCE_DIR "/models/configs";
  CLI::App app{"Checks and measures the kernels on this machine's GPU"};
  app.add_option("--device", options.device, "which GPU, from 0");
  app.add_flag("--simulate", options.simulate, "run on the simulator: small shapes, no figures");
  app.add_option("--json", options.json, "write the results to this file");
  app.add_option("--repetitions", options.repetitions, "timed launches of each kernel")
      ->check(CLI::Range(1, 100000));
  app.add_option("--layers", options.layers, "of the model that is timed; half of them too")
      ->check(CLI::Range(2, 48));
  CLI11_PARSE(app, argc, argv);
  GpuCheck check(options);
  if (llvm::Error error = check.run()) {
    errs() << "gpu-check: error: " << toString(std::move(error)) << "\n";
    return 1;
  }
  return check.passed() ? 0 : 1;
}
