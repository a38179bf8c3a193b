// The fused language-model head on the GPU: log-probs of targets, statistics of the vocabulary, divergences from a prior,
// forward and backward. z = softcap(h w^T) / temperature. Tokens x vocabulary is cut into tiles of at most 1024 x 8192
// logits, which stay in the cache of the GPU: a product fills one (product.h), a block per row folds it or turns it into
// gradients (head_rows.h), and products of those end a backward pass. dh is one sum over the vocabulary in order, rounded
// once; dw continues from its old value over tokens in order.
#include "head_rows.h"
#include "product.h"
#include "vectors.h"

namespace ws::cuda {
namespace {

WS_KERNEL(head_fold, row_threads, FoldArguments, a) { fold_tile(a); }
WS_KERNEL_FOR_BOTH(head_gradient, row_threads, GradientRowArguments, a, gradient_tile)

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
constexpr int64_t most_rows = 1024;

/// A call's operands by what they are, and how it is cut.
struct Head {
  View h, w, qh, qw, targets;
  double softcap, temperature, mixture;
  Fold what;
  Op op;
  int32_t targets_operand;
  int64_t tokens = 0, vocabulary = 0, rows = 0, words = 0, stride = 0;
  float *z = nullptr, *qz = nullptr;

  bool prior() const { return what != Fold::logprobs && what != Fold::terms; }
  bool is_f32() const { return h.dtype == DType::f32; }
};

Fold kl_fold(double direction) {
  return direction == 0 ? Fold::forward_kl : direction == 1 ? Fold::reverse_kl : Fold::mixture;
}

Status check_matrices(const View& h, const View& w) {
  WS_CHECK(h.rank == 2 && w.rank == 2, shape, "expected h [tokens, channels], w [vocabulary, channels], got %s, %s",
           shape_text(h).text, shape_text(w).text);
  WS_SAME(w.dims[1], h.dims[1], "channels of w");
  WS_CHECK(w.dims[0] < (int64_t{1} << 31), shape, "the vocabulary must have fewer than 2^31 tokens");
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

/// Checks a call and takes scratch for its tiles.
Status open(Launcher& on, Head& s) {
  WS_TRY(check(s));
  s.tokens = s.h.dims[0];
  s.vocabulary = s.w.dims[0];
  s.rows = s.tokens < most_rows ? s.tokens : most_rows;
  s.words = s.vocabulary < tile_words ? s.vocabulary : tile_words;
  s.stride = (s.words + 7) / 8 * 8;
  if (s.tokens == 0 || s.vocabulary == 0) return {};
  const int64_t bytes = s.rows * s.stride * 4;
  s.z = static_cast<float*>(on.scratch(bytes));
  s.qz = s.prior() ? static_cast<float*>(on.scratch(bytes)) : nullptr;
  WS_CHECK(s.z != nullptr && (!s.prior() || s.qz != nullptr), oom, "no memory for a tile of logits");
  return {};
}

Operand part(const View& v, int64_t first, int64_t lines) {
  const int64_t width = v.dims[1];
  return {v.as<char>() + first * width * element_bytes(v.dtype), lines, width, width};
}

/// body(tile) for the tiles of a chunk with their logits in place.
template <class F>
Status each_tile(Launcher& on, const Head& s, int64_t row, F body) {
  for (int64_t word = 0; word < s.vocabulary; word += s.words) {
    const int64_t rows = s.tokens - row, words = s.vocabulary - word;
    const LogitTile t = {row, rows < s.rows ? rows : s.rows, word, words < s.words ? words : s.words};
    WS_TRY(head_logits(on, s.h, s.w, t, s.z, s.stride));
    if (s.prior()) WS_TRY(head_logits(on, s.qh, s.qw, t, s.qz, s.stride));
    WS_TRY(body(t));
  }
  return {};
}

Status fold(Launcher& on, const Head& s, const View* out, int results) {
  for (int i = 0; i < results; ++i) WS_TRY(vector_of(out[i], "a result", s.h.rank == 2 ? s.h.dims[0] : 0));
  if (s.tokens == 0) return {};
  FoldArguments a = {};
  a.z = s.z, a.qz = s.qz;
  a.states = static_cast<RowState*>(on.scratch(s.rows * static_cast<int64_t>(sizeof(RowState))));
  WS_CHECK(a.states, oom, "no memory for statistics of rows");
  a.targets = s.targets.as<int32_t>();
  for (int i = 0; i < results; ++i) a.out[i] = out[i].as<float>();
  a.fault = on.fault();
  a.stride = s.stride, a.vocabulary = s.vocabulary;
  a.softcap = static_cast<float>(s.softcap), a.inverse_temperature = static_cast<float>(1.0 / s.temperature);
  a.mixture = static_cast<float>(s.mixture);
  a.op = static_cast<int32_t>(s.op), a.targets_operand = s.targets_operand;
  const auto pass = [&](int64_t row, Fold what) {
    return each_tile(on, s, row, [&](const LogitTile& t) {
      a.row = t.row, a.word = t.word, a.words = t.words, a.what = what;
      return start(on, head_fold, {static_cast<uint32_t>(t.rows), 1, 1}, row_shared_bytes, a);
    });
  };
  for (int64_t row = 0; row < s.tokens; row += s.rows) {
    if (s.what == Fold::mixture) WS_TRY(pass(row, Fold::both));
    WS_TRY(pass(row, s.what));
  }
  return {};
}

/// Gradients of a call: dw may be absent. `a` has the weights and statistics of the tokens.
Status unfold(Launcher& on, const Head& s, const View& dw, const View& dh, GradientRowArguments a) {
  WS_TRY(same_shape(dh, "dh", s.h, "h"));
  if (dw.present()) WS_TRY(same_shape(dw, "dw", s.w, "w"));
  if (s.tokens == 0) return {};
  const int64_t channels = s.h.dims[1], type_bytes = element_bytes(s.h.dtype);
  void* dz = on.scratch(s.rows * s.stride * type_bytes);
  float* sums = static_cast<float*>(on.scratch(s.rows * channels * 4 + 16));
  WS_CHECK(dz != nullptr && sums != nullptr, oom, "no memory for the gradients of a tile");
  a.z = s.z, a.qz = s.qz, a.dz = dz;
  a.targets = s.targets.as<int32_t>();
  a.stride = s.stride, a.vocabulary = s.vocabulary;
  a.softcap = static_cast<float>(s.softcap), a.inverse_temperature = static_cast<float>(1.0 / s.temperature);
  a.mixture = static_cast<float>(s.mixture), a.what = s.what;
  for (int64_t row = 0; row < s.tokens; row += s.rows) {
    const int64_t rows = s.tokens - row < s.rows ? s.tokens - row : s.rows;
    Call zeros = {};
    zeros.t[0].data = sums, zeros.t[0].dtype = DType::f32, zeros.t[0].rank = 1, zeros.t[0].dims[0] = rows * channels;
    WS_TRY(fill(zeros, on));
    WS_TRY(each_tile(on, s, row, [&](const LogitTile& t) -> Status {
      a.row = t.row, a.word = t.word, a.words = t.words;
      WS_TRY(start(on, s.is_f32() ? head_gradient_f32 : head_gradient_bf16, {static_cast<uint32_t>(t.rows), 1, 1}, 0, a));
      Operand w = part(s.w, t.word, t.words), h = part(s.h, t.row, t.rows);
      w = {w.data, channels, t.words, channels};
      h = {h.data, channels, t.rows, channels};
      const DType type = s.h.dtype;
      WS_TRY(multiply({type, DType::f32, false, true, Into::added, {dz, t.rows, t.words, s.stride}, w, sums, channels}, on));
      if (!dw.present()) return {};
      return multiply({type, DType::f32, true, true, Into::continued, {dz, t.words, t.rows, s.stride}, h,
                       dw.as<float>() + t.word * channels, channels}, on);
    }));
    const RoundArguments out = {sums, dh.as<char>() + row * channels * type_bytes, rows * channels};
    WS_TRY(start(on, s.is_f32() ? head_round_f32 : head_round_bf16, {blocks_for(out.size, map_threads * span), 1, 1}, 0,
                 out));
  }
  return {};
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

Status head_logits(Launcher& on, const View& h, const View& w, const LogitTile& t, float* z, int64_t stride) {
  return multiply({h.dtype, DType::f32, false, false, Into::fresh, part(h, t.row, t.rows), part(w, t.word, t.words), z,
                   stride}, on);
}

Status head_logprobs(const Call& c, Launcher& on) {
  Head s = {c.t[0], c.t[1], {}, {}, c.t[2], c.p[0], c.p[1], 0, Fold::logprobs, Op::head_logprobs, 2};
  WS_TRY(open(on, s));
  return fold(on, s, c.t + 3, 2);
}

Status head_terms(const Call& c, Launcher& on) {
  Head s = {c.t[0], c.t[1], {}, {}, c.t[2], c.p[0], c.p[1], 0, Fold::terms, Op::head_terms, 2};
  WS_TRY(open(on, s));
  return fold(on, s, c.t + 3, 5);
}

Status head_kl(const Call& c, Launcher& on) {
  WS_TRY(check_direction(c.p[2]));
  Head s = {c.t[0], c.t[1], c.t[2], c.t[3], c.t[4], c.p[0], c.p[1], c.p[3], kl_fold(c.p[2]), Op::head_kl, 4};
  WS_TRY(open(on, s));
  return fold(on, s, c.t + 5, 5);
}

Status head_logprobs_backward(const Call& c, Launcher& on) {
  Head s = {c.t[2], c.t[3], {}, {}, c.t[4], c.p[0], c.p[1], 0, Fold::logprobs, Op::head_logprobs_backward, 4};
  WS_TRY(open(on, s));
  const View vectors[] = {c.t[1], c.t[5]};
  WS_TRY(check_tokens(vectors, 2, s));
  GradientRowArguments a = {};
  a.dlogps = floats(c.t[1]), a.lse = floats(c.t[5]);
  return unfold(on, s, c.t[0], c.t[6], a);
}

Status head_terms_backward(const Call& c, Launcher& on) {
  Head s = {c.t[4], c.t[5], {}, {}, c.t[6], c.p[0], c.p[1], 0, Fold::terms, Op::head_terms_backward, 6};
  WS_TRY(open(on, s));
  const View vectors[] = {c.t[1], c.t[2], c.t[3], c.t[7], c.t[8]};
  WS_TRY(check_tokens(vectors, 5, s));
  GradientRowArguments a = {};
  a.dlogps = floats(c.t[1]), a.dentropy = floats(c.t[2]), a.dmean = floats(c.t[3]);
  a.entropy = floats(c.t[7]), a.lse = floats(c.t[8]);
  return unfold(on, s, c.t[0], c.t[9], a);
}

Status head_kl_backward(const Call& c, Launcher& on) {
  WS_TRY(check_direction(c.p[2]));
  Head s = {c.t[3], c.t[4], c.t[5], c.t[6], c.t[7], c.p[0], c.p[1], c.p[3], kl_fold(c.p[2]), Op::head_kl_backward, 7};
  WS_TRY(open(on, s));
  const View vectors[] = {c.t[1], c.t[2], c.t[8], c.t[9], c.t[10]};
  WS_TRY(check_tokens(vectors, 5, s));
  GradientRowArguments a = {};
  a.dlogps = floats(c.t[1]), a.dkl = floats(c.t[2]), a.centre = floats(c.t[8]);
  a.lse = floats(c.t[9]), a.qlse = floats(c.t[10]);
  return unfold(on, s, c.t[0], c.t[11], a);
}

#endif

}  // namespace ws::cuda
