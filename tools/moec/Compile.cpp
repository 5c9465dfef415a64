// moec compile: a plan, or a level of IR, that is only there when all of it is.
#include "tools/Terminal.h"
#include "tools/moec/Commands.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"

#include <chrono>
#include <csignal>
#include <unistd.h>

using namespace moe;

static std::atomic<bool> interrupted = false;

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

int moe::runCompile(CompileOptions options) {
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
    bar.show(done, total, bytesText(double(done)) + " of " + bytesText(double(total)));
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
  (void)llvm::sys::fs::file_size(options.output, size); // of the message alone
  std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  llvm::errs() << "moec: wrote " << options.output << ", " << bytesText(double(size)) << " in "
               << llvm::format("%.1f", seconds.count()) << " s; packed "
               << bytesText(double(packed.weightBytes)) << " of weights at "
               << bytesText(double(packed.weightBytes) / packed.seconds) << "/s, " << packed.threads
               << (packed.threads == 1 ? " thread" : " threads") << " busy "
               << llvm::format("%.0f", 100 * packed.busy) << " %\n";
  return 0;
}
