// gpu-check: is this GPU right, and how near to its limits do the kernels come?
//
//   gpu-check BUNDLE [--json FILE]   checks, limits, the time of each kernel, what follows for
//   Scout gpu-check BUNDLE --simulate      the same path on the simulator: no figures, and small
//   shapes
//
// Needs the folder that gpu-bundle made, a driver and the C++ library, nothing else.
#include "runtime/device/ptxsim/Driver.h"
#include "tools/gpu-check/CheckText.h"
#include "tools/gpu-check/Limits.h"
#include "tools/gpu-check/Pattern.h"
#include "tools/moe-run/Output.h"

#include <CLI/CLI.hpp>
#include <cstdarg>
#include <cstdio>
#include <cstring>

using namespace moe;
using namespace moe::gpucheck;

namespace {

struct Options {
  std::string bundle, json;
  int device = 0;
  bool simulate = false;
  int repetitions = 200;
};

[[gnu::format(printf, 1, 2)]] std::string format(const char *form, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, form);
  std::vsnprintf(text, sizeof text, form, arguments);
  va_end(arguments);
  return text;
}

class GpuCheck {
public:
  GpuCheck(const Options &options, const Bundle &bundle)
      : options(options), bundle(bundle.root()) {}
  Status run();
  bool passed() const { return allPassed; }

private:
  Status openBench();
  Status runCases();
  Result<std::string> runCase(const fb::Case &of);
  Status runText();
  Status measure();
  Status time(const fb::Case &of);
  Status addUp();
  Status writeJson();

  struct Launched {
    Kernel kernel;
    std::vector<cuda::CUdeviceptr> operands; // and the StepInfo
  };
  Result<Launched> prepare(const fb::Case &of);
  bool wanted(const fb::Case &of) const { return !options.simulate || !of.timed(); }

  const Options &options;
  const fb::Bundle &bundle;
  std::unique_ptr<Bench> bench;
  JsonObject report;
  std::vector<JsonObject> table;
  Limits limits;
  double layerMicroseconds = 0, headMicroseconds = 0; // of a step of one token
  bool allPassed = true;
};

Status GpuCheck::openBench() {
  const cuda::DriverApi *api = &ptxsim::simulatedDriver();
  if (!options.simulate) {
    MOE_ASSIGN(loaded, cuda::loadDriver());
    api = loaded;
  }
  MOE_ASSIGN(opened, Bench::open(*api, options.device, bundle.target()->str()));
  bench = std::move(opened);
  const cuda::Gpu &gpu = bench->gpu();
  const std::string capability = std::to_string(gpu.major) + "." + std::to_string(gpu.minor);
  report.add("device", gpu.model);
  report.add("compute_capability", capability);
  report.add("multiprocessors", int64_t(gpu.multiprocessors));
  report.add("driver_cuda_version", cuda::versionText(gpu.driverVersion));
  report.add("target", bundle.target()->string_view());
  return print(gpu.label + ", compute capability " + capability + ", " +
               std::to_string(gpu.multiprocessors) + " multiprocessors, driver for CUDA " +
               cuda::versionText(gpu.driverVersion) + ", kernels for " + bundle.target()->str() +
               "\n\n");
}

Result<GpuCheck::Launched> GpuCheck::prepare(const fb::Case &of) {
  MOE_ASSIGN(kernel, bench->load(*bundle.kernels()->Get(of.kernel())));
  Launched launched;
  launched.kernel = std::move(kernel);
  for (const fb::Operand *operand : *of.operands()) {
    MOE_ASSIGN(address, bench->put(bundle, *operand));
    launched.operands.push_back(address);
  }
  MOE_ASSIGN(step, bench->put(cuda::StepInfo{int32_t(of.tokens()), int32_t(of.rows()),
                                             int32_t(of.table_stride()), 0}));
  launched.operands.push_back(step);
  return launched;
}

// What differs; empty if nothing does.
Result<std::string> GpuCheck::runCase(const fb::Case &of) {
  MOE_ASSIGN(launched, prepare(of));
  MOE_TRY(bench->run(launched.kernel, of.blocks(), launched.operands));
  std::string wrong;
  for (const fb::Check *check : *of.checks())
    for (uint32_t i = 0; i < check->at()->size() && wrong.empty(); ++i) {
      const uint64_t size = bytesOf(check->element());
      float sum = 0;
      for (uint64_t term = 0; term < check->terms(); ++term) {
        std::byte bytes[4];
        const uint64_t at = check->at()->Get(i) + term * check->stride();
        MOE_TRY(bench->copyOut(bytes, launched.operands[check->operand()] + at * size, size));
        sum += readElement(check->element(), bytes);
      }
      wrong = difference(*check, i, sum);
    }
  bench->drop();
  return wrong;
}

// Each kernel against plain loops.
Status GpuCheck::runCases() {
  int64_t right = 0, all = 0;
  for (const fb::Case *of : *bundle.cases()) {
    if (!wanted(*of))
      continue;
    ++all;
    MOE_ASSIGN(wrong, runCase(*of));
    if (wrong.empty())
      ++right;
    else
      MOE_TRY(print(of->name()->str() + " (" + of->shapes()->str() + ", " +
                    std::to_string(of->tokens()) + " tokens, " +
                    bundle.kernels()->Get(of->kernel())->name()->str() + "): " + wrong + "\n"));
  }
  allPassed &= right == all;
  report.add("cases", all);
  report.add("cases_right", right);
  return print("kernels: " + std::to_string(right) + " of " + std::to_string(all) +
               " cases right\n");
}

Status GpuCheck::runText() {
  const std::string device = options.simulate ? "ptxsim" : "cuda:" + std::to_string(options.device);
  MOE_ASSIGN(checked, checkText(options.bundle + "/" + kPlanFile, device, *bundle.text()));
  const bool right = checked.right();
  allPassed &= right;
  report.add("cria_tokens", checked.tokens);
  report.add("cria_tokens_right", checked.rightTokens);
  report.add("cria_divergence", checked.divergence);
  return print(format("cria: %lld of %lld tokens as on the CPU, mean divergence %.1e%s\n\n",
                      static_cast<long long>(checked.rightTokens),
                      static_cast<long long>(checked.tokens), checked.divergence,
                      right ? "" : ": WRONG"));
}

Status GpuCheck::time(const fb::Case &of) {
  MOE_ASSIGN(launched, prepare(of));
  MOE_ASSIGN(spent, bench->time(launched.kernel, of.blocks(), launched.operands,
                                options.simulate ? 1 : options.repetitions));
  bench->drop();
  const std::string name = of.name()->str();
  std::string line = format("%6u %7u %-15s", of.tokens(), of.context(), name.c_str());
  if (options.simulate) // its clock says nothing
    return print(line + " ran\n");
  const double bytes = of.bytes() / spent.median * 1e6, flops = of.flops() / spent.median * 1e6;
  line += format(" %8.1f %8.1f %8.1f %7.0f    %4.0f %% %8.1f   %4.0f %% %5d %7u\n", spent.median,
                 spent.least, spent.most, bytes / 1e9, 100 * bytes / limits.readBytesPerSecond,
                 flops / 1e12, 100 * flops / limits.tensorFlops, launched.kernel.registers,
                 of.blocks());
  JsonObject row;
  row.add("kernel", name);
  row.add("tokens", int64_t(of.tokens()));
  row.add("context", int64_t(of.context()));
  row.add("microseconds", spent.median);
  row.add("microseconds_min", spent.least);
  row.add("microseconds_max", spent.most);
  row.add("bytes", of.bytes());
  row.add("flops", of.flops());
  row.add("fraction_of_read_bandwidth", bytes / limits.readBytesPerSecond);
  row.add("fraction_of_mma_peak", flops / limits.tensorFlops);
  row.add("registers", int64_t(launched.kernel.registers));
  row.add("shared_bytes", int64_t(launched.kernel.sharedBytes));
  row.add("blocks", int64_t(of.blocks()));
  table.push_back(std::move(row));
  if (of.tokens() == 1 && of.context() == 1024) {
    if (name == "head")
      headMicroseconds += spent.median;
    else if (!name.starts_with("sample"))
      layerMicroseconds += spent.median;
  }
  return print(line);
}

Status GpuCheck::measure() {
  MOE_ASSIGN(measured, measureLimits(*bench, bundle, options.simulate));
  limits = measured;
  if (!options.simulate) {
    MOE_TRY(
        print(format("memory: %.0f GB/s copied, %.0f GB/s read; mma.sync bf16: %.0f TFLOP/s\n\n",
                     limits.copyBytesPerSecond / 1e9, limits.readBytesPerSecond / 1e9,
                     limits.tensorFlops / 1e12)));
    report.add("copy_gb_per_second", limits.copyBytesPerSecond / 1e9);
    report.add("read_gb_per_second", limits.readBytesPerSecond / 1e9);
    report.add("mma_tflops", limits.tensorFlops / 1e12);
  }
  std::string shapes;
  for (const fb::Case *of : *bundle.cases()) {
    if (of->timed() == options.simulate) // the simulator runs those that are too small to time
      continue;
    if (shapes != of->shapes()->str()) {
      shapes = of->shapes()->str();
      MOE_TRY(print(shapes + ", median of " +
                    std::to_string(options.simulate ? 1 : options.repetitions) +
                    " launches\ntokens context kernel            us      min      max    GB/s  of "
                    "read  TFLOP/s  of mma  regs  blocks\n"));
    }
    MOE_TRY(time(*of));
  }
  report.add("kernels", std::span<const JsonObject>(table));
  return print("\n");
}

// What the times of the kernels say of a whole model, without the time between them.
Status GpuCheck::addUp() {
  if (layerMicroseconds == 0)
    return ok();
  const double rate = 1e6 / (48 * layerMicroseconds + headMicroseconds);
  report.add("added_up_48_layers_decode_tokens_per_second", rate);
  return print(format("48 layers, the kernels' times added up, not measured: decode %.1f tokens/s "
                      "after 1024 tokens\n",
                      rate));
}

Status GpuCheck::writeJson() {
  if (options.json.empty())
    return ok();
  const std::string text = report.text() + "\n";
  FILE *file = std::fopen(options.json.c_str(), "wb");
  const bool written = file && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if ((file && std::fclose(file) != 0) || !written)
    return Error{Code::IoError, "cannot write '" + options.json + "': " + std::strerror(errno)};
  return ok();
}

Status GpuCheck::run() {
  MOE_TRY(openBench());
  MOE_TRY(runCases());
  MOE_TRY(runText());
  MOE_TRY(measure());
  MOE_TRY(addUp());
  return writeJson();
}

Result<bool> check(const Options &options) {
  MOE_ASSIGN(bundle, Bundle::open(options.bundle));
  GpuCheck gpu(options, bundle);
  MOE_TRY(gpu.run());
  return gpu.passed();
}

} // namespace

int main(int argc, char **argv) {
  Options options;
  CLI::App app{"Checks and measures the kernels of a bundle on this machine's GPU"};
  app.add_option("bundle", options.bundle, "the folder that gpu-bundle wrote")->required();
  app.add_option("--device", options.device, "which GPU, from 0");
  app.add_flag("--simulate", options.simulate, "run on the simulator: small shapes, no figures");
  app.add_option("--json", options.json, "write the results to this file");
  app.add_option("--repetitions", options.repetitions, "timed launches of each kernel")
      ->check(CLI::Range(1, 100000));
  CLI11_PARSE(app, argc, argv);
  auto passed = check(options);
  if (!passed) {
    std::fprintf(stderr, "gpu-check: error: %s\n", passed.error().message.c_str());
    return 1;
  }
  return *passed ? 0 : 1;
}
