// moec: compiles a Llama 4 checkpoint into a plan, prints every level on the way, and shows what is
// inside a plan.
#include "tools/moec/Commands.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"

#include <CLI/CLI.hpp>

using namespace moe;

namespace {

// The levels that can be printed, in their order.
constexpr std::pair<const char *, Emit> kLevels[] = {
    {"moe", Emit::Moe},   {"fused", Emit::Fused}, {"plan", Emit::Plan}, {"kernels", Emit::Kernels},
    {"llvm", Emit::Llvm}, {"ptx", Emit::Ptx},     {"asm", Emit::Asm},
};

// moec compile as it is typed.
struct CompileCommand {
  CompileOptions options;
  CLI::Option *random = nullptr, *someLayers = nullptr;
  uint64_t seed = 0;
  int64_t layers = 0;
  bool noTokenizer = false, noPtxas = false, noVision = false;
  std::string level;

  CompileOptions take() {
    if (*random)
      options.randomSeed = seed;
    if (*someLayers)
      options.layers = layers;
    for (const auto &[name, emit] : kLevels)
      if (level == name)
        options.emit = emit;
    options.tokenizer = !noTokenizer;
    options.vision = !noVision;
    options.assemblePtx = !noPtxas;
    return std::move(options);
  }
};

void addCompile(CLI::App &app, CompileCommand &command) {
  app.add_option("checkpoint", command.options.input,
                 "folder, .safetensors file or index of a checkpoint; with --random-weights "
                 "a config.json or its folder")
      ->required();
  app.add_option("-o,--output", command.options.output,
                 "where the plan goes (or the printed IR; with --emit=ptx a folder)");
  app.add_option(
      "--target", command.options.targets,
      "cuda:sm_100a, cuda:sm_90a, cuda:sm_80, cpu:x86-64-v4-amx, cpu:x86-64-v4, "
      "cpu:x86-64-v3-vnni, cpu:x86-64-v3, cpu:armv8.6-a, cpu:aarch64 or cpu:native; may be "
      "repeated (all CPUs if there is none)");
  app.add_option("--weights", command.options.weights,
                 "format of the weights: keep (as the checkpoint has them: its codes, or bf16), "
                 "f32, bf16, int4, int8 or fp8, the last three with details as in int4-g32 or "
                 "int8-row; then overrides for embedding, attention, shared, routed, dense, head, "
                 "vision or names, as in int4,head=bf16,layers.0.*=int8. With int4 and fp8 the "
                 "embedding and the head are int8; the vision tower is bf16 unless vision=int8 "
                 "asks for codes; norms and routers are always f32")
      ->capture_default_str();
  app.add_option("--cache", command.options.cache,
                 "storage of keys and values: f32 (the default), bf16 or int8 on CPUs, f16 "
                 "(the default) or bf16 on GPUs");
  command.random = app.add_option("--random-weights", command.seed,
                                  "make up the weights from this seed; no checkpoint is needed");
  command.someLayers = app.add_option("--layers", command.layers, "compile the first layers only");
  app.add_option("--lora", command.options.lora,
                 "folder of a LoRA adapter, as PEFT saves it, to merge into the weights; may be "
                 "repeated")
      ->allow_extra_args(false);
  app.add_option("--calibrate", command.options.calibrate,
                 "text, of the kind that the model will see, that the codes of int4 and "
                 "int8 weights are chosen by: a smaller loss for the same bits");
  app.add_option("--calibrate-tokens", command.options.calibrationTokens,
                 "how much of the text is used, in windows that are spread over it")
      ->capture_default_str();
  CLI::Option *noTokenizer =
      app.add_flag("--no-tokenizer", command.noTokenizer, "make a plan that takes token ids only");
  app.add_option("--tools", command.options.tools,
                 "how conversations lay out tools: hf-json (as Hugging Face's template), pythonic "
                 "(after Meta's prompt guide) or none; otherwise as the checkpoint's chat template "
                 "does, if it is one that is known")
      ->check(CLI::IsMember({"hf-json", "pythonic", "none"}).description(""))
      ->excludes(noTokenizer);
  app.add_flag("--no-vision", command.noVision,
               "make a plan that sees no pictures of a model that could");
  app.add_flag("--embeddings", command.options.embeddings,
               "make a plan that gives hidden states too, for moe-run embed and embeddings of a "
               "server");
  app.add_option("--max-step", command.options.maxStep, "tokens of the largest step")
      ->capture_default_str();
  app.add_flag("--allow-nonfinite", command.options.allowNonFinite,
               "accept weights that are NaN or infinite");
  app.add_option("--jobs", command.options.jobs, "threads that calibrate and pack weights; 0: all");
  CLI::Option *ptxas = app.add_option(
      "--ptxas", command.options.ptxas,
      "the assembler that makes cubins out of PTX (otherwise $MOE_PTXAS or the one of the PATH)");
  app.add_flag("--no-ptxas", command.noPtxas, "make no cubins: the driver assembles the PTX")
      ->excludes(ptxas);
  std::vector<std::string> levels;
  for (const auto &[name, level] : kLevels)
    levels.push_back(name);
  app.add_option("--emit", command.level,
                 "print this level instead of writing a plan: " + llvm::join(levels, ", "))
      ->check(CLI::IsMember(levels).description(""));
  app.add_option("--print-after", command.options.printAfter,
                 "print the IR to stderr after this pass, for example moe-fuse-qkv");
}

void addInspect(CLI::App &app, InspectOptions &options) {
  app.add_option("plan", options.plan, "the plan")->required();
  app.add_flag("--verify", options.verify, "check the hash of every section, weights included");
  app.add_flag("--tensors", options.tensors, "list the tensors");
  app.add_flag("--programs", options.programs, "list the calls of each step program");
}

} // namespace

int main(int argc, char **argv) {
  CLI::App app("Ahead-of-time compiler for Llama 4 (Scout, Maverick).", "moec");
  app.require_subcommand(1);
  app.set_version_flag("--version", "moec " MOE_VERSION);
  CompileCommand compile;
  addCompile(
      *app.add_subcommand("compile", "compile a checkpoint into a plan, or print a level of IR"),
      compile);
  InspectOptions inspect;
  CLI::App *inspectApp = app.add_subcommand("inspect", "show what is inside a plan");
  addInspect(*inspectApp, inspect);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success &success) { // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError &error) {
    std::string message = error.what();
    if (argc < 2)
      message = "what should be done? Use one of these commands\n\n" + app.help();
    else if (argv[1][0] != '-' && app.get_subcommands().empty())
      message = "there is no command '" + std::string(argv[1]) + "'\n\n" + app.help();
    else
      message += "; --help says more\n";
    llvm::errs() << "moec: error: " << message;
    return 2;
  }
  return *inspectApp ? runInspect(inspect) : runCompile(compile.take());
}
