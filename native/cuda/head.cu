// The fused language-model head on the GPU: log-probs of targets, statistics of the vocabulary, divergences from a prior,
// forward and backward. z = softcap(h w^T) / temperature. Where one head is enough logits stay in registers: the product's
// epilogue (head_tile.h) turns them into sums per row and 128 words, which a warp per row merges (head_rows.h), or into
// gradients, which go on as an operand of the next products. A divergence needs two logits at once and has tiles of at
// most 1024 x 8192 of both in memory, which stay in the cache of the GPU. dh is one sum over the vocabulary in order,
// rounded once; dw continues from its old value over tokens in order.
#include "head_tile.h"

namespace ws::cuda {
namespace {

#define WS_HEAD_PRODUCT(name, ...)                                                                                   \
  WS_KERNEL(name##_f32, gemm_threads, TileArguments<__VA_ARGS__::Tail>, a) {                                           \
    tile_product<float, false, false, __VA_ARGS__>(a);                                                                 \
  }                                                                                                                    \
  WS_KERNEL(name##_bf16, gemm_threads, TileArguments<__VA_ARGS__::Tail>, a) {                                          \
    tile_product<ws::bf16, false, false, __VA_ARGS__>(a);                                                              \
  }                                                                                                                    \
  WS_HEAD_ON_HOPPER(name, __VA_ARGS__)
#if WS_HOPPER
#define WS_HEAD_ON_HOPPER(name, ...)                                                                                   \
  WS_KERNEL(name##_128, hopper_threads, HopperArguments<__VA_ARGS__::Tail>, a) {                                       \
    hopper_product<128, false, false, __VA_ARGS__>(a);                                                                 \
  }                                                                                                                    \
  WS_KERNEL(name##_256, hopper_threads, HopperArguments<__VA_ARGS__::Tail>, a) {                                       \
    hopper_product<256, false, false, __VA_ARGS__>(a);                                                                 \
  }
#else
#define WS_HEAD_ON_HOPPER(name, ...)
#endif

using FoldLogprobs = FoldLogits<false, false>;
using FoldTerms = FoldLogits<true, false>;
using KeepLogits = FoldLogits<false, true>;
using LogprobGradients = LogitGradients<false>;
using TermGradients = LogitGradients<true>;
WS_HEAD_PRODUCT(head_logprob_tiles, FoldLogprobs)
WS_HEAD_PRODUCT(head_term_tiles, FoldTerms)
WS_HEAD_PRODUCT(head_logit_tiles, KeepLogits)
WS_HEAD_PRODUCT(head_logprob_gradients, LogprobGradients)
WS_HEAD_PRODUCT(head_term_gradients, TermGradients)

WS_KERNEL(head_merge, row_threads, MergeArguments, a) { merge_row(a); }
WS_KERNEL(head_cross, row_threads, PairArguments, a) { cross_tile(a); }
WS_KERNEL(head_mixture, row_threads, PairArguments, a) { mixture_tile(a); }
WS_KERNEL_FOR_BOTH(head_pair_gradients, row_threads, PairGradientArguments, a, pair_gradient_tile)

struct RoundArguments {
  const float* from;
  void* to;
  int64_t size;
};
template <class T>
WS_DEVICE void round_sums(const RoundArguments& a) {
  const Span s = flat_span(a.size);
  if (s.n <= 0) return;
  float x[span];
  load(a.from + s.at, s.n, x);
  store(static_cast<T*>(a.to) + s.at, s.n, x);
}
WS_KERNEL_FOR_BOTH(head_round, map_threads, RoundArguments, a, round_sums)

}  // namespace

#if WS_HOST

namespace {

constexpr uint32_t row_shared_bytes = 64;
constexpr int64_t most_rows = 1024, most_words = 8192;    // of a tile in memory
constexpr int64_t most_groups = int64_t{1} << 21;         // of all rows whose sums are in memory
constexpr int64_t words_of_launch = int64_t{1} << 22;

/// The kernels of an epilogue for either type.
struct TileKernels {
  ProductKernels f32, bf16;
};
#define WS_HEAD_KERNELS(name) {{&name##_f32, nullptr, nullptr}, {&name##_bf16, &name##_128, &name##_256}}
const TileKernels logprob_tiles = WS_HEAD_KERNELS(head_logprob_tiles), term_tiles = WS_HEAD_KERNELS(head_term_tiles);
const TileKernels logit_tiles = WS_HEAD_KERNELS(head_logit_tiles);
const TileKernels logprob_gradients = WS_HEAD_KERNELS(head_logprob_gradients);
const TileKernels term_gradients = WS_HEAD_KERNELS(head_term_gradients);

/// A call's operands by what they are, and how it is cut.
struct Head {
  View h, w, qh, qw, targets;
  double softcap, temperature, mixture;
  Fold what;
  Op op;
  int32_t targets_operand;
  int64_t tokens = 0, vocabulary = 0, groups = 0;

  bool prior() const { return what != Fold::logprobs && what != Fold::terms; }
  bool is_f32() const { return h.dtype == DType::f32; }
};

/// Tokens from `row`, words of the vocabulary from `word`.
struct LogitTile {
  int64_t row, rows, word, words;
};

/// Both logits of a tile, [rows, stride].
struct Logits {
  int64_t rows, words, stride;
  float *z, *qz;
};

Fold kl_fold(double direction) {
  return direction == 0 ? Fold::forward_kl : direction == 1 ? Fold::reverse_kl : Fold::mixture;
}

Status check_matrices(const View& h, const View& w) {
  WS_CHECK(h.rank == 2 && w.rank == 2, shape, "expected h [tokens, channels], w [vocabulary, channels], got %s, %s",
           shape_text(h).text, shape_text(w).text);
  WS_SAME(w.dims[1], h.dims[1], "channels of w");
  WS_CHECK(w.dims[0] > 0 && w.dims[0] < (int64_t{1} << 31), shape, "the vocabulary must have 1 to 2^31 - 1 tokens, got %lld",
           static_cast<long long>(w.dims[0]));
  return {};
}

Status check(const Head& s) {
  WS_TRY(check_matrices(s.h, s.w));
  WS_CHECK(s.softcap >= 0 && __builtin_isfinite(s.softcap), config, "softcap: expected 0 (none) or more, got %g",
           s.softcap);
  WS_CHECK(s.temperature > 0 && __builtin_isfinite(s.temperature), config, "temperature: expected more than 0, got %g",
           s.temperature);
  WS_TRY(vector_of(s.targets, "targets", s.h.dims[0]));
  if (!s.prior()) return {};
  WS_TRY(check_matrices(s.qh, s.qw));
  WS_SAME(s.qh.dims[0], s.h.dims[0], "tokens of qh");
  WS_SAME(s.qw.dims[0], s.w.dims[0], "vocabulary of qw");
  const bool mixed = s.what == Fold::mixture;
  WS_CHECK(mixed ? s.mixture > 0 && s.mixture < 1 : s.mixture == 0, config,
           "mixture: expected a number between 0 and 1 for Jensen-Shannon, else 0, got %g", s.mixture);
  return {};
}

Status open(Head& s) {
  WS_TRY(check(s));
  s.tokens = s.h.dims[0];
  s.vocabulary = s.w.dims[0];
  s.groups = (s.vocabulary + group_words - 1) / group_words;
  return {};
}

int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }

/// Scratch for `count` elements.
template <class T>
Status take(Launcher& on, int64_t count, T*& p) {
  p = static_cast<T*>(on.scratch(count * static_cast<int64_t>(sizeof(T))));
  WS_CHECK(p != nullptr, oom, "no memory for %lld numbers of the head", static_cast<long long>(count));
  return {};
}

/// Scratch for the logits of a tile.
Status take_logits(Launcher& on, const Head& s, Logits& t) {
  t = {smaller_of(s.tokens, most_rows), smaller_of(s.vocabulary, most_words), 0, nullptr, nullptr};
  t.stride = (t.words + 7) / 8 * 8;
  if (!s.prior() || s.tokens == 0) return {};
  WS_TRY(take(on, t.rows * t.stride, t.z));
  return take(on, t.rows * t.stride, t.qz);
}

Operand part(const View& v, int64_t first, int64_t lines) {
  const int64_t width = v.dims[1];
  return {v.as<char>() + first * width * element_bytes(v.dtype), lines, width, width};
}

template <class Tail>
Status start_tile(Launcher& on, const TileKernels& kernels, const View& h, const View& w, const LogitTile& t,
                  const Tail& tail) {
  const Factors f = {h.dtype, false, false, part(h, t.row, t.rows), part(w, t.word, t.words)};
  return start_product(h.dtype == DType::f32 ? kernels.f32 : kernels.bf16, f, tail, on);
}

/// The sums of groups of rows [row, row + rows), over the whole vocabulary.
Status fold_rows(Launcher& on, const TileKernels& kernels, const View& h, const View& w, int64_t row, int64_t rows,
                 FoldTail tail) {
  for (tail.word = 0; tail.word < w.dims[0]; tail.word += words_of_launch)
    WS_TRY(start_tile(on, kernels, h, w, {row, rows, tail.word, smaller_of(w.dims[0] - tail.word, words_of_launch)}, tail));
  return {};
}

/// body(tile) for the tiles of rows from `row`.
template <class F>
Status each_tile(const Head& s, const Logits& t, int64_t row, F body) {
  for (int64_t word = 0; word < s.vocabulary; word += t.words)
    WS_TRY(body(LogitTile{row, smaller_of(s.tokens - row, t.rows), word, smaller_of(s.vocabulary - word, t.words)}));
  return {};
}

/// What forward passes share: sums of `rows` rows at a time, and how rows end.
struct Folding {
  int64_t rows;
  FoldTail p, q;
  MergeArguments merge;
};

Status open_folding(Launcher& on, const Head& s, const View* out, int results, int64_t rows, Folding& f) {
  for (int i = 0; i < results; ++i) WS_TRY(vector_of(out[i], "a result", s.tokens));
  f = {rows, {}, {}, {}};
  if (s.tokens == 0) return {};
  FoldTail common = {};
  common.groups = s.groups;
  common.softcap = static_cast<float>(s.softcap), common.inverse_temperature = static_cast<float>(1.0 / s.temperature);
  f.p = f.q = common;
  WS_TRY(take(on, rows, f.p.targets_logits));
  WS_TRY(take(on, rows * s.groups, f.p.partials));
  if (s.what == Fold::terms) WS_TRY(take(on, rows * s.groups, f.p.terms));
  if (s.prior()) WS_TRY(take(on, rows * s.groups, f.q.partials));
  MergeArguments& m = f.merge;
  m.p = f.p.partials, m.q = f.q.partials, m.terms = f.p.terms, m.targets_logits = f.p.targets_logits;
  m.fault = on.fault(), m.groups = s.groups, m.vocabulary = s.vocabulary, m.what = s.what;
  m.op = static_cast<int32_t>(s.op), m.targets_operand = s.targets_operand;
  return {};
}

/// Rows from token `row` on.
void move_to(Folding& f, const Head& s, const View* out, int results, int64_t row) {
  f.p.targets = f.merge.targets = s.targets.as<int32_t>() + row;
  f.merge.first = row, f.merge.rows = smaller_of(s.tokens - row, f.rows);
  for (int i = 0; i < results; ++i) f.merge.out[i] = out[i].as<float>() + row;
}

Status merge(Launcher& on, const Folding& f) {
  return start(on, head_merge, {blocks_for(f.merge.rows, row_warps), 1, 1}, 0, f.merge);
}

/// One head: no logits in memory.
Status fold(Launcher& on, const Head& s, const TileKernels& kernels, const View* out, int results) {
  const int64_t fit = most_groups / (s.groups > 0 ? s.groups : 1), whole = fit / 128 * 128;
  Folding f;
  WS_TRY(open_folding(on, s, out, results, smaller_of(s.tokens, whole > 0 ? whole : fit > 0 ? fit : 1), f));
  for (int64_t row = 0; row < s.tokens; row += f.rows) {
    move_to(f, s, out, results, row);
    WS_TRY(fold_rows(on, kernels, s.h, s.w, row, f.merge.rows, f.p));
    WS_TRY(merge(on, f));
  }
  return {};
}

/// Two heads: their sums with or before their logits, then what needs both.
Status fold_pair(Launcher& on, const Head& s, const View* out) {
  const bool mixed = s.what == Fold::mixture;
  Folding f;
  Logits t;
  WS_TRY(open_folding(on, s, out, 5, smaller_of(s.tokens, most_rows), f));
  if (s.tokens == 0) return {};
  WS_TRY(take_logits(on, s, t));
  PairArguments a = {};
  a.z = t.z, a.qz = t.qz, a.stride = t.stride, a.vocabulary = s.vocabulary, a.groups = s.groups, a.what = s.what;
  a.inverse_temperature = f.p.inverse_temperature, a.mixture = static_cast<float>(s.mixture);
  if (mixed) {
    WS_TRY(take(on, f.rows, f.merge.p_rows));
    WS_TRY(take(on, f.rows, f.merge.q_rows));
    WS_TRY(take(on, 2 * f.rows, a.sums));
  } else {
    WS_TRY(take(on, f.rows, a.cross));
  }
  a.p_rows = f.merge.p_rows, a.q_rows = f.merge.q_rows, f.merge.cross = a.cross;
  for (int64_t row = 0; row < s.tokens; row += f.rows) {
    move_to(f, s, out, 5, row);
    a.value = f.merge.out[1], a.centre = f.merge.out[4];
    if (mixed) {
      WS_TRY(fold_rows(on, logprob_tiles, s.h, s.w, row, f.merge.rows, f.p));
      WS_TRY(fold_rows(on, logprob_tiles, s.qh, s.qw, row, f.merge.rows, f.q));
      WS_TRY(merge(on, f));
    }
    WS_TRY(each_tile(s, t, row, [&](const LogitTile& tile) -> Status {
      FoldTail p = f.p, q = f.q;
      p.logits = t.z, q.logits = t.qz, p.stride = q.stride = t.stride, p.word = q.word = tile.word;
      if (mixed) p.partials = q.partials = nullptr;
      WS_TRY(start_tile(on, logit_tiles, s.h, s.w, tile, p));
      WS_TRY(start_tile(on, logit_tiles, s.qh, s.qw, tile, q));
      a.word = tile.word, a.words = tile.words;
      a.p = f.p.partials + tile.word / group_words, a.q = f.q.partials + tile.word / group_words;
      return start(on, mixed ? head_mixture : head_cross, {static_cast<uint32_t>(tile.rows), 1, 1}, row_shared_bytes, a);
    }));
    if (!mixed) WS_TRY(merge(on, f));
  }
  return {};
}

/// Gradients of a call, dw of which may be absent: body(tile, stride, dz) starts what fills a tile of dz [rows, stride].
template <class F>
Status unfold(Launcher& on, const Head& s, const Logits& t, const View& dw, const View& dh, F body) {
  WS_TRY(same_shape(dh, "dh", s.h, "h"));
  if (dw.present()) WS_TRY(same_shape(dw, "dw", s.w, "w"));
  if (s.tokens == 0) return {};
  const int64_t channels = s.h.dims[1], type_bytes = element_bytes(s.h.dtype);
  const DType type = s.h.dtype;
  char* dz = nullptr;
  float* sums = nullptr;
  WS_TRY(take(on, t.rows * t.stride * type_bytes, dz));
  WS_TRY(take(on, t.rows * channels + 4, sums));
  for (int64_t row = 0; row < s.tokens; row += t.rows) {
    const int64_t rows = smaller_of(s.tokens - row, t.rows);
    Call zeros = {};
    zeros.t[0].data = sums, zeros.t[0].dtype = DType::f32, zeros.t[0].rank = 1, zeros.t[0].dims[0] = rows * channels;
    WS_TRY(fill(zeros, on));
    WS_TRY(each_tile(s, t, row, [&](const LogitTile& tile) -> Status {
      WS_TRY(body(tile, dz));
      Operand w = part(s.w, tile.word, tile.words), h = part(s.h, tile.row, tile.rows);
      w = {w.data, channels, tile.words, channels};
      h = {h.data, channels, tile.rows, channels};
      WS_TRY(multiply({type, DType::f32, false, true, Into::added, {dz, tile.rows, tile.words, t.stride}, w, sums, channels},
                      on));
      if (!dw.present()) return {};
      return multiply({type, DType::f32, true, true, Into::continued, {dz, tile.words, tile.rows, t.stride}, h,
                       dw.as<float>() + tile.word * channels, channels}, on);
    }));
    const RoundArguments out = {sums, dh.as<char>() + row * channels * type_bytes, rows * channels};
    WS_TRY(start(on, s.is_f32() ? head_round_f32 : head_round_bf16, {blocks_for(out.size, map_threads * span), 1, 1}, 0,
                 out));
  }
  return {};
}

/// One head; `a` has the weights and statistics of the tokens.
Status unfold(Launcher& on, const Head& s, const TileKernels& kernels, const View& dw, const View& dh,
              const GradientTail& a) {
  Logits t;
  WS_TRY(take_logits(on, s, t));
  return unfold(on, s, t, dw, dh, [&](const LogitTile& tile, void* dz) {
    const auto from = [&](const float* p) { return p == nullptr ? nullptr : p + tile.row; };
    const GradientTail tail = {dz, s.targets.as<int32_t>() + tile.row, from(a.dlogps), from(a.dentropy), from(a.dmean),
                               from(a.entropy), from(a.lse), t.stride, tile.word, static_cast<float>(s.softcap),
                               static_cast<float>(1.0 / s.temperature), 1.0f / static_cast<float>(s.vocabulary)};
    return start_tile(on, kernels, s.h, s.w, tile, tail);
  });
}

/// Two heads.
Status unfold_pair(Launcher& on, const Head& s, const View& dw, const View& dh, const View* vectors) {
  Logits t;
  WS_TRY(take_logits(on, s, t));
  return unfold(on, s, t, dw, dh, [&](const LogitTile& tile, void* dz) -> Status {
    FoldTail logits = {};
    logits.stride = t.stride, logits.softcap = static_cast<float>(s.softcap);
    logits.logits = t.z;
    WS_TRY(start_tile(on, logit_tiles, s.h, s.w, tile, logits));
    logits.logits = t.qz;
    WS_TRY(start_tile(on, logit_tiles, s.qh, s.qw, tile, logits));
    const auto from = [&](int i) { return vectors[i].as<float>() + tile.row; };
    const PairGradientArguments a = {t.z, t.qz, dz, s.targets.as<int32_t>() + tile.row, from(0), from(1), from(2), from(3),
                                     from(4), t.stride, tile.word, tile.words, static_cast<float>(s.softcap),
                                     static_cast<float>(1.0 / s.temperature), static_cast<float>(s.mixture), s.what};
    return start(on, s.is_f32() ? head_pair_gradients_f32 : head_pair_gradients_bf16,
                 {static_cast<uint32_t>(tile.rows), 1, 1}, 0, a);
  });
}

const float* floats(const View& v) { return v.as<float>(); }

Status check_tokens(const View* vectors, int count, const Head& s) {
  for (int i = 0; i < count; ++i) WS_TRY(vector_of(vectors[i], "numbers of tokens", s.tokens));
  return {};
}

Status check_direction(double direction) {
  WS_CHECK(direction == 0 || direction == 1 || direction == 2, config,
           "direction: expected 0, KL(q||p), 1, KL(p||q), or 2, Jensen-Shannon, got %g", direction);
  return {};
}

}  // namespace

Status head_logits(Launcher& on, const View& h, const View& w, int64_t row, int64_t rows, const KeptLogits& to) {
  FoldTail tail = {};
  tail.logits = to.logits, tail.stride = to.stride, tail.partials = to.partials, tail.plain = to.plain;
  tail.groups = (w.dims[0] + group_words - 1) / group_words;
  tail.softcap = to.softcap, tail.inverse_temperature = to.inverse_temperature;
  return fold_rows(on, logit_tiles, h, w, row, rows, tail);
}

Status head_logprobs(const Call& c, Launcher& on) {
  Head s = {c.t[0], c.t[1], {}, {}, c.t[2], c.p[0], c.p[1], 0, Fold::logprobs, Op::head_logprobs, 2};
  WS_TRY(open(s));
  return fold(on, s, logprob_tiles, c.t + 3, 2);
}

Status head_terms(const Call& c, Launcher& on) {
  Head s = {c.t[0], c.t[1], {}, {}, c.t[2], c.p[0], c.p[1], 0, Fold::terms, Op::head_terms, 2};
  WS_TRY(open(s));
  return fold(on, s, term_tiles, c.t + 3, 6);
}

Status head_kl(const Call& c, Launcher& on) {
  WS_TRY(check_direction(c.p[2]));
  Head s = {c.t[0], c.t[1], c.t[2], c.t[3], c.t[4], c.p[0], c.p[1], c.p[3], kl_fold(c.p[2]), Op::head_kl, 4};
  WS_TRY(open(s));
  return fold_pair(on, s, c.t + 5);
}

Status head_logprobs_backward(const Call& c, Launcher& on) {
  Head s = {c.t[2], c.t[3], {}, {}, c.t[4], c.p[0], c.p[1], 0, Fold::logprobs, Op::head_logprobs_backward, 4};
  WS_TRY(open(s));
  const View vectors[] = {c.t[1], c.t[5]};
  WS_TRY(check_tokens(vectors, 2, s));
  GradientTail a = {};
  a.dlogps = floats(c.t[1]), a.lse = floats(c.t[5]);
  return unfold(on, s, logprob_gradients, c.t[0], c.t[6], a);
}

Status head_terms_backward(const Call& c, Launcher& on) {
  Head s = {c.t[4], c.t[5], {}, {}, c.t[6], c.p[0], c.p[1], 0, Fold::terms, Op::head_terms_backward, 6};
  WS_TRY(open(s));
  const View vectors[] = {c.t[1], c.t[2], c.t[3], c.t[7], c.t[8]};
  WS_TRY(check_tokens(vectors, 5, s));
  GradientTail a = {};
  a.dlogps = floats(c.t[1]), a.dentropy = floats(c.t[2]), a.dmean = floats(c.t[3]);
  a.entropy = floats(c.t[7]), a.lse = floats(c.t[8]);
  return unfold(on, s, term_gradients, c.t[0], c.t[9], a);
}

Status head_kl_backward(const Call& c, Launcher& on) {
  WS_TRY(check_direction(c.p[2]));
  Head s = {c.t[3], c.t[4], c.t[5], c.t[6], c.t[7], c.p[0], c.p[1], c.p[3], kl_fold(c.p[2]), Op::head_kl_backward, 7};
  WS_TRY(open(s));
  const View vectors[] = {c.t[1], c.t[2], c.t[8], c.t[9], c.t[10]};
  WS_TRY(check_tokens(vectors, 5, s));
  return unfold_pair(on, s, c.t[0], c.t[11], vectors);
}

#endif

}  // namespace ws::cuda
