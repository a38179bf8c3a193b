// Packing for the matrix product: lines of a matrix (rows of A, columns of B) side by side, step after step, in units.
// Included by gemm.cpp only. Lines that a strip has too many are copies of the last one.
#pragma once
#include "gemm_step.h"

namespace ws::WS_NS {
namespace {

int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }
int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/// `count` lines of a matrix beside one another: element k of line i is data[i * line_stride + k * stride].
struct Lines {
  const void* data;
  int64_t line_stride, stride;
  int64_t count;  // lines that exist from here on, at least 1; more than are wanted is fine
};

/// What is packed: `lines` lines in strips of `strip` (the last one of width round_up(rest, quantum)), `elements` of
/// each, in steps. Strip s starts at to + s * strip * room and holds to[step * width + line]; steps up to room that the
/// elements do not fill are zero.
struct Packing {
  int64_t lines, strip, quantum, elements;
  int64_t room;  // steps of a strip
  float* to;
  bool left;  // operand A: see gemm_step.h for what an odd length is filled with
  int64_t width(int64_t first) const { return round_up(smaller(strip, lines - first), quantum); }
};

template <class S>
int64_t steps_of(int64_t elements) {
  return (elements + S::per - 1) / S::per;
}

/// W lines by W words of four bytes, step by step: turned in registers, so that lanes are lines.
template <class S>
struct Turn {
  static constexpr int steps = W;  // of S
  V word[W];
  V step(int j) const { return word[j]; }
};
/// Two elements of bf16 a word, of which each becomes a step: half of the shuffles that turning floats would take.
template <class U>
struct Turn<Singles<bf16, U>> {
  static constexpr int steps = 2 * W;
  V word[W];
  V step(int j) const { return j % 2 == 0 ? low_halves(word[j / 2]) : high_halves(word[j / 2]); }
};

/// Elements of a line in one turn.
template <class S>
constexpr int turn_elements = 4 * W / static_cast<int>(sizeof(typename S::Element));

/// A turn of `count` lines, of which line i goes on at at(i) with `left` elements; what does not exist is zero.
template <class S, class At>
[[gnu::always_inline]] inline Turn<S> read_turn(At at, int count, int64_t left) {
  Turn<S> turn;
  if (count == W && left >= turn_elements<S>) {
    load_transposed([&](int i) { return reinterpret_cast<const float*>(at(i)); }, turn.word);
  } else {
    float lines[W][W] = {};
    const size_t bytes = static_cast<size_t>(smaller(left, turn_elements<S>)) * sizeof(typename S::Element);
    for (int i = 0; i < count; ++i) std::memcpy(lines[i], at(i), bytes);
    load_transposed([&](int i) { return lines[i]; }, turn.word);
  }
  if constexpr (S::per == 2) {
    WS_EACH(W) turn.word[i] = S::turned(turn.word[i]);
  }
  return turn;
}

/// Elements of a line are contiguous: they are turned.
template <class S>
void pack_transposed(const Lines& from, const Packing& p, int64_t first) {
  constexpr int most = Turn<S>::steps;
  const auto* data = static_cast<const typename S::Element*>(from.data);
  const int64_t width = p.width(first), steps = steps_of<S>(p.elements);
  for (int64_t at = 0; at < width; at += W) {
    const typename S::Element* line[W];
    for (int i = 0; i < W; ++i) line[i] = data + smaller(first + at + i, from.count - 1) * from.line_stride;
    for (int64_t step = 0; step < steps; step += most) {
      const int64_t k = step * S::per;
      const int n = static_cast<int>(smaller(most, steps - step));
      const Turn<S> turn = read_turn<S>([&](int i) { return line[i] + k; }, W, p.elements - k);
      float* out = p.to + first * p.room + step * width + at;
      if (n == most) {
        WS_UNROLL
        for (int j = 0; j < most; ++j) store(out + j * width, turn.step(j));
      } else {
        for (int j = 0; j < n; ++j) store(out + j * width, turn.step(j));
      }
    }
  }
}

/// Lines are contiguous: vectors of one strip are copied, steps [begin, end). A whole vector may reach into the next
/// steps, which are written later, but not past the last one: the next strip is there already.
template <class S>
void pack_copied(const Lines& from, const Packing& p, int64_t first, int64_t begin, int64_t end) {
  const int64_t steps = steps_of<S>(p.elements), stride = from.stride;
  const int64_t width = p.width(first), whole = larger(begin, smaller(end, steps - larger(1, (W - 1) / width)));
  for (int64_t at = 0; at < width; at += W) {
    const auto* in = static_cast<const typename S::Element*>(from.data) + first + at;
    float* out = p.to + first * p.room + at;
    const int n = static_cast<int>(smaller(W, from.count - first - at));
    if (n == W) {
      for (int64_t k = begin; k < whole; ++k) store(out + k * width, S::across(in + k * S::per * stride, stride, true));
    } else {
      for (int64_t k = begin; k < whole; ++k) {
        store(out + k * width, S::across(in + k * S::per * stride, stride, true, n));
      }
    }
    for (int64_t k = whole; k < end; ++k) {
      const V rest = S::across(in + k * S::per * stride, stride, (k + 1) * S::per <= p.elements, n);
      store_n(out + k * width, rest, static_cast<int>(smaller(W, width - at)));
    }
  }
}

/// Steps that a strip takes before the next strip has its turn: lines of memory are then written whole.
constexpr int run = 8;

/// The run that begins at `begin`, of all strips whose vectors exist and that have further steps for whole vectors to reach
/// into. Gives how many lines those are.
template <class S, int N>
int64_t copy_runs(const Lines& from, const Packing& p, int64_t begin) {
  const int64_t strips = smaller(p.lines, from.count - N * W + p.strip) / p.strip, stride = from.stride, width = p.strip;
  const auto* in = static_cast<const typename S::Element*>(from.data) + begin * S::per * stride;
  float* out = p.to + begin * width;
  for (int64_t i = 0; i < strips; ++i, in += width, out += width * p.room) {
    WS_UNROLL
    for (int k = 0; k < run; ++k) {
      for (int v = 0; v < N; ++v) store(out + k * width + v * W, S::across(in + k * S::per * stride + v * W, stride, true));
    }
  }
  return larger(0, strips) * width;
}

template <class S>
int64_t copy_runs(const Lines& from, const Packing& p, int64_t begin) {
  if (p.strip <= W) return copy_runs<S, 1>(from, p, begin);
  return p.strip <= 2 * W ? copy_runs<S, 2>(from, p, begin) : 0;
}

template <class S>
void pack_any(const Lines& from, const Packing& p, int64_t first) {
  const auto* data = static_cast<const typename S::Element*>(from.data);
  const int64_t width = p.width(first), steps = steps_of<S>(p.elements);
  float* out = p.to + first * p.room;
  for (int64_t step = 0; step < steps; ++step) {
    for (int64_t i = 0; i < width; ++i, ++out) {
      const int64_t line = smaller(first + i, from.count - 1), k = step * S::per;
      const auto* at = data + line * from.line_stride + k * from.stride;
      const auto unit = S::unit(at, from.stride, k + S::per <= p.elements);
      std::memcpy(out, &unit, sizeof unit);
    }
  }
}

/// Makes the elements that the last step of A lacks -0.
template <class S>
void fill_last(const Packing& p) {
  const int64_t steps = steps_of<S>(p.elements);
  for (int64_t first = 0; first < p.lines; first += p.strip) {
    const int64_t width = p.width(first);
    float* last = p.to + first * p.room + (steps - 1) * width;
    for (int64_t i = 0; i < width; ++i) {
      uint32_t bits;
      std::memcpy(&bits, last + i, 4);
      bits |= 0x8000u;
      std::memcpy(last + i, &bits, 4);
    }
  }
}

/// Asks for elements [begin, end) of lines that lie side by side: the processor does not foresee such strides.
template <class S>
[[gnu::always_inline]] inline void prefetch(const Lines& from, const Packing& p, int64_t begin, int64_t end) {
  constexpr int64_t line = 64 / sizeof(typename S::Element);
  for (int64_t k = begin; k < smaller(end, p.elements); ++k) {
    const auto* row = static_cast<const typename S::Element*>(from.data) + k * from.stride;
    for (int64_t i = 0; i < p.lines; i += line) __builtin_prefetch(row + i);
  }
}

/// Packs. Writes up to W units past the end.
template <class S>
void pack(const Lines& from, const Packing& p) {
  const int64_t steps = steps_of<S>(p.elements);
  if (from.stride == 1) {
    for (int64_t first = 0; first < p.lines; first += p.strip) pack_transposed<S>(from, p, first);
  } else if (from.line_stride == 1) {
    // A few steps of all strips at a time: memory is read along its rows.
    const int64_t whole = steps - larger(1, (W - 1) / p.strip);
    for (int64_t k = 0; k < steps; k += run) {
      prefetch<S>(from, p, (k + run) * S::per, (k + 2 * run) * S::per);
      for (int64_t first = k + run <= whole ? copy_runs<S>(from, p, k) : 0; first < p.lines; first += p.strip) {
        pack_copied<S>(from, p, first, k, smaller(k + run, steps));
      }
    }
  } else {
    for (int64_t first = 0; first < p.lines; first += p.strip) pack_any<S>(from, p, first);
  }
  if (S::per > 1 && p.left && p.elements % S::per != 0) fill_last<S>(p);
  if (steps == p.room) return;
  for (int64_t first = 0; first < p.lines; first += p.strip) {
    const int64_t width = p.width(first);
    std::memset(p.to + first * p.room + steps * width, 0, static_cast<size_t>(4 * (p.room - steps) * width));
  }
}

using Pack = void (*)(const Lines& from, const Packing& p);

}  // namespace
}  // namespace ws::WS_NS
