// One function per table of Plan.fbs, in its order.
#include "runtime/plan/CheckPrograms.h"

#include "runtime/plan/CheckValues.h"

#include <initializer_list>
#include <tuple>

namespace moe {

using namespace check;

namespace {

constexpr uint64_t kMaxSpecs = 64; // inputs of a program, and outputs
constexpr uint64_t kMaxRank = 8;
// In the order of ElementType and Extent.
constexpr uint64_t kElementBytes[] = {1, 4, 4, 2, 2, 4};
static_assert(std::size(kElementBytes) == size_t(fb::ElementType::MAX) + 1);

bool sameType(const fb::TensorSpec &a, const fb::TensorSpec &b) {
  return a.element() == b.element() && a.pool() == b.pool() &&
         std::equal(a.dims()->begin(), a.dims()->end(), b.dims()->begin(), b.dims()->end(),
                    [](const fb::Dimension *x, const fb::Dimension *y) {
                      return x->extent() == y->extent() && x->count() == y->count();
                    });
}

class ProgramChecker {
public:
  ProgramChecker(const fb::Plan &plan, const ImageKinds &images) : plan(plan), images(images) {}
  Status check();

private:
  using Specs = flatbuffers::Vector<flatbuffers::Offset<fb::TensorSpec>>;

  Status checkProgram(const fb::Program &program, const std::string &what);
  Status checkOrder(const fb::Program &program, const std::string &what);
  Status checkKind(const fb::Program &program, const std::string &what);
  Status checkStep(const fb::Program &program, const std::string &what);
  Status checkVision(const fb::Program &program, const std::string &what);
  Status checkSpecs(const Specs &specs, const fb::Program &program, bool inputs,
                    const std::string &of);
  Status checkDimensions(const fb::TensorSpec &spec, const fb::Program &program, bool input,
                         const std::string &what);
  Status checkTable(const fb::TensorSpec &spec, const fb::Program &program, bool input,
                    const std::string &what);
  Status checkCall(const fb::KernelCall &call, const fb::Program &program, const std::string &user);
  Status checkOperand(const fb::Operand &operand, const fb::Program &program,
                      const std::string &user);

  const fb::Plan &plan;
  const ImageKinds &images;
  // The last program seen of each device and kind, and what they have declared.
  using Group = std::pair<std::string_view, fb::ProgramKind>;
  std::map<Group, const fb::Program *> last;
  std::map<std::tuple<Group, bool, std::string_view>, const fb::TensorSpec *> declared;
};

Status ProgramChecker::check() {
  for (const fb::Program *program : *plan.programs()) {
    MOE_TRY(checkName(program->device(), "the device of a program"));
    MOE_TRY(checkProgram(*program, "program " + quote(program->device()) + " of " +
                                       number(program->tokens()) + " tokens"));
  }
  if (last.empty())
    return invalid("it has no program, so nothing could run it");
  bool vision = false;
  for (const auto &[group, program] : last) {
    if (!images.contains(group.first))
      return invalid("it has programs for device " + quote(program->device()) +
                     " and no image of their kernels");
    if (!last.contains({group.first, fb::ProgramKind::Step}))
      return invalid("it has programs for device " + quote(program->device()) +
                     " and none of kind Step");
    vision |= group.second == fb::ProgramKind::Vision;
  }
  if (plan.vision() && !vision)
    return invalid("it takes pictures, by its table Vision, and has no program of kind Vision");
  return ok();
}

Status ProgramChecker::checkProgram(const fb::Program &program, const std::string &what) {
  if (program.kind() > fb::ProgramKind::MAX)
    return invalid(what + " is of unknown kind " + number(uint64_t(program.kind())) +
                   ", and this runtime knows " + fb::EnumNameProgramKind(fb::ProgramKind::Step) +
                   " and " + fb::EnumNameProgramKind(fb::ProgramKind::Vision) + " alone");
  const bool step = program.kind() == fb::ProgramKind::Step;
  MOE_TRY(checkRange(program.tokens(), 1, kMaxCount, "tokens of " + what));
  MOE_TRY(checkRange(program.rows(), step ? 1 : 0, step ? kMaxCount : 0, "rows of " + what));
  MOE_TRY(checkKind(program, what)); // first: a kind without rows declares nothing that has them
  MOE_TRY(checkSpecs(*program.inputs(), program, true, " of " + what));
  MOE_TRY(checkSpecs(*program.outputs(), program, false, " of " + what));
  MOE_TRY(checkRange(program.arena_bytes(), 0, kMaxBytes, "arena_bytes of " + what));
  MOE_TRY(checkRange(program.scratch_bytes(), 0, kMaxBytes, "scratch_bytes of " + what));
  MOE_TRY(checkRange(program.counter_bytes(), 0, kMaxBytes, "counter_bytes of " + what));
  MOE_TRY(checkOrder(program, what));

  uint32_t position = 0;
  for (const fb::Call *call : *program.calls()) {
    const std::string user = "call " + number(position++) + " of " + what;
    const fb::KernelCall *kernel = call->operation_as_KernelCall();
    if (!kernel)
      return invalid(user + " is of unknown kind " + number(uint64_t(call->operation_type())) +
                     ", and this runtime knows " +
                     fb::EnumNameOperation(fb::Operation::KernelCall) + " alone");
    MOE_TRY(checkCall(*kernel, program, user));
  }
  return ok();
}

Status ProgramChecker::checkOrder(const fb::Program &program, const std::string &what) {
  const fb::Program *&before = last[{program.device()->string_view(), program.kind()}];
  if (!before)
    MOE_TRY(checkRange(last.size(), 1, kMaxDevices, "the number of devices"));
  else if (before->tokens() >= program.tokens())
    return invalid(what + " follows one of " + number(before->tokens()) +
                   " tokens, expected ascending order");
  before = &program;
  return ok();
}

// What a kind asks beyond what its runtime fills and reads.
Status ProgramChecker::checkKind(const fb::Program &program, const std::string &what) {
  switch (program.kind()) {
  case fb::ProgramKind::Step:
    return checkStep(program, what);
  case fb::ProgramKind::Vision:
    return checkVision(program, what);
  }
  return ok(); // checked above
}

// What the one input, or the one output, of a vision program must be: T by these.
static Status checkOnly(const flatbuffers::Vector<flatbuffers::Offset<fb::TensorSpec>> &specs,
                        std::string_view name, fb::ElementType element,
                        std::initializer_list<uint32_t> counts, const std::string &what) {
  if (specs.size() != 1 || specs.Get(0)->name()->string_view() != name)
    return invalid(what + " '" + std::string(name) + "', and it has " + number(specs.size()) +
                   (specs.size() == 1 ? ", called " + quote(specs.Get(0)->name()) : ""));
  const fb::TensorSpec &spec = *specs.Get(0);
  const auto &dims = *spec.dims();
  bool right = spec.element() == element && spec.pool() == -1 && dims.size() == counts.size() + 1 &&
               dims.Get(0)->extent() == fb::Extent::Tokens;
  std::string expected = fb::EnumNameElementType(element) + std::string(" of Tokens");
  for (uint32_t i = 1; uint32_t count : counts) {
    right = right && dims.Get(i)->extent() == fb::Extent::Constant && dims.Get(i)->count() == count;
    expected += " by " + number(count);
    ++i;
  }
  if (!right)
    return invalid(what + " '" + std::string(name) + "' as " + expected +
                   ", by the table Vision and the model, and it is declared otherwise");
  return ok();
}

Status ProgramChecker::checkVision(const fb::Program &program, const std::string &what) {
  const fb::Vision *vision = plan.vision();
  if (!vision)
    return invalid(what + " is of kind Vision, and the plan has no table Vision");
  const uint32_t size = vision->tile_size();
  MOE_TRY(checkOnly(*program.inputs(), "tiles", fb::ElementType::U8, {size, size, 3},
                    what + " is of kind Vision, expected the one input"));
  return checkOnly(*program.outputs(), "image_rows", fb::ElementType::F32,
                   {vision->rows_per_tile(), plan.model()->hidden_size()},
                   what + " is of kind Vision, expected the one output");
}

Status ProgramChecker::checkStep(const fb::Program &program, const std::string &what) {
  if (std::none_of(program.outputs()->begin(), program.outputs()->end(),
                   [](const fb::TensorSpec *output) {
                     const std::string_view name = output->name()->string_view();
                     return name == "logits" || name == "ids";
                   }))
    return invalid(what + ", a step, has neither of the outputs 'logits' and 'ids'");
  return ok();
}

Status ProgramChecker::checkSpecs(const Specs &specs, const fb::Program &program, bool inputs,
                                  const std::string &of) {
  MOE_TRY(checkRange(specs.size(), 0, kMaxSpecs,
                     std::string("the number of ") + (inputs ? "inputs" : "outputs") + of));
  const Group group{program.device()->string_view(), program.kind()};
  std::vector<std::string> names;
  for (const fb::TensorSpec *spec : specs) {
    MOE_TRY(checkName(spec->name(), (inputs ? "an input" : "an output") + of));
    names.push_back(spec->name()->str());
    const std::string what = (inputs ? "input " : "output ") + quote(spec->name()) + of;
    if (spec->element() > fb::ElementType::MAX)
      return invalid(what + " has elements of unknown type " + number(uint64_t(spec->element())));
    MOE_TRY(checkDimensions(*spec, program, inputs, what));
    MOE_TRY(checkTable(*spec, program, inputs, what));
    const fb::TensorSpec *first =
        declared.emplace(std::tuple(group, inputs, spec->name()->string_view()), spec)
            .first->second;
    if (!sameType(*first, *spec))
      return invalid(what + " is declared otherwise than by a program before it");
  }
  return checkUnique(names, inputs ? "inputs of a program" : "outputs of a program");
}

// Sequences and pages are a session's, which computes with what is left below kMaxBytes.
Status ProgramChecker::checkDimensions(const fb::TensorSpec &spec, const fb::Program &program,
                                       bool input, const std::string &what) {
  MOE_TRY(checkRange(spec.dims()->size(), 0, kMaxRank, "the rank of " + what));
  uint64_t bytes = kElementBytes[size_t(spec.element())];
  bool first = true;
  for (const fb::Dimension *dim : *spec.dims()) {
    uint64_t count = 1;
    switch (dim->extent()) {
    case fb::Extent::Constant:
      MOE_TRY(checkRange(dim->count(), 1, kMaxCount, "a dimension of " + what));
      count = dim->count();
      break;
    case fb::Extent::Tokens:
    case fb::Extent::Rows:
      if (!first)
        return invalid(what + " has " + fb::EnumNameExtent(dim->extent()) +
                       " in a place that is not its first");
      count = dim->extent() == fb::Extent::Tokens ? program.tokens() : program.rows();
      break;
    case fb::Extent::Sequences:
    case fb::Extent::Pages:
      if (!input)
        return invalid(what + " has a dimension of " + fb::EnumNameExtent(dim->extent()) +
                       ", which only inputs have");
      break;
    default:
      return invalid(what + " has a dimension of unknown extent " +
                     number(uint64_t(dim->extent())));
    }
    if (dim->extent() != fb::Extent::Constant && dim->count())
      return invalid(what + " has a dimension of " + fb::EnumNameExtent(dim->extent()) +
                     " with a count, " + number(dim->count()) + ", expected 0");
    if (count > kMaxBytes / bytes)
      return invalid(what + " has more than " + number(kMaxBytes) + " bytes");
    bytes *= count;
    first = false;
  }
  return ok();
}

Status ProgramChecker::checkTable(const fb::TensorSpec &spec, const fb::Program &program,
                                  bool input, const std::string &what) {
  if (spec.pool() == -1)
    return ok();
  if (!input)
    return invalid(what + " has a cache pool, and only inputs are block tables");
  if (spec.pool() < 0 || uint32_t(spec.pool()) >= plan.caches()->size())
    return invalid(what + " is the block table of cache pool " + std::to_string(spec.pool()) +
                   " of " + number(plan.caches()->size()));
  if (plan.caches()->Get(uint32_t(spec.pool()))->device()->string_view() !=
      program.device()->string_view())
    return invalid(what + " is the block table of cache pool " + std::to_string(spec.pool()) +
                   ", which is another device's");
  if (spec.element() != fb::ElementType::I32 || spec.dims()->size() != 2 ||
      spec.dims()->Get(0)->extent() != fb::Extent::Sequences ||
      spec.dims()->Get(1)->extent() != fb::Extent::Pages)
    return invalid(what + " is a block table, expected I32 of Sequences by Pages");
  return ok();
}

Status ProgramChecker::checkCall(const fb::KernelCall &call, const fb::Program &program,
                                 const std::string &user) {
  const std::string_view device = program.device()->string_view();
  if (call.kernel() >= plan.kernels()->size())
    return invalid(user + " is of kernel " + number(call.kernel()) + ", and the plan has " +
                   number(plan.kernels()->size()));
  const fb::Kernel &kernel = *plan.kernels()->Get(call.kernel());
  if (kernel.device()->string_view() != device)
    return invalid(user + " is of kernel " + quote(kernel.name()) + " for device " +
                   quote(kernel.device()));
  if (call.operands()->size() != kernel.operands())
    return invalid(user + " passes " + number(call.operands()->size()) + " operands to kernel " +
                   quote(kernel.name()) + ", which takes " + number(kernel.operands()));
  if (auto found = images.find(device);
      found != images.end() && found->second) // a grid has at most 2^31 - 1 blocks
    MOE_TRY(checkRange(call.blocks(), 1, (uint64_t(1) << 31) - 1, "blocks of " + user));
  MOE_TRY(checkAligned(*call.operands(), "the operands of " + user));
  for (const fb::Operand *operand : *call.operands())
    MOE_TRY(checkOperand(*operand, program, user));
  return ok();
}

Status ProgramChecker::checkOperand(const fb::Operand &operand, const fb::Program &program,
                                    const std::string &user) {
  const auto within = [&](uint64_t size, const std::string &buffer) -> Status {
    if (operand.offset() % kTensorAlignment || operand.bytes() == 0 ||
        !inRange(operand.offset(), operand.bytes(), size))
      return invalid(user + " touches " + number(operand.bytes()) + " bytes at byte " +
                     number(operand.offset()) + " of " + buffer + ", which has " + number(size) +
                     "; expected some at a multiple of " + number(kTensorAlignment));
    return ok();
  };
  const auto isDeclared = [&](const Specs &specs, const char *what) -> Status {
    if (operand.index() >= specs.size())
      return invalid(user + " uses " + what + " " + number(operand.index()) + " of " +
                     number(specs.size()));
    if (operand.offset())
      return invalid(user + " uses " + what + " " + quote(specs.Get(operand.index())->name()) +
                     " from byte " + number(operand.offset()) + ", expected 0");
    return ok();
  };
  switch (operand.kind()) {
  case fb::OperandKind::Input:
    return isDeclared(*program.inputs(), "input");
  case fb::OperandKind::Output:
    return isDeclared(*program.outputs(), "output");
  case fb::OperandKind::Arena:
    return within(program.arena_bytes(), "the arena");
  case fb::OperandKind::Weight: {
    MOE_ASSIGN(section,
               sectionOf(plan, operand.index(), fb::SectionKind::Weights, "an operand of " + user));
    return within(section->length(), "section " + quote(section->name()));
  }
  case fb::OperandKind::Cache: {
    if (program.kind() != fb::ProgramKind::Step)
      return invalid(user + " uses a cache pool, and only steps have caches");
    if (operand.index() >= plan.caches()->size())
      return invalid(user + " uses cache pool " + number(operand.index()) + " of " +
                     number(plan.caches()->size()));
    const fb::CachePool &pool = *plan.caches()->Get(operand.index());
    if (pool.device()->string_view() != program.device()->string_view())
      return invalid(user + " uses cache pool " + number(operand.index()) +
                     ", which is another device's");
    if (operand.offset() >= pool.page_bytes())
      return invalid(user + " starts at byte " + number(operand.offset()) + " of a page of pool " +
                     quote(pool.name()) + ", which has " + number(pool.page_bytes()));
    return ok();
  }
  case fb::OperandKind::Counters:
    return within(program.counter_bytes(), "the counters");
  }
  return invalid(user + " has an operand of unknown kind " + number(uint64_t(operand.kind())));
}

} // namespace

Status checkPrograms(const fb::Plan &plan, const ImageKinds &images) {
  return ProgramChecker(plan, images).check();
}

} // namespace moe
