// moec: compiles a Llama 4 checkpoint into a plan, prints every level on the way, and shows what is
// inside a plan.
#include "compiler/Compiler.h"
#include "runtime/plan/Plan.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/ScopeExit.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/Path.h"
#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <unistd.h>

using namespace moe;

static std::atomic<bool> interrupted = false;

static int fail(const llvm::Twine &message) {
  llvm::errs() << "moec: error: " << message << "\n";
  return 1;
}

// "1.23 GB"
static std::string bytesText(double bytes) {
  const char *units[] = {"B", "KB", "MB", "GB", "TB"};
  int unit = 0;
  while (bytes >= 1000 && unit < 4) {
    bytes /= 1000;
    ++unit;
  }
  std::string text;
  llvm::raw_string_ostream(text) << llvm::format(unit ? "%.2f " : "%.0f ", bytes) << units[unit];
  return text;
}

//===----------------------------------------------------------------------===//
// moec compile
//===----------------------------------------------------------------------===//

namespace {
// A bar on stderr, drawn at most ten times a second, where stderr is a terminal.
class ProgressBar {
public:
  ~ProgressBar() { clear(); }
  void show(uint64_t done, uint64_t total, const std::string &text) {
    auto now = std::chrono::steady_clock::now();
    if (!terminal || (drawn && done < total && now - last < std::chrono::milliseconds(100)))
      return;
    last = now;
    drawn = true;
    constexpr int width = 40;
    int filled = total ? int(double(done) / double(total) * width) : width;
    llvm::errs() << "\r\x1b[K[" << std::string(filled, '=') << std::string(width - filled, ' ')
                 << "] " << text;
  }
  void clear() {
    if (drawn)
      llvm::errs() << "\r\x1b[K";
    drawn = false;
  }

private:
  bool terminal = isatty(2), drawn = false;
  std::chrono::steady_clock::time_point last;
};
} // namespace

// Compiles to a stream; what could not be written is an error that names it.
static llvm::Error emitTo(llvm::raw_fd_ostream &out, llvm::StringRef name,
                          const CompileOptions &options, const CompileEvents &events) {
  llvm::Error error = compile(options, out, events);
  out.flush();
  if (!error && out.has_error())
    error = llvm::createStringError("cannot write " + name + ": " + out.error().message());
  out.clear_error();
  return error;
}

// Prints to stdout, to a device or pipe, to files of a folder, or to a file that is only there when
// all of it is.
static int emitTo(const CompileOptions &options, const CompileEvents &events) {
  const std::string name = "'" + options.output + "'";
  if (options.output.empty() || options.emit == Emit::Ptx) {
    llvm::raw_fd_ostream out(1, /*shouldClose=*/false);
    llvm::Error error = emitTo(out, "to standard output", options, events);
    return error ? fail(llvm::toString(std::move(error))) : 0;
  }
  llvm::sys::fs::file_status status;
  if (!llvm::sys::fs::status(options.output, status) &&
      !llvm::sys::fs::is_regular_file(status)) { // whose place a file must not take
    std::error_code code;
    llvm::raw_fd_ostream out(options.output, code, llvm::sys::fs::CD_OpenExisting);
    if (code)
      return fail("cannot write " + name + ": " + code.message());
    llvm::Error error = emitTo(out, name, options, events);
    return error ? fail(llvm::toString(std::move(error))) : 0;
  }
  auto file = llvm::sys::fs::TempFile::create(options.output + ".tmp-%%%%%%");
  if (!file)
    return fail("cannot write " + name + ": " + llvm::toString(file.takeError()));
  llvm::raw_fd_ostream out(file->FD, /*shouldClose=*/false);
  if (llvm::Error error = emitTo(out, name, options, events)) {
    llvm::consumeError(file->discard());
    return fail(llvm::toString(std::move(error)));
  }
  if (auto kept = file->keep(options.output))
    return fail("cannot write " + name + ": " + llvm::toString(std::move(kept)));
  return 0;
}

static int runCompile(CompileOptions options) {
  signal(SIGXFSZ, SIG_IGN);         // a full file is an error of write(), not the end of us
  if (options.emit == Emit::File) { // printing just ends, and LLVM removes its file
    struct sigaction action = {};
    action.sa_handler = [](int) {
      if (interrupted.exchange(true))
        _exit(130);
    };
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
  }

  ProgressBar bar;
  CompileEvents events;
  events.note = [&](const std::string &text) {
    bar.clear();
    llvm::errs() << "moec: " << text << "\n";
  };
  events.progress = [&](uint64_t done, uint64_t total) {
    bar.show(done, total, std::string(bytesText(done)) + " of " + std::string(bytesText(total)));
  };
  events.calibration = [&](uint64_t done, uint64_t total) {
    bar.show(done, total,
             "calibrated " + std::to_string(done) + " of " + std::to_string(total) + " matrices");
  };
  CompileFigures packed;
  events.packed = [&](const CompileFigures &figures) { packed = figures; };
  events.cancel = &interrupted;
  if (options.emit != Emit::File) {
    if (options.output == "-")
      options.output.clear();
    return emitTo(options, events);
  }

  if (options.output.empty())
    return fail("where should the plan go? Give its path with -o");
  auto start = std::chrono::steady_clock::now();
  llvm::Error error = compile(options, llvm::outs(), events);
  bar.clear();
  if (error) {
    std::string message = llvm::toString(std::move(error));
    if (!interrupted)
      return fail(message);
    llvm::errs() << "moec: interrupted, nothing was written\n";
    return 130;
  }
  uint64_t size = 0;
  llvm::sys::fs::file_size(options.output, size);
  std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  llvm::errs() << "moec: wrote " << options.output << ", " << bytesText(size) << " in "
               << llvm::format("%.1f", seconds.count()) << " s; packed "
               << bytesText(double(packed.weightBytes)) << " of weights at "
               << bytesText(double(packed.weightBytes) / packed.seconds) << "/s, " << packed.threads
               << (packed.threads == 1 ? " thread" : " threads") << " busy "
               << llvm::format("%.0f", 100 * packed.busy) << " %\n";
  return 0;
}

//===----------------------------------------------------------------------===//
// moec inspect
//===----------------------------------------------------------------------===//

static const char *kindName(fb::SectionKind kind) {
  switch (kind) {
  case fb::SectionKind::Weights:
    return "weights";
  case fb::SectionKind::Code:
    return "code";
  case fb::SectionKind::Tokenizer:
    return "tokenizer";
  case fb::SectionKind::Ptx:
    return "ptx";
  case fb::SectionKind::Cubin:
    return "cubin";
  }
  return "unknown";
}

static std::string operandText(const fb::Plan &plan, const fb::Operand &operand) {
  switch (operand.kind()) {
  case fb::OperandKind::Input: {
    std::string name = fb::EnumNameInputName(fb::InputName(operand.index()));
    return llvm::StringRef(name).lower();
  }
  case fb::OperandKind::Arena:
    return "arena+" + std::to_string(operand.offset());
  case fb::OperandKind::Weight:
    for (const fb::Tensor *tensor : *plan.tensors())
      if (tensor->section() == operand.index() && tensor->offset() == operand.offset())
        return "@" + tensor->name()->str();
    return "weights+" + std::to_string(operand.offset());
  case fb::OperandKind::Cache:
    return plan.caches()->Get(operand.index())->name()->str() + "+" +
           std::to_string(operand.offset());
  case fb::OperandKind::Logits:
    return "logits";
  case fb::OperandKind::Ids:
    return "ids";
  case fb::OperandKind::Counters:
    return "counters+" + std::to_string(operand.offset());
  }
  return "?";
}

// How each of a GPU's targets launches a kernel, and with how many blocks the programs do.
static void printLaunches(llvm::raw_ostream &out, const fb::Plan &plan, uint32_t kernel) {
  uint32_t least = UINT32_MAX, most = 0;
  for (const fb::Program *program : *plan.programs())
    for (const fb::Call *call : *program->calls())
      if (call->kernel() == kernel) {
        least = std::min(least, call->blocks());
        most = std::max(most, call->blocks());
      }
  for (const fb::Image *image : *plan.images()) {
    if (!image->launches() || image->entries()->Get(kernel) == ~uint64_t(0))
      continue;
    const fb::Launch &l = *image->launches()->Get(kernel);
    out << "    " << llvm::left_justify(image->target()->str(), 16) << " " << l.threads()
        << " threads, ";
    if (l.registers())
      out << l.registers() << " registers, ";
    out << bytesText(l.shared_bytes()) << " shared, " << l.blocks_per_sm()
        << (l.blocks_per_sm() == 1 ? " block" : " blocks") << " a multiprocessor"
        << (l.dependent() ? ", dependent" : "");
    if (most)
      out << "; " << least << (least < most ? " to " + std::to_string(most) : "")
          << (most == 1 ? " block" : " blocks") << " a launch";
    out << "\n";
  }
}

// Of all weights, and of those that layers share a name for: how they are stored, and how many bits
// an element takes with its part of scales and padding.
static void printWeights(llvm::raw_ostream &out, const fb::Plan &plan) {
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

static int runInspect(const std::string &path, bool verify, bool tensors, bool programs) {
  auto plan = Plan::open(path, {.verifyWeights = verify});
  if (!plan)
    return fail(plan.error().message);
  const fb::Plan &index = plan->index();
  llvm::raw_fd_ostream &out = llvm::outs();
  const fb::Model &m = *index.model();
  out << path << ": " << bytesText(plan->fileSize()) << ", format " << plan->major() << "."
      << plan->minor() << ", written by " << plan->writer() << "\n";
  if (const fb::Provenance *from = index.provenance()) {
    if (from->checkpoint() && from->checkpoint()->size())
      out << "from       " << from->checkpoint()->str() << "\n";
    if (from->command() && from->command()->size())
      out << "options    " << from->command()->str() << "\n";
    if (from->ignored() && from->ignored()->size())
      out << "ignored    " << from->ignored()->size() << " tensors of the checkpoint\n";
  }
  out << "model      " << m.architecture()->str() << ", " << m.layers() << " layers ("
      << m.moe_layers() << " with experts), hidden " << m.hidden_size() << ", " << m.heads()
      << " heads, " << m.kv_heads() << " key-value heads of " << m.head_dim() << ", vocabulary "
      << m.vocab_size() << "\n";
  if (m.experts())
    out << "experts    " << m.experts() << ", " << m.experts_per_token() << " for each token\n";
  out << "parameters " << m.parameters() << ", " << m.active_parameters()
      << " for each decoded token\n"
      << "context    " << m.max_positions() << " positions";
  if (m.attention_chunk())
    out << ", local layers see chunks of " << m.attention_chunk();
  out << "\nweights    " << (m.weights() ? m.weights()->str() : "") << "\n";
  out << "tokenizer  "
      << (index.tokenizer()
              ? std::to_string(index.tokenizer()->vocab_size()) + " tokens and " +
                    std::to_string(index.tokenizer()->special_tokens()->size()) + " special ones"
              : std::string("none: the plan takes ids"))
      << (index.chat() ? ", chat format" : "") << "\n";

  out << "\nsections\n";
  for (const fb::Section *s : *index.sections())
    out << "  " << llvm::left_justify(kindName(s->kind()), 10) << " "
        << llvm::left_justify(s->name()->str(), 24) << " at " << s->offset() << ", "
        << bytesText(s->length()) << ", xxh3 " << llvm::format_hex_no_prefix(s->hash(), 16) << "\n";
  printWeights(out, index);
  out << "\ncaches\n";
  if (index.caches())
    for (const fb::CachePool *c : *index.caches())
      out << "  " << llvm::left_justify(c->name()->str(), 10) << " " << c->layers() << " layers, "
          << c->page_bytes() << " bytes for each " << c->page_tokens() << " positions, "
          << (c->device() ? c->device()->str() : "cpu") << "\n";
  out << "\nimages\n";
  for (const fb::Image *i : *index.images()) {
    out << "  " << llvm::left_justify(i->target()->str(), 18) << " needs";
    for (const flatbuffers::String *feature : *i->features())
      out << " " << feature->str();
    if (i->cubin() >= 0)
      out << ", with " << bytesText(index.sections()->Get(i->cubin())->length())
          << " of machine code";
    out << "\n";
  }
  out << "\nkernels\n";
  for (uint32_t i = 0; i < index.kernels()->size(); ++i) {
    const fb::Kernel *k = index.kernels()->Get(i);
    out << "  " << k->device()->str() << " " << k->name()->str() << ", " << k->operands()
        << " operands\n";
    printLaunches(out, index, i);
  }
  out << "\nprograms\n";
  for (const fb::Program *p : *index.programs()) {
    out << "  " << p->device()->str() << " up to " << p->tokens() << " tokens, " << p->rows()
        << " rows of logits: " << p->calls()->size() << " calls, arena "
        << bytesText(p->arena_bytes());
    if (p->counter_bytes())
      out << ", counters " << bytesText(p->counter_bytes());
    if (p->scratch_bytes() || p->device()->string_view() == "cpu")
      out << ", scratch " << bytesText(p->scratch_bytes()) << " a worker";
    out << "\n";
    if (!programs)
      continue;
    for (const fb::Call *call : *p->calls()) {
      out << "    " << index.kernels()->Get(call->kernel())->name()->str() << "(";
      llvm::ListSeparator comma;
      for (const fb::Operand *operand : *call->operands())
        out << comma << operandText(index, *operand);
      out << ")";
      if (call->blocks())
        out << " in " << call->blocks() << (call->blocks() == 1 ? " block" : " blocks");
      out << "\n";
    }
  }
  if (tensors) {
    out << "\ntensors\n";
    for (const fb::Tensor *t : *index.tensors()) {
      out << "  " << t->name()->str() << " ";
      llvm::ListSeparator x("x");
      for (uint64_t size : *t->shape())
        out << x << size;
      out << " " << t->layout()->str() << " " << t->storage()->str() << " at " << t->offset()
          << ", " << bytesText(t->bytes()) << "\n";
    }
  }
  if (verify)
    out << "\nall hashes are right\n";
  out.flush();
  if (out.has_error()) {
    std::string reason = out.error().message();
    out.clear_error();
    return fail("cannot write to standard output: " + reason);
  }
  return 0;
}

//===----------------------------------------------------------------------===//
// Options
//===----------------------------------------------------------------------===//

int main(int argc, char **argv) {
  CLI::App app("Ahead-of-time compiler for Llama 4 (Scout, Maverick).", "moec");
  app.require_subcommand(1);
  app.set_version_flag("--version", "moec " MOE_VERSION);

  CompileOptions options;
  CLI::App *compileApp =
      app.add_subcommand("compile", "compile a checkpoint into a plan, or print a level of IR");
  compileApp
      ->add_option("checkpoint", options.input,
                   "folder, .safetensors file or index of a checkpoint; with --random-weights "
                   "a config.json or its folder")
      ->required();
  compileApp->add_option("-o,--output", options.output,
                         "where the plan goes (or the printed IR; with --emit=ptx a folder)");
  compileApp->add_option("--target", options.targets,
                         "cuda:sm_100a, cuda:sm_90a, cuda:sm_80, cpu:x86-64-v4, cpu:x86-64-v3, "
                         "cpu:aarch64 or cpu:native; may be repeated (all CPUs if there is none)");
  compileApp
      ->add_option(
          "--weights", options.weights,
          "format of the weights: keep (as the checkpoint has them: its codes, or bf16), "
          "f32, bf16, int4, int8 or fp8, the last three with details as in int4-g32 or "
          "int8-row; then overrides for embedding, attention, shared, routed, dense, head "
          "or names, as in int4,head=bf16,layers.0.*=int8. With int4 and fp8 the embedding "
          "and the head are int8; norms and routers are always f32")
      ->capture_default_str();
  compileApp->add_option("--cache", options.cache,
                         "storage of keys and values: f32 (the default), bf16 or int8 on CPUs, f16 "
                         "(the default) or bf16 on GPUs");
  uint64_t seed = 0;
  CLI::Option *random = compileApp->add_option(
      "--random-weights", seed, "make up the weights from this seed; no checkpoint is needed");
  int64_t layers = 0;
  CLI::Option *someLayers =
      compileApp->add_option("--layers", layers, "compile the first layers only");
  compileApp
      ->add_option("--lora", options.lora,
                   "folder of a LoRA adapter, as PEFT saves it, to merge into the weights; may be "
                   "repeated")
      ->allow_extra_args(false);
  compileApp->add_option("--calibrate", options.calibrate,
                         "text, of the kind that the model will see, that the codes of int4 and "
                         "int8 weights are chosen by: a smaller loss for the same bits");
  compileApp
      ->add_option("--calibrate-tokens", options.calibrationTokens,
                   "how much of the text is used, in windows that are spread over it")
      ->capture_default_str();
  bool noTokenizer = false;
  compileApp->add_flag("--no-tokenizer", noTokenizer, "make a plan that takes token ids only");
  compileApp->add_option("--max-step", options.maxStep, "tokens of the largest step")
      ->capture_default_str();
  compileApp->add_flag("--allow-nonfinite", options.allowNonFinite,
                       "accept weights that are NaN or infinite");
  compileApp->add_option("--jobs", options.jobs, "threads that calibrate and pack weights; 0: all");
  bool noPtxas = false;
  CLI::Option *ptxas = compileApp->add_option(
      "--ptxas", options.ptxas,
      "the assembler that makes cubins out of PTX (otherwise $MOE_PTXAS or the one of the PATH)");
  compileApp->add_flag("--no-ptxas", noPtxas, "make no cubins: the driver assembles the PTX")
      ->excludes(ptxas);
  const std::vector<std::string> levels{"moe", "fused", "plan", "kernels", "llvm", "ptx", "asm"};
  std::string level; // the levels are in the order of Emit
  compileApp
      ->add_option("--emit", level,
                   "print this level instead of writing a plan: " + llvm::join(levels, ", "))
      ->check(CLI::IsMember(levels).description(""));
  compileApp->add_option("--print-after", options.printAfter,
                         "print the IR to stderr after this pass, for example moe-fuse-qkv");

  std::string path;
  bool verify = false, tensors = false, programs = false;
  CLI::App *inspectApp = app.add_subcommand("inspect", "show what is inside a plan");
  inspectApp->add_option("plan", path, "the plan")->required();
  inspectApp->add_flag("--verify", verify, "check the hash of every section, weights included");
  inspectApp->add_flag("--tensors", tensors, "list the tensors");
  inspectApp->add_flag("--programs", programs, "list the calls of each step program");

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
  if (*inspectApp)
    return runInspect(path, verify, tensors, programs);
  if (*random)
    options.randomSeed = seed;
  if (*someLayers)
    options.layers = layers;
  if (!level.empty())
    options.emit = Emit(llvm::find(levels, level) - levels.begin());
  options.tokenizer = !noTokenizer;
  options.assemblePtx = !noPtxas;
  return runCompile(std::move(options));
}
