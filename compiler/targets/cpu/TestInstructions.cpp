// Decodes the instruction at a trap and carries it out.
#include "compiler/targets/cpu/TestInstructions.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <optional>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/ucontext.h>
#include <unistd.h>
#endif

namespace moe::codegen {

std::span<const std::string_view> EmulatedInstructions::features() {
  static constexpr std::string_view names[] = {"avx_vnni", "amx_tile", "amx_bf16", "amx_int8"};
  return names;
}

#if defined(__x86_64__) && defined(__linux__)

namespace {

// Where the kernel saves what of a trap's registers: struct _xstate of its <asm/sigcontext.h>.
constexpr size_t kSoftwareBytes = 464, kHeader = 512;
constexpr uint32_t kMagic = 0x46505853; // the software's bytes are filled in
constexpr uint64_t kAvxState = 4;

// From the start of the saved state to the upper halves of the vector registers; 0 without AVX.
size_t upperHalves() {
  static const size_t offset = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(0xd, 2, &eax, &ebx, &ecx, &edx) ? size_t(ebx) : 0;
  }();
  return offset;
}

// The registers of a trap.
class Registers {
public:
  explicit Registers(ucontext_t &context)
      : general(context.uc_mcontext.gregs),
        state(reinterpret_cast<std::byte *>(context.uc_mcontext.fpregs)) {}

  // By their numbers in instructions.
  uint64_t value(int number) const {
    static constexpr int places[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                     REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                     REG_R12, REG_R13, REG_R14, REG_R15};
    return uint64_t(general[places[number]]);
  }
  const uint8_t *instruction() const { return reinterpret_cast<const uint8_t *>(general[REG_RIP]); }
  void goOn(const uint8_t *next) { general[REG_RIP] = greg_t(reinterpret_cast<uintptr_t>(next)); }

  using Vector = std::array<uint8_t, 32>;
  Vector vector(int number) const {
    Vector v{};
    memcpy(v.data(), state + lower(number), 16);
    // A state that is not marked is zero, whatever the memory holds.
    if (marks() & kAvxState)
      memcpy(v.data() + 16, state + upper(number), 16);
    return v;
  }
  void setVector(int number, const Vector &v) {
    memcpy(state + lower(number), v.data(), 16);
    if (!(marks() & kAvxState)) {
      memset(state + upper(0), 0, 16 * 16);
      const uint64_t marked = marks() | kAvxState;
      memcpy(state + kHeader, &marked, sizeof marked);
    }
    memcpy(state + upper(number), v.data() + 16, 16);
  }

  bool haveVectors() const {
    uint32_t magic;
    uint64_t saved;
    memcpy(&magic, state + kSoftwareBytes, sizeof magic);
    memcpy(&saved, state + kSoftwareBytes + 8, sizeof saved);
    return magic == kMagic && (saved & kAvxState);
  }

private:
  static size_t lower(int number) { return 160 + size_t(number) * 16; } // as FXSAVE has them
  static size_t upper(int number) { return upperHalves() + size_t(number) * 16; }
  uint64_t marks() const {
    uint64_t marked;
    memcpy(&marked, state + kHeader, sizeof marked);
    return marked;
  }

  greg_t *general;
  std::byte *state;
};

// An instruction with a VEX prefix of three bytes and a byte that names registers or an address.
struct Instruction {
  enum Prefix { None, P66, PF3, PF2 };

  uint8_t opcode = 0;
  Prefix prefix = None;
  bool wide = false;    // 256 bits
  int reg = 0;          // the one in the middle of the last byte
  int source = 0;       // the prefix's
  int other = -1;       // a register in the place of the address, or
  uint64_t address = 0; // without the index, where `sib`:
  bool sib = false;
  uint64_t index = 0; // scaled
  const uint8_t *next = nullptr;

  static std::optional<Instruction> decode(const Registers &registers) {
    const uint8_t *at = registers.instruction();
    if (at[0] != 0xc4 || (at[1] & 0x1f) != 2 || (at[2] & 0x80)) // the map 0F38, no W
      return {};
    // The prefix has these bits inverted.
    const int r = at[1] & 0x80 ? 0 : 8, x = at[1] & 0x40 ? 0 : 8, b = at[1] & 0x20 ? 0 : 8;
    Instruction i;
    i.prefix = Prefix(at[2] & 3);
    i.wide = at[2] & 4;
    i.source = ~at[2] >> 3 & 15;
    i.opcode = at[3];
    const int mode = at[4] >> 6, low = at[4] & 7;
    i.reg = (at[4] >> 3 & 7) | r;
    at += 5;
    if (mode == 3) {
      i.other = low | b;
      i.next = at;
      return i;
    }
    bool fromNext = false;
    if (low == 4) {
      const uint8_t byte = *at++;
      const int base = byte & 7, index = (byte >> 3 & 7) | x;
      i.sib = true;
      if (index != 4)
        i.index = registers.value(index) << (byte >> 6);
      if (base == 5 && mode == 0)
        i.address = displacement<int32_t>(at);
      else
        i.address = registers.value(base | b);
    } else if (low == 5 && mode == 0) {
      i.address = displacement<int32_t>(at);
      fromNext = true;
    } else {
      i.address = registers.value(low | b);
    }
    if (mode == 1)
      i.address += displacement<int8_t>(at);
    if (mode == 2)
      i.address += displacement<int32_t>(at);
    if (fromNext)
      i.address += reinterpret_cast<uintptr_t>(at);
    i.next = at;
    return i;
  }

private:
  template <class T> static uint64_t displacement(const uint8_t *&at) {
    T value;
    memcpy(&value, at, sizeof value);
    at += sizeof value;
    return uint64_t(int64_t(value));
  }
};

// Four products of unsigned and signed bytes, added to each int32.
void dotUnsignedSigned(Registers &registers, const Instruction &i) {
  Registers::Vector sum = registers.vector(i.reg), w = registers.vector(i.source), x{};
  const size_t bytes = i.wide ? 32 : 16;
  if (i.other >= 0)
    x = registers.vector(i.other);
  else
    memcpy(x.data(), reinterpret_cast<const void *>(i.address + i.index), bytes);
  for (size_t lane = 0; lane < 32; lane += 4) {
    uint32_t total;
    memcpy(&total, &sum[lane], sizeof total);
    for (size_t c = lane; c < lane + 4; ++c)
      total += uint32_t(int32_t(w[c]) * int8_t(x[c]));
    if (lane >= bytes)
      total = 0; // a vector of 128 bits clears the upper half
    memcpy(&sum[lane], &total, sizeof total);
  }
  registers.setVector(i.reg, sum);
}

[[noreturn]] void die(const char *why, const Registers &registers) {
  char text[256];
  int length = snprintf(text, sizeof text, "%s:", why);
  for (int i = 0; i < 10; ++i)
    length +=
        snprintf(text + length, sizeof text - size_t(length), " %02x", registers.instruction()[i]);
  text[length++] = '\n';
  (void)!write(STDERR_FILENO, text, size_t(length));
  _exit(1);
}

//===--- AMX ---------------------------------------------------------------------------------------

struct Tiles {
  static constexpr size_t count = 8, mostRows = 16, mostBytes = 64; // of palette 1

  bool configured = false;
  size_t rows[count], rowBytes[count];
  uint8_t data[count][mostRows][mostBytes];
};
thread_local Tiles tiles;

// Denormals count as zeros, on the way in and on the way out, whatever MXCSR says.
float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }
float fmaFlushed(float x, float y, float z) { return flushed(std::fma(flushed(x), flushed(y), z)); }

// This and what follows return why the instruction would fault, or null.
const char *configureTiles(const uint8_t *from) {
  tiles.configured = false;
  memset(tiles.data, 0, sizeof tiles.data);
  if (from[0] != 1)
    return "the tiles' palette is not 1";
  for (size_t i = 1; i < 64; ++i)
    if ((i < 16 || (i >= 32 && i < 48) || i >= 56) && from[i] != 0)
      return "a byte of the tiles' configuration that is reserved is not zero";
  for (size_t i = 0; i < Tiles::count; ++i) {
    uint16_t bytes;
    memcpy(&bytes, from + 16 + 2 * i, sizeof bytes);
    tiles.rowBytes[i] = bytes;
    tiles.rows[i] = from[48 + i];
    if (bytes > Tiles::mostBytes || tiles.rows[i] > Tiles::mostRows)
      return "a tile is configured larger than 16 rows of 64 bytes";
    if ((bytes == 0) != (tiles.rows[i] == 0))
      return "a tile is configured with rows or with columns alone";
  }
  tiles.configured = true;
  return nullptr;
}

bool usable(size_t tile) { return tiles.configured && tile < Tiles::count && tiles.rows[tile] > 0; }

const char *moveTile(const Instruction &i, bool store) {
  const size_t tile = size_t(i.reg);
  if (!i.sib)
    return "a tile's address has no index";
  if (!usable(tile))
    return "a tile is not configured";
  if (!store)
    memset(tiles.data[tile], 0, sizeof tiles.data[tile]);
  for (size_t row = 0; row < tiles.rows[tile]; ++row) {
    void *at = reinterpret_cast<void *>(i.address + row * i.index);
    if (store)
      memcpy(at, tiles.data[tile][row], tiles.rowBytes[tile]);
    else
      memcpy(tiles.data[tile][row], at, tiles.rowBytes[tile]);
  }
  return nullptr;
}

float widened(const uint8_t *bf16) {
  const uint32_t bits = uint32_t(bf16[0]) << 16 | uint32_t(bf16[1]) << 24;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// A row of activations with a column of the tile w, of so many units of 4 bytes: sum plus the
// products of two bf16 each.
float dotFloats(float sum, const uint8_t *x, size_t w, size_t column, size_t units) {
  float even = 0, odd = 0;
  for (size_t k = 0; k < units; ++k) {
    const uint8_t *pair = &tiles.data[w][k][column * 4];
    even = fmaFlushed(widened(x + k * 4), widened(pair), even);
    odd = fmaFlushed(widened(x + k * 4 + 2), widened(pair + 2), odd);
  }
  return flushed(flushed(sum) + flushed(even + odd));
}

// sum plus the products of four signed and unsigned bytes each.
uint32_t dotCodes(uint32_t sum, const uint8_t *x, size_t w, size_t column, size_t units) {
  for (size_t k = 0; k < units; ++k)
    for (size_t c = 0; c < 4; ++c)
      sum += uint32_t(int8_t(x[k * 4 + c]) * int32_t(tiles.data[w][k][column * 4 + c]));
  return sum;
}

template <class T>
const char *multiplyTiles(const Instruction &i,
                          T (*dot)(T, const uint8_t *, size_t, size_t, size_t)) {
  const size_t sums = size_t(i.reg), a = size_t(i.other), b = size_t(i.source);
  if (i.other < 0 || !usable(sums) || !usable(a) || !usable(b))
    return "a tile is not configured";
  if (a == b || a == sums || b == sums)
    return "a product of tiles has one of them twice";
  if (tiles.rows[sums] != tiles.rows[a] || tiles.rowBytes[sums] != tiles.rowBytes[b] ||
      tiles.rowBytes[a] != tiles.rows[b] * 4 || tiles.rowBytes[b] % 4 != 0)
    return "tiles do not fit each other";
  for (size_t row = 0; row < tiles.rows[sums]; ++row)
    for (size_t column = 0; column < tiles.rowBytes[sums] / 4; ++column) {
      uint8_t *at = &tiles.data[sums][row][column * 4];
      T sum;
      memcpy(&sum, at, sizeof sum);
      sum = dot(sum, tiles.data[a][row], b, column, tiles.rows[b]);
      memcpy(at, &sum, sizeof sum);
    }
  return nullptr;
}

//===--- All of them -------------------------------------------------------------------------------

// False where it is none that this knows.
bool carryOut(Registers &registers) {
  const std::optional<Instruction> i = Instruction::decode(registers);
  if (!i || (i->wide && i->opcode != 0x50))
    return false;
  auto is = [&](uint8_t opcode, Instruction::Prefix prefix, bool memory) {
    return i->opcode == opcode && i->prefix == prefix && (i->other < 0) == memory;
  };
  const char *fault = nullptr;
  if (i->opcode == 0x50 && i->prefix == Instruction::P66)
    dotUnsignedSigned(registers, *i);
  else if (is(0x49, Instruction::None, true) && i->reg == 0)
    fault = configureTiles(reinterpret_cast<const uint8_t *>(i->address + i->index));
  else if (is(0x49, Instruction::None, false) && i->reg == 0 && i->other == 0)
    tiles.configured = false;
  else if (is(0x49, Instruction::PF2, false) && i->other == 0) {
    if (usable(size_t(i->reg)))
      memset(tiles.data[i->reg], 0, sizeof tiles.data[i->reg]);
    else
      fault = "a tile is not configured";
  } else if (is(0x4b, Instruction::PF2, true))
    fault = moveTile(*i, /*store=*/false);
  else if (is(0x4b, Instruction::PF3, true))
    fault = moveTile(*i, /*store=*/true);
  else if (is(0x5c, Instruction::PF3, false))
    fault = multiplyTiles(*i, dotFloats);
  else if (is(0x5e, Instruction::PF3, false))
    fault = multiplyTiles(*i, dotCodes);
  else
    return false;
  if (fault)
    die(fault, registers);
  registers.goOn(i->next);
  return true;
}

void onTrap(int, siginfo_t *, void *context) {
  Registers registers(*static_cast<ucontext_t *>(context));
  if (!registers.haveVectors())
    die("the system saves no vector registers at a trap; it came at", registers);
  if (!carryOut(registers))
    die("neither this processor nor its emulation has the instruction", registers);
  // Others often follow, and a trap takes long.
  while (carryOut(registers))
    ;
}

} // namespace

bool EmulatedInstructions::holdTiles() { return tiles.configured; }

std::string EmulatedInstructions::missing() {
  return upperHalves() ? "" : "this processor has no vector registers of 256 bits";
}

EmulatedInstructions::EmulatedInstructions() {
  struct sigaction action = {};
  action.sa_sigaction = onTrap;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, &before);
}

#else

bool EmulatedInstructions::holdTiles() { return false; }

std::string EmulatedInstructions::missing() {
  return "instructions are emulated on x86-64 under Linux alone";
}

EmulatedInstructions::EmulatedInstructions() { sigaction(SIGILL, nullptr, &before); }

#endif

EmulatedInstructions::~EmulatedInstructions() { sigaction(SIGILL, &before, nullptr); }

} // namespace moe::codegen
