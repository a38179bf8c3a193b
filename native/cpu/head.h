// What the head's kernels and the sampler share: how tokens x vocabulary is cut into tiles of logits, and the running
// log-sum-exp of a row. The sampler's log-probs have the bits of the trainer's because both come from here.
// Included by kernel files only; lives in their namespace.
//
// The order of arithmetic: a logit is one chain over C (gemm.h); a row is folded 512 logits at a time, from the first,
// with a fixed tree inside; nothing depends on the other rows or on how the work was cut.
#pragma once
#include <cmath>

#include "gemm.h"
#include "loops.h"
#include "softmax.h"

namespace ws::WS_NS {

/// Logits that are folded into a row's statistics at a time. Part of the order of arithmetic.
constexpr int64_t fold_width = 512;

/// Sizes of a head and how it is cut: tiles of rows x columns logits, `stride` floats from row to row.
struct Head {
  int64_t tokens, channels, vocabulary;
  float softcap, inverse_temperature;
  int64_t rows, columns, stride;
  bool rounded;  // gradients of logits are bf16, each row in the first half of its room
};

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t lines_of(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static inline Status check_softcap(double softcap) {
  WS_CHECK(softcap >= 0 && __builtin_isfinite(softcap), config, "softcap: expected 0 (none) or more, got %g", softcap);
  return {};
}

/// h [N,C] and w [V,C].
static inline Status check_head(const View& h, const View& w, const char* hidden, const char* weight) {
  WS_CHECK(h.rank == 2, shape, "%s: expected [tokens, channels], got %s", hidden, shape_text(h).text);
  WS_CHECK(w.rank == 2, shape, "%s: expected [vocabulary, channels], got %s", weight, shape_text(w).text);
  WS_CHECK(w.dims[1] == h.dims[1], shape, "%s has %lld channels, but %s has %lld", weight,
           static_cast<long long>(w.dims[1]), hidden, static_cast<long long>(h.dims[1]));
  WS_CHECK(w.dims[0] < (int64_t{1} << 31), shape, "%s: the vocabulary must have fewer than 2^31 tokens", weight);
  return {};
}

/// Logits of `rows` tokens from `row` on and n words of the vocabulary from `word` on: z = h w^T, not yet transformed.
struct LogitTile {
  int64_t row, rows, word, words;
  float* z;
  int64_t stride;
};

static inline void raw_logits(Runtime& rt, const View& h, const View& w, const LogitTile& t, void* scratch) {
  const int64_t channels = h.dims[1];
  const Matrix a = {h.as<char>() + t.row * channels * element_bytes(h.dtype), h.dtype, channels, 1};
  const Matrix b = {w.as<char>() + t.word * channels * element_bytes(w.dtype), w.dtype, 1, channels};
  gemm(rt, {t.rows, t.words, channels}, a, b, {t.z, DType::f32, t.stride}, false, scratch);
}

/// z = softcap(x) / temperature for n logits, as Transformers: the cap belongs to the model, the temperature to whoever
/// asks. The one place that says in which order they apply.
static inline void transform_logits(const float* x, int64_t n, float inverse_temperature, float softcap, float* z) {
  const V factor = set1(inverse_temperature), cap = set1(softcap), inverse = set1(1.0f / softcap);
  for_vectors(0, n, [&](int64_t i, auto lanes) {
    const V y = load(x + i, lanes);
    store(z + i, mul(softcap > 0 ? soft_cap(y, cap, inverse) : y, factor), lanes);
  });
}

/// Running softmax statistics of a row: sum of exp(z - top), and the target's logit once it was seen.
struct RowStatistics {
  double sum;
  float top, target;
};

static inline RowStatistics empty_row() { return {0.0, -__builtin_inff(), 0.0f}; }

/// Last lanes of a row: the missing ones are -inf.
static inline V load_last(const float* z, int n) { return in_range(load_n(z, n), set1(-__builtin_inff()), 0, 0, n); }

static inline float top_of(const float* z, int64_t n) {
  V a = set1(-__builtin_inff()), b = a;
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    a = max(load(z + i), a);
    b = max(load(z + i + W), b);
  }
  if (i + W <= n) {
    a = max(load(z + i), a);
    i += W;
  }
  if (i < n) b = max(load_last(z + i, static_cast<int>(n - i)), b);
  return max_lanes(max(a, b));
}

/// Sum of exp(z - top), z <= top: vectors in turn to two accumulators, then halving.
static inline float sum_of(const float* z, int64_t n, float top) {
  const V t = set1(top);
  V a = zero(), b = zero();
  int64_t at = 0;
  for (; at + 4 * W <= n; at += 4 * W) {
    V x[4];
    WS_EACH(4) x[i] = sub(load(z + at + i * W), t);
    exp_low(x);
    a = add(add(a, x[0]), x[2]);
    b = add(add(b, x[1]), x[3]);
  }
  for (; at + 2 * W <= n; at += 2 * W) {
    V x[2];
    WS_EACH(2) x[i] = sub(load(z + at + i * W), t);
    exp_low(x);
    a = add(a, x[0]);
    b = add(b, x[1]);
  }
  if (at + W <= n) {
    a = add(a, exp_low(sub(load(z + at), t)));
    at += W;
  }
  if (at < n) b = add(b, exp_low(sub(load_last(z + at, static_cast<int>(n - at)), t)));
  return sum_lanes(add(a, b));
}

/// Raises the maximum to that of n more logits. Gives what sums relative to the old one must be multiplied by.
static inline float raise(RowStatistics& s, const float* z, int64_t n) {
  const float top = top_of(z, n), now = s.top > top ? s.top : top;
  const float factor = s.top == now ? 1.0f : exp1(s.top - now);
  s.top = now;
  return factor;
}

/// What logits are taken relative to. Nothing but -inf (or NaN) so far: z - top would be NaN for -inf too.
static inline float shift_of(const RowStatistics& s) { return s.top == -__builtin_inff() ? 0.0f : s.top; }

/// Folds n <= fold_width logits in. Gives what earlier sums relative to the old maximum must be multiplied by.
static inline float fold(RowStatistics& s, const float* z, int64_t n) {
  const float factor = raise(s, z, n);
  s.sum = s.sum * static_cast<double>(factor) + static_cast<double>(sum_of(z, n, shift_of(s)));
  return factor;
}

/// Folds any number of logits of a row, of which `first` ones came before (a multiple of fold_width).
static inline void fold_all(RowStatistics& s, const float* z, int64_t n) {
  for (int64_t i = 0; i < n; i += fold_width) fold(s, z + i, smaller(fold_width, n - i));
}

/// log p of a logit. The maximum is taken from both sides first, so that a common offset of all logits costs nothing.
static inline float log_prob(const RowStatistics& s, float z) {
  return static_cast<float>((static_cast<double>(z) - static_cast<double>(s.top)) - std::log(s.sum));
}

static inline float log_sum(const RowStatistics& s) {
  return static_cast<float>(static_cast<double>(s.top) + std::log(s.sum));
}

}  // namespace ws::WS_NS
