// moec inspect: what is inside a plan, from the model down to the calls.
#include "tools/Terminal.h"
#include "tools/moec/Commands.h"
#include "tools/moec/InspectParts.h"
#include "llvm/Support/Format.h"

using namespace moe;

static std::string chatText(const fb::ChatFormat *chat) {
  if (!chat)
    return "";
  if (!chat->tools() || chat->tools()->size() == 0)
    return ", chat format without tools";
  return ", chat format with tools as " + chat->tools()->str();
}

static void printModel(llvm::raw_ostream &out, const fb::Plan &plan) {
  if (const fb::Provenance *from = plan.provenance()) {
    if (from->command() && from->command()->size())
      out << "options    " << from->command()->str() << "\n";
    if (from->ignored() && from->ignored()->size())
      out << "ignored    " << from->ignored()->size() << " tensors of the checkpoint\n";
  }
  const fb::Model &m = *plan.model();
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
  if (const fb::Vision *v = plan.vision())
    out << "\npictures   up to " << v->max_tiles() << " tiles of " << v->tile_size() << " by "
        << v->tile_size() << " pixels and one of the whole, patches of " << v->patch_size() << ", "
        << v->rows_per_tile() << " tokens a tile";
  out << "\nweights    " << (m.weights() ? m.weights()->str() : "") << "\n";
  out << "tokenizer  "
      << (plan.tokenizer()
              ? std::to_string(plan.tokenizer()->vocab_size()) + " tokens and " +
                    std::to_string(plan.tokenizer()->special_tokens()->size()) + " special ones"
              : std::string("none: the plan takes ids"))
      << chatText(plan.chat()) << "\n";
  if (const fb::Sampling *s = plan.sampling()) {
    out << "sampling   temperature " << llvm::format("%g", s->temperature());
    if (s->top_k())
      out << ", top-k " << s->top_k();
    out << ", top-p " << llvm::format("%g", s->top_p());
    if (s->repetition_penalty() != 1)
      out << ", repetition penalty " << llvm::format("%g", s->repetition_penalty());
    out << "\n";
  }
}

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

static void printSections(llvm::raw_ostream &out, const fb::Plan &plan) {
  out << "\nsections\n";
  for (const fb::Section *s : *plan.sections())
    out << "  " << llvm::left_justify(kindName(s->kind()), 10) << " "
        << llvm::left_justify(s->name()->str(), 24) << " at " << s->offset() << ", "
        << bytesText(s->length()) << ", xxh3 " << llvm::format_hex_no_prefix(s->hash(), 16) << "\n";
}

static void printCaches(llvm::raw_ostream &out, const fb::Plan &plan) {
  out << "\ncaches\n";
  if (plan.caches())
    for (const fb::CachePool *c : *plan.caches())
      out << "  " << llvm::left_justify(c->name()->str(), 10) << " " << c->layers() << " layers, "
          << c->page_bytes() << " bytes for each " << c->page_tokens() << " positions"
          << (c->chunk() ? ", chunks of " + std::to_string(c->chunk()) : "") << ", "
          << c->device()->str() << "\n";
}

static void printImages(llvm::raw_ostream &out, const fb::Plan &plan) {
  out << "\nimages\n";
  for (const fb::Image *i : *plan.images()) {
    out << "  " << llvm::left_justify(i->target()->str(), 18) << " needs";
    for (const flatbuffers::String *feature : *i->features())
      out << " " << feature->str();
    if (i->cubin() >= 0)
      out << ", with " << bytesText(plan.sections()->Get(i->cubin())->length())
          << " of machine code";
    out << "\n";
  }
}

int moe::runInspect(const InspectOptions &options) {
  auto plan = Plan::open(options.plan, {.verifyWeights = options.verify});
  if (!plan)
    return fail(plan.error().message);
  const fb::Plan &index = plan->index();
  llvm::raw_fd_ostream &out = llvm::outs();
  out << options.plan << ": " << bytesText(double(plan->fileSize())) << ", format " << plan->major()
      << "." << plan->minor() << ", written by " << plan->writer() << "\n";
  printModel(out, index);
  printSections(out, index);
  printWeights(out, index);
  printCaches(out, index);
  printImages(out, index);
  printKernels(out, index);
  printPrograms(out, index, options.programs);
  if (options.tensors)
    printTensors(out, index);
  if (options.verify)
    out << "\nall hashes are right\n";
  out.flush();
  if (out.has_error()) {
    std::string reason = out.error().message();
    out.clear_error();
    return fail("cannot write to standard output: " + reason);
  }
  return 0;
}
