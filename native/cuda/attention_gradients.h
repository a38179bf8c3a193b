// What the kernels of attention's gradient share at both levels: the plan of a packed batch, gradients of scores, and which
// query rows see a tile of keys. Included by kernel files only.
#pragma once
#include "attention.h"

namespace ws::cuda {

/// A segment with its end, and the next one with the same root (the segment that its prefix begins), or -1.
struct Planned {
  Segment segment;
  int end, next;
};

/// What is known of a packed batch: on the device, one block of scratch.
struct Plan {
  int32_t* good;        // one number; zero: the visibility breaks a rule
  int32_t* segment_of;  // per token
  Planned* segments;
};

struct AttentionGradients {
  const void *dout, *out, *q, *k, *v;
  const float* lse;
  float* delta;
  const int32_t* visibility;
  void *dq, *dk, *dv;
  Heads h;
  int32_t members, parts;  // of a group's heads in a tile of queries
  Plan plan;
};

template <bool capped, int n, class F>
WS_DEVICE void differentiate_scores(const Heads& h, float (&s)[n][4], float (&ds)[n][4], F of) {
  WS_UNROLL
  for (int j = 0; j < n; ++j) {
    WS_UNROLL
    for (int e = 0; e < 4; ++e) {
      const Two row = of(j, e);
      float scaled = s[j][e] * h.inner, slope = 1.0f;
      if constexpr (capped) {
        const float t = hyperbolic_tangent(scaled);
        scaled = h.outer * t;
        slope = 1.0f - t * t;
      }
      s[j][e] = fast_exp2(scaled - row.at[0]);
      ds[j][e] = s[j][e] * (ds[j][e] - row.at[1]) * slope;
    }
  }
}

/// Products s become probabilities p = exp(score - lse), products ds = do v become gradients of the scaled products,
/// p (ds - delta) [times the cap's slope]; both 0 where nothing is seen. of(j, e): a number's lse log2 e and delta.
template <int n, class F>
WS_DEVICE void differentiate(const Heads& h, float (&s)[n][4], float (&ds)[n][4], bool mixed, const Seen& seen, F of) {
  if (h.outer > 0) differentiate_scores<true>(h, s, ds, of);
  else differentiate_scores<false>(h, s, ds, of);
  if (!mixed) return;
  WS_UNROLL
  for (int j = 0; j < n; ++j) {
    WS_UNROLL
    for (int e = 0; e < 4; ++e)
      if (!seen.sees(e / 2, 8 * j + lane() % 4 * 2 + e % 2)) s[j][e] = ds[j][e] = 0.0f;
  }
}

/// Tokens [first, end) whose keys a tile has.
struct KeyTile {
  int first, end, kv_head;
};

/// Query rows of one segment that meet a tile's keys: all of the segment's, and which of them meet any of the keys.
struct QuerySpan {
  QueryRows q;
  int begin, end;
};

/// The rows of `own` that see tokens [first, end) of its own or of its prefix.
WS_DEVICE QuerySpan span_of(const Heads& h, const Planned& own, const KeyTile& tile, bool shared_keys) {
  const Segment& s = own.segment;
  const int length = own.end - s.start, last = (shared_keys ? at_most(tile.end, s.p1) : tile.end) - 1;
  // Positions of the first and last key, counted from the segment's first token; those of a prefix are negative.
  const int from = shared_keys ? tile.first - s.p0 - s.prefix() : tile.first - s.start;
  const int to = shared_keys ? last - s.p0 - s.prefix() : last - s.start;
  const int window = h.window > 0 ? at_most(h.window, h.tokens) : h.tokens;
  const int begin = at_least(0, from), end = at_most(length, to + window);
  return {{s.start, tile.kv_head * h.group, h.group, length * h.group}, begin * h.group, end * h.group};
}

/// Query rows that see this lane's two keys, those at `first` + lane / 4 and 8 behind it.
WS_DEVICE Seen rows_that_see(const Heads& h, const Planned& own, const KeyTile& tile, bool shared_keys, int first) {
  const Segment& s = own.segment;
  const int length = own.end - s.start, window = h.window > 0 ? at_most(h.window, h.tokens) : h.tokens;
  Seen seen = {};
  for (int half = 0; half < 2; ++half) {
    const int key = first + lane() / 4 + 8 * half;
    if (key >= (shared_keys ? at_most(tile.end, s.p1) : tile.end)) continue;
    const int at = shared_keys ? key - s.p1 : key - s.start;
    seen.low[half] = at_least(0, at) * h.group;
    seen.high[half] = at_least(0, at_most(length, at + window)) * h.group;
  }
  return seen;
}

/// f(segment, whether the keys are its prefix) for the segments whose queries see a tile's keys, in order. f is large, so
/// there is one call of it.
template <class F>
WS_DEVICE void each_viewer(const AttentionGradients& a, int index, const KeyTile& tile, F f) {
  const bool root = a.plan.segments[index].segment.prefix() == 0;
  WS_UNROLL_BY(1)
  for (int i = index; i >= 0; i = root ? a.plan.segments[i].next : -1) {
    const Planned& viewer = a.plan.segments[i];
    if (i == index || tile.first < viewer.segment.p1) f(viewer, i != index);
  }
}

}  // namespace ws::cuda
