// Tiles of logits on the GPU, in the registers of the threads that made them: epilogues of h w^T (product.h). Forward turns
// a row's logits into a few sums for each group of 128 words, backward into gradients. Words are summed in one order
// whatever kernel made them: chains over the eight logits that a thread has of a strip, the four strips of a group by
// twos, then the four lanes of a quad by twos. Included by head.cu only.
#pragma once
#include "gemm_start.h"
#include "head_rows.h"

namespace ws::cuda {

/// e^x for x <= 0 inside of sums: an error of 2^-24 |x| more than exponential(), for a quarter of the instructions.
WS_DEVICE float fast_exponential(float x) { return fast_exp2(x * 1.44269504f); }

WS_DEVICE float quad_sum(float v) {
  v += shuffle_xor(v, 1);
  return v + shuffle_xor(v, 2);
}
WS_DEVICE float quad_max(float v) {
  v = larger(v, shuffle_xor(v, 1));
  return larger(v, shuffle_xor(v, 2));
}

template <class S, class F>
WS_DEVICE void each_logit(S& z, F f) {
  each_pair(z, [&](int row, int column, float& x, float& y) { f(row, column, x), f(row, column + 1, y); });
}

/// Sums become logits under the cap.
template <class S>
WS_DEVICE void cap_logits(S& z, float softcap) {
  if (softcap > 0) each_logit(z, [&](int, int, float& x) { x = capped(x, softcap); });
}

// Forward ---------------------------------------------------------------------------------------------------------------

/// Row r of the product is row r of what these point to. Groups are counted in the vocabulary.
struct FoldTail {
  const int32_t* targets;       // null: none
  float* targets_logits;
  Partial *partials, *plain;    // [rows, groups], either may be null: of tempered logits, and of those at temperature 1
  PartialTerms* terms;
  float* logits;                // [rows, stride]: capped, not tempered
  int64_t stride, word, groups; // word: the first one of the product
  float softcap, inverse_temperature;
};

/// A thread's sums over a group: of exp(z - top), and for terms of exp(z - top) (z - top), exp(z - top)^2, z - top.
template <bool terms>
struct FoldSums {
  static constexpr int count = terms ? 4 : 1;
  float of[count] = {};

  WS_DEVICE FoldSums operator+(const FoldSums& other) const {
    FoldSums sum;
    WS_UNROLL
    for (int i = 0; i < count; ++i) sum.of[i] = of[i] + other.of[i];
    return sum;
  }
};

template <bool terms, class S>
WS_DEVICE FoldSums<terms> strip_parts(S& z, int i, int s, float top, int words) {
  const float shift = top == -infinity ? 0.0f : top;
  FoldSums<terms> p;
  WS_UNROLL
  for (int k = 0; k < strip_sums; ++k) {
    const float x = z.at(i, s, k) - shift, e = fast_exponential(x);
    p.of[0] += e;
    if constexpr (terms) {
      p.of[1] = fused(e, larger(-1e30f, x), p.of[1]);  // 0 (-inf) of words that cannot occur must not be NaN
      p.of[2] = fused(e, e, p.of[2]);
      if (S::column(s, k) < words) p.of[3] += x;
    }
  }
  return p;
}

template <class S>
WS_DEVICE float strip_top(S& z, int i, int s) {
  float top = z.at(i, s, 0);
  WS_UNROLL
  for (int k = 1; k < strip_sums; ++k) top = larger(top, z.at(i, s, k));
  return top;
}

template <bool terms>
WS_DEVICE void store_parts(const FoldTail& a, Partial* partials, int64_t row, int64_t group, float top,
                           const FoldSums<terms>& p) {
  const int64_t to = row * a.groups + group;
  partials[to] = {top, p.of[0]};
  if constexpr (terms) a.terms[to] = {p.of[1], p.of[2], p.of[3]};
}

/// Four warps have a strip each of a row's group: they meet in shared memory, and a thread ends a row.
template <bool terms>
WS_DEVICE void fold_groups(TileSums& z, const FoldTail& a, Partial* partials, const Corner& at, int words) {
  constexpr int strips = 4, row_parts = 4 * strips + 1;  // one more: rows of a warp lie in different banks
  float* const tops = reinterpret_cast<float*>(shared());  // [row][strip]
  FoldSums<terms>* const parts = reinterpret_cast<FoldSums<terms>*>(tops + tile * strips);  // [row][lane of the quad][strip]
  const int strip = warp() % 4, in_quad = lane() % 4;
  barrier();  // shared memory is free
  WS_UNROLL
  for (int i = 0; i < TileSums::rows; ++i) {
    const float top = quad_max(strip_top(z, i, 0));
    if (in_quad == 0) tops[z.row(i) * strips + strip] = top;
  }
  barrier();
  const auto top_of = [&](int row) {
    const float* t = tops + row * strips;
    return larger(larger(t[0], t[1]), larger(t[2], t[3]));
  };
  WS_UNROLL
  for (int i = 0; i < TileSums::rows; ++i)
    parts[z.row(i) * row_parts + in_quad * strips + strip] = strip_parts<terms>(z, i, 0, top_of(z.row(i)), words);
  barrier();
  const int row = thread();
  if (row >= tile || at.top + row >= at.rows) return;
  const auto lane_parts = [&](int of) {
    const FoldSums<terms>* p = parts + row * row_parts + of * strips;
    return (p[0] + p[1]) + (p[2] + p[3]);
  };
  store_parts(a, partials, at.top + row, (a.word + at.left) / group_words, top_of(row),
              (lane_parts(0) + lane_parts(1)) + (lane_parts(2) + lane_parts(3)));
}

#if WS_HOPPER
/// A quad has all of its rows.
template <bool terms, int width>
WS_DEVICE void fold_groups(GroupSums<width>& z, const FoldTail& a, Partial* partials, const Corner& at, int words) {
  WS_UNROLL
  for (int s = 0; s < GroupSums<width>::strips; s += 4) {
    WS_UNROLL
    for (int i = 0; i < GroupSums<width>::rows; ++i) {
      const float top = quad_max(larger(larger(strip_top(z, i, s), strip_top(z, i, s + 1)),
                                        larger(strip_top(z, i, s + 2), strip_top(z, i, s + 3))));
      const auto parts = [&](int of) { return strip_parts<terms>(z, i, s + of, top, words); };
      FoldSums<terms> p = (parts(0) + parts(1)) + (parts(2) + parts(3));
      WS_UNROLL
      for (int n = 0; n < FoldSums<terms>::count; ++n) p.of[n] = quad_sum(p.of[n]);
      const int64_t row = at.top + z.row(i), group = (a.word + at.left) / group_words + s / 4;
      if (lane() % 4 == 0 && row < at.rows && s * strip_columns < words)
        store_parts(a, partials, row, group, top, p);
    }
  }
}
#endif

/// The logits of targets inside the tile.
template <class S>
WS_DEVICE void pick_targets(S& z, const FoldTail& a, const Corner& at) {
  WS_UNROLL
  for (int i = 0; i < S::rows; ++i) {
    const int64_t row = at.top + S::row(i);
    const int64_t place = row < at.rows ? a.targets[row] - (a.word + at.left) : -1;
    if (place < 0 || place >= S::columns) continue;
    WS_UNROLL
    for (int s = 0; s < S::strips; ++s) {
      WS_UNROLL
      for (int k = 0; k < strip_sums; ++k)
        if (S::column(s, k) == place) a.targets_logits[row] = z.at(i, s, k);
    }
  }
}

/// What a row's results need of its words; with `kept`, the logits too.
template <bool terms, bool kept>
struct FoldLogits {
  using Tail = FoldTail;

  template <class S>
  static WS_DEVICE void begin(S&, const FoldTail&, const Corner&) {}

  template <class, class S>
  static WS_DEVICE void end(S& z, const FoldTail& a, const Corner& at) {
    const int words = static_cast<int>(at.columns - at.left < S::columns ? at.columns - at.left : S::columns);
    cap_logits(z, a.softcap);
    if constexpr (kept) store_sums(a.logits, a.stride, at, z);
    if (words < S::columns)
      each_logit(z, [&](int, int column, float& x) {
        if (column >= words) x = -infinity;
      });
    if constexpr (kept)
      if (a.plain != nullptr) fold_groups<terms>(z, a, a.plain, at, words);
    if (kept && a.partials == nullptr) return;
    if (a.inverse_temperature != 1.0f) each_logit(z, [&](int, int, float& x) { x *= a.inverse_temperature; });
    if (a.targets != nullptr) pick_targets(z, a, at);
    fold_groups<terms>(z, a, a.partials, at, words);
  }
};

// Backward --------------------------------------------------------------------------------------------------------------

/// Row r of the product is row r of what these point to.
struct GradientTail {
  void* dz;  // [rows, stride] of the type of the products
  const int32_t* targets;
  const float *dlogps, *dentropy, *dmean, *entropy, *lse;
  int64_t stride, word;
  float softcap, inverse_temperature, share;  // share: 1 / vocabulary
};

/// Gradients of a row's results by its logits, rounded once to the type of the products; exactly 0 where all weights are 0.
template <bool terms>
struct LogitGradients {
  using Tail = GradientTail;

  template <class S>
  static WS_DEVICE void begin(S&, const GradientTail&, const Corner&) {}

  template <bool cap, class S>
  static WS_DEVICE void gradients_of_row(S& z, int i, const GradientTail& a, const Corner& at) {
    const int64_t row = at.top + S::row(i), place = a.targets[row] - (a.word + at.left);
    const float by_logp = a.dlogps[row] * a.inverse_temperature, lse = a.lse[row], inverse_cap = 1.0f / a.softcap;
    float by_entropy = 0, by_mean = 0, entropy = 0;
    if constexpr (terms) {
      by_entropy = a.dentropy[row] * a.inverse_temperature, by_mean = a.dmean[row] * a.inverse_temperature;
      entropy = a.entropy[row];
    }
    const bool idle = by_logp == 0.0f && by_entropy == 0.0f && by_mean == 0.0f;
    WS_UNROLL
    for (int s = 0; s < S::strips; ++s) {
      WS_UNROLL
      for (int k = 0; k < strip_sums; ++k) {
        float& x = z.at(i, s, k);
        const float log_p = x * a.inverse_temperature - lse, p = fast_exponential(log_p), t = x * inverse_cap;
        float dz = fused(-by_logp, p, S::column(s, k) == place ? by_logp : 0.0f);
        if constexpr (terms) dz = fused(-by_entropy, p * (log_p + entropy), fused(by_mean, a.share - p, dz));
        if constexpr (cap) dz *= fused(-t, t, 1.0f);
        x = idle ? 0.0f : dz;
      }
    }
  }

  template <class T, class S>
  static WS_DEVICE void end(S& z, const GradientTail& a, const Corner& at) {
    cap_logits(z, a.softcap);
    WS_UNROLL
    for (int i = 0; i < S::rows; ++i) {
      if (at.top + S::row(i) >= at.rows) continue;
      if (a.softcap > 0) gradients_of_row<true>(z, i, a, at);
      else gradients_of_row<false>(z, i, a, at);
    }
    store_sums(static_cast<T*>(a.dz), a.stride, at, z);
  }
};

}  // namespace ws::cuda
