// What sm_90a adds, as late as it may be: tiles arrive when nobody can go on, and with a random order at any moment and in
// any order; wgmma reads its operands between issue and wait, and the sums of the threads are NaN until then.
#include <algorithm>
#include <bit>
#include <cstring>

#include "machine.h"

namespace ws::cuda {
namespace emulator {
namespace {

GateState& state_of(Gate* gate) {
  const auto found = machine.gates.find(gate);
  if (found == machine.gates.end()) stop("a gate that is not open is used");
  if (!race::knows(found->second.opened)) stop("no barrier since open_gate() of a gate that is used");
  return found->second;
}

/// Ends the phase of a gate to which everything has come.
void turn(const Gate* gate, GateState& s) {
  if (s.missing > 0 || s.bytes != 0) return;
  s.parity ^= 1;
  race::learn_of(s.given, s.actor, s.tick);
  s.released = s.given;
  s.tick = race::next_tick();
  s.missing = s.expected;
  release(gate, 0, block_threads());
}

void come(Gate* gate, int64_t bytes) {
  GateState& s = state_of(gate);
  if (s.missing == 0) stop("more arrivals at a gate than its phase has");
  race::give(s.given);
  s.bytes += bytes;
  --s.missing;
  turn(gate, s);
}

/// Where byte `at` of an area with the 128-byte swizzle is; the address counts, not the place in a tile.
uint64_t swizzled(uint64_t at) { return at ^ (at >> 7 & 7) << 4; }

/// Zeros outside of the matrix; all bytes of the box count.
void land(const Flight& f) {
  const MatrixOfTiles m = std::bit_cast<MatrixOfTiles>(f.map);
  const uint64_t start = shared_address(f.to);
  for (int line = 0; line < box_lines; ++line)
    for (int element = 0; element < box_elements; ++element) {
      const int64_t x = f.x + element, y = f.y + line;
      const bool inside = x >= 0 && x < m.elements && y >= 0 && y < m.lines;
      uint16_t bits = 0;
      if (inside) std::memcpy(&bits, m.data + y * m.line_bytes + x * 2, 2);
      std::memcpy(machine.shared + swizzled(start + static_cast<uint64_t>(line * 128 + element * 2)), &bits, 2);
    }
  GateState& s = machine.gates.at(f.gate);
  s.bytes -= box_bytes;
  turn(f.gate, s);
}

/// Tells the race check of the lines that a tile reads.
void touch_source(const MatrixOfTiles& m, int x, int y, const GateState& s, const void* pc) {
  const int64_t left = std::max<int64_t>(0, x), right = std::min<int64_t>(m.elements, int64_t{x} + box_elements);
  for (int64_t line = std::max(0, y); line < std::min<int64_t>(m.lines, int64_t{y} + box_lines); ++line)
    if (left < right)
      race::touch_by(s.actor, s.tick, m.data + line * m.line_bytes + left * 2, static_cast<size_t>(right - left) * 2,
                     race::Kind::read, pc);
}

void land_at(size_t i) {
  const Flight flight = machine.flights[i];
  machine.flights.erase(machine.flights.begin() + static_cast<ptrdiff_t>(i));
  land(flight);
}

// wgmma -----------------------------------------------------------------------------------------------------------------

/// Lines of a panel, from its descriptor: element k of line `first + i` goes to to[i * line_stride + k * k_stride].
void gather(uint64_t panel, bool across, int first, int lines, float* to, int line_stride, int k_stride) {
  const auto field = [panel](int shift) { return (panel >> shift & 0x3fff) << 4; };
  const uint64_t start = field(0), lead = field(16), stride = field(32);
  const int rows = across ? 16 : lines, columns = across ? lines : 16;
  const int row_stride = across ? k_stride : line_stride, column_stride = across ? line_stride : k_stride;
  for (int row = 0; row < rows; ++row)
    for (int column = 0; column < columns; column += 8) {
      const auto r = static_cast<uint64_t>(across ? row : first + row), c = static_cast<uint64_t>(across ? first + column : column);
      const uint64_t at = start + r / 8 * stride + r % 8 * 128 + c / 64 * lead + c % 64 * 2;
      uint16_t piece[8] = {};
      if (at + 16 <= machine.launch->shared_bytes) std::memcpy(piece, machine.shared + swizzled(at), 16);
      else machine.fault = "wgmma reads beyond shared memory";
      for (int i = 0; i < 8; ++i)
        to[row * row_stride + (column + i) * column_stride] = as_float(static_cast<uint32_t>(piece[i]) << 16);
    }
}

/// A's rows [16][16] from the fragments of a warp, as in multiply16x8x16.
void unpack_fragments(const std::vector<uint32_t>& fragments, float* to) {
  for (size_t lane = 0; lane < 32; ++lane)
    for (size_t r = 0; r < 4; ++r)
      for (size_t half = 0; half < 2; ++half) {
        const uint32_t pair = fragments[lane * 4 + r];
        to[(lane / 4 + r % 2 * 8) * 16 + lane % 4 * 2 + r / 2 * 8 + half] =
            as_float(half != 0 ? pair & 0xffff0000u : pair << 16);
      }
}

/// Each element one sum of its old value and 16 products, rounded once, as mma is emulated.
void perform(Product& p, int warp) {
  if (p.done) return;
  p.done = true;
  const int columns = p.columns;
  float a[16 * 16], b[16 * 256];  // [row][k], [k][column]
  if (p.fragments.empty()) gather(p.a, p.a_across, warp % 4 * 16, 16, a, 16, 1);
  else unpack_fragments(p.fragments, a);
  gather(p.b, p.b_across, 0, columns, b, 1, columns);
  for (int row = 0; row < 16; ++row) {
    const auto held = [&](int column) -> float& {
      const int lane = row % 8 * 4 + column % 8 / 2, i = column / 8 * 4 + row / 8 * 2 + column % 2;
      return p.c->values[static_cast<size_t>(lane * (columns / 2) + i)];
    };
    double sums[256];
    for (int j = 0; j < columns; ++j) sums[j] = p.add ? held(j) : 0.0;
    for (int k = 0; k < 16; ++k) {
      const double left = a[row * 16 + k];
      for (int j = 0; j < columns; ++j) sums[j] += left * b[k * columns + j];
    }
    for (int j = 0; j < columns; ++j) held(j) = static_cast<float>(sums[j]);
  }
}

Products& own_products() { return machine.products[static_cast<size_t>(machine.current / 32)]; }

void perform_all(Products& products) {
  for (auto& group : products.groups)
    for (auto& p : group) perform(*p, machine.current / 32);
}

/// Tells the race check of the 16-byte pieces that a wgmma reads of lines [first, first + lines) of a panel.
void touch_panel(const Product& p, bool is_b, int first, int lines, const void* pc) {
  const uint64_t panel = is_b ? p.b : p.a;
  const bool across = is_b ? p.b_across : p.a_across;
  const auto field = [panel](int shift) { return (panel >> shift & 0x3fff) << 4; };
  const int actor = race::first_products + machine.current / 32;
  const int from = across ? 0 : first, to = across ? 16 : first + lines;
  const int left = across ? first : 0, right = across ? first + lines : 16;
  for (int row = from; row < to; ++row)
    for (int column = left; column < right; column += 8) {
      const auto r = static_cast<uint64_t>(row), c = static_cast<uint64_t>(column);
      const uint64_t at = field(0) + r / 8 * field(32) + r % 8 * 128 + c / 64 * field(16) + c % 64 * 2;
      if (at + 16 > machine.launch->shared_bytes) continue;
      race::touch_by(actor, p.tick, machine.shared + swizzled(at), 16, race::Kind::read, pc);
    }
}

struct Issue {
  const void* pc;
  float* c;
  const uint32_t* fragments;
  int columns;
  uint64_t a, b;
  bool a_across, b_across, add;
  int line;
};

/// The sums of the warp, taken from its threads unless a product that is under way has them.
std::shared_ptr<Held> hold(Products& products, void* const* slots) {
  const Issue& first = *static_cast<const Issue*>(slots[0]);
  std::vector<std::shared_ptr<Product>> all = products.open;
  for (const auto& group : products.groups) all.insert(all.end(), group.begin(), group.end());
  for (const auto& p : all)
    if (p->c->sums[0] == first.c) return p->c;
  auto held = std::make_shared<Held>();
  const int each = first.columns / 2;
  for (int lane = 0; lane < 32; ++lane) {
    float* sums = held->sums[lane] = static_cast<const Issue*>(slots[lane])->c;
    held->values.insert(held->values.end(), sums, sums + each);
    std::fill(sums, sums + each, as_float(0x7fffffff));
  }
  return held;
}

void issue(void* const* slots) {
  Products& products = own_products();
  const Issue& first = *static_cast<const Issue*>(slots[0]);
  auto p = std::make_shared<Product>();
  *p = {hold(products, slots), first.columns, first.a, first.b, {}, first.a_across, first.b_across, first.add, false, race::next_tick()};
  if (first.fragments != nullptr)
    for (int lane = 0; lane < 32; ++lane) {
      const uint32_t* f = static_cast<const Issue*>(slots[lane])->fragments;
      p->fragments.insert(p->fragments.end(), f, f + 4);
    }
  if (p->fragments.empty()) touch_panel(*p, false, 0, 64, first.pc);  // nobody promises who reads which rows
  touch_panel(*p, true, 0, p->columns, first.pc);
  products.issued = (products.issued * 31 + first.b) * 31 + static_cast<uint64_t>(first.line);
  products.open.push_back(std::move(p));
}

/// Gives sums back to the threads when no product under way has them.
void give_back(const Products& products, const std::shared_ptr<Held>& held) {
  for (const auto& group : products.groups)
    for (const auto& p : group)
      if (p->c == held) return;
  const size_t each = held->values.size() / 32;
  for (size_t lane = 0; lane < 32; ++lane)
    std::copy_n(held->values.data() + lane * each, each, held->sums[lane]);
}

void finish(Product& p) {
  const int warp = machine.current / 32;
  perform(p, warp);
  for (int lane = 0; lane < 32; ++lane) race::learn_of(32 * warp + lane, race::first_products + warp, p.tick);
}

}  // namespace

void reset_hopper() {
  machine.gates.clear();
  machine.flights.clear();
  for (Products& p : machine.products) p = {};
}

bool land_one() {
  const size_t count = machine.flights.size();
  if (count == 0) return false;
  const uint64_t seed = settings().seed;
  land_at(seed == 0 ? 0 : seed == 1 ? count - 1 : next_random() % count);
  return true;
}

std::string unfinished_work() {
  if (!machine.flights.empty()) return "ended before all of its tiles had arrived";
  for (size_t i = 0; i < machine.products.size(); ++i) {
    const Products& p = machine.products[i];
    if (!p.open.empty() || !p.groups.empty()) return "warp " + std::to_string(i) + " ended without a wait for its wgmma";
    if (p.issued == machine.products[i / 4 * 4].issued) continue;
    return "wgmma was not executed by all of warpgroup " + std::to_string(i / 4);
  }
  return {};
}

void group_multiply(float* c, int columns, const Left& a, uint64_t b, bool b_across, bool add, Site site) {
  for (const uint64_t panel : {a.panel, b})
    if ((panel != a.panel || a.fragments == nullptr) && panel >> 62 != 1)
      stop("a panel without the 128-byte swizzle at " + place(site));
  if (!own_products().fenced) stop("wgmma without group_fence() since the last wait at " + place(site));
  Issue slot = {WS_CALLER, c, a.fragments, columns, a.panel, b, a.across, b_across, add, site.line};
  meet(issue, &slot, site);
}

void group_wait(int left, Site site) {
  if (skips(site)) return;
  int slot = left;
  meet(
      [](void* const* slots) {
        Products& products = own_products();
        const auto stay = static_cast<size_t>(*static_cast<const int*>(slots[0]));
        while (products.groups.size() > stay) {
          const auto group = products.groups.front();
          for (const auto& p : group) finish(*p);
          products.groups.erase(products.groups.begin());
          for (const auto& p : group) give_back(products, p->c);
        }
        products.fenced = false;
      },
      &slot, site);
}

}  // namespace emulator

using namespace emulator;

uint32_t shared_address(const void* p) { return static_cast<uint32_t>(static_cast<const char*>(p) - machine.shared); }

void open_gate(Gate* gate, int arrivals) {
  const uint64_t at = shared_address(gate);
  if (at % 8 != 0 || at + 8 > machine.launch->shared_bytes) stop("a gate outside of shared memory");
  const int actor = race::first_gate + static_cast<int>(machine.gates.size());
  if (actor == race::first_products) stop("more gates than the emulator has");
  machine.gates[gate] = {arrivals, arrivals, 0, 0, actor, race::next_tick(), race::deed(), {}, {}};
}
void async_fence() { race::fence(); }
void show_gates() { race::fence(); }
void arrive(Gate* gate) { come(gate, 0); }
void expect(Gate* gate, int bytes) { come(gate, bytes); }

void wait(Gate* gate, int parity, Site site) {
  if (skips(site)) return;
  while (state_of(gate).parity == parity) wait_for(gate, site);
  race::learn(state_of(gate).released);
}

void load_tile(void* to, const TensorMap* map, int x, int y, Gate* gate) {
  const uint64_t at = shared_address(to);
  if (at % 1024 != 0 || at + box_bytes > machine.launch->shared_bytes) stop("a tile outside of shared memory");
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0) stop("a tensor map that is not 64-byte aligned");
  const GateState& s = state_of(gate);
  if (!race::fenced(s.opened)) stop("no show_gates() behind open_gate() of a gate that awaits tiles");
  race::touch_by(s.actor, s.tick, to, box_bytes, race::Kind::write, WS_CALLER);
  touch_source(std::bit_cast<MatrixOfTiles>(*map), x, y, s, WS_CALLER);
  machine.flights.push_back({*map, static_cast<char*>(to), x, y, gate});
  if (early()) land_one();
}

void group_fence(Site site) {
  meet([](void* const*) { own_products().fenced = true; }, nullptr, site);
}

void group_commit(Site site) {
  meet(
      [](void* const*) {
        Products& products = own_products();
        products.groups.push_back(std::move(products.open));
        products.open.clear();
        if (early()) perform_all(products);
      },
      nullptr, site);
}

}  // namespace ws::cuda
