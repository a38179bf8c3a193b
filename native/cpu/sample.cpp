// Sampling from the head: a penalty for repetition, temperature, then top-k, top-p and min-p on the tempered distribution, one counter-based
// uniform number per row, inverse CDF. Thresholds are exact: a radix selection over the order of the floats, ties by
// index. Logits are made as in head.cpp (head.h), for some rows at a time.
#include "../core/rng.h"
#include "head.h"

namespace ws::WS_NS {
namespace {

/// Logits that exist at once, unless a single row is longer.
constexpr int64_t most_logits = 1 << 23;
constexpr int most_bins = 2048;

struct Settings {
  float softcap, penalty;
  double temperature, top_p, min_p;
  int64_t top_k;
  int64_t vocabulary;
  double mixture;  // share of the second head's logits; 0: there is one head

  bool truncated() const { return (top_k > 0 && top_k < vocabulary) || top_p < 1 || min_p > 0; }
};

/// What one worker needs for a row: tempered logits, exp(z - top), the ids of what is left, the histogram, and the
/// greatest number of each block.
struct RowScratch {
  float *z, *e, *tops;
  int32_t* ids;
  double* mass;
  int64_t* count;
};

struct Drawn {
  int32_t id;
  float logps, sampled;
};

// Selection ----------------------------------------------------------------------------------------------------------

/// Unsigned integers in the order of the floats; -0 equals 0.
uint32_t order_of(float x) {
  const float y = x + 0.0f;
  uint32_t u;
  std::memcpy(&u, &y, 4);
  return u ^ ((u >> 31) != 0 ? 0xffffffffu : 0x80000000u);
}

/// The best candidates: all above `order`, and the first `equal` (by index) of those that have it.
struct Cut {
  uint32_t order;
  int64_t equal;
};

float number_of(uint32_t order) {
  const uint32_t u = order ^ ((order >> 31) != 0 ? 0x80000000u : 0xffffffffu);
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

int64_t count_from(const float* z, int64_t n, float least) {
  V few = zero();  // per lane: whole numbers below 2^24
  const V bound = set1(least);
  int64_t count = 0;
  for (int64_t i = 0; i + W <= n; i += W) few = add(few, select_less(load(z + i), bound, zero(), set1(1.0f)));
  for (int64_t i = n / W * W; i < n; ++i) count += z[i] >= least;
  return count + static_cast<int64_t>(sum_lanes(few));
}

/// The k greatest of n numbers without NaN, 1 <= k <= n, by bisection of their order.
Cut cut_at_count(const float* z, int64_t n, int64_t k) {
  uint32_t in = order_of(-__builtin_inff()), out = order_of(__builtin_inff()) + 1;
  while (in + 1 < out) {
    const uint32_t middle = in + (out - in) / 2;
    const int64_t count = count_from(z, n, number_of(middle));
    if (count == k) return {middle - 1, 0};
    if (count > k) in = middle;
    else out = middle;
  }
  return {in, k - count_from(z, n, number_of(out))};
}

/// Counts and masses of the candidates whose order begins with `prefix`, by their next `width` bits.
void histogram(const RowScratch& s, int64_t n, uint32_t prefix, int shift, int width) {
  const uint32_t bins = 1u << width;
  for (uint32_t i = 0; i < bins; ++i) {
    s.mass[i] = 0;
    s.count[i] = 0;
  }
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t order = order_of(s.z[i]);
    if (order >> (shift + width) != prefix) continue;
    const uint32_t bin = static_cast<uint32_t>(order >> shift) & (bins - 1);
    s.mass[bin] += static_cast<double>(s.e[i]);
    ++s.count[bin];
  }
}

/// How many of `count` equal masses reach the goal; at least 1.
int64_t reach(double goal, double each, int64_t count) {
  int64_t few = 1, many = count;
  while (few < many) {
    const int64_t middle = few + (many - few) / 2;
    if (static_cast<double>(middle) * each >= goal) many = middle;
    else few = middle + 1;
  }
  return few;
}

/// The smallest set of best candidates that has at least the mass `goal`.
/// The histogram is refined bit by bit from the top; what lies above the boundary's bin is in, what lies below is out.
Cut cut_at_mass(const RowScratch& s, int64_t n, double goal) {
  const int step = n < 4096 ? 8 : 11;
  uint32_t prefix = 0;
  int64_t inside = 0;  // candidates with the prefix
  double each = 1;
  for (int shift = 32; shift > 0;) {
    const int width = shift < step ? shift : step;
    shift -= width;
    histogram(s, n, prefix, shift, width);
    const int bins = 1 << width;
    int last = -1;
    double above = 0;
    for (int i = bins - 1; i >= 0; --i) {
      if (s.count[i] == 0) continue;
      if (last >= 0) above += s.mass[last];
      last = i;
      if (above + s.mass[i] >= goal) break;
    }
    // When rounding left the goal out of reach, the lowest bin is the boundary and all of it is in.
    goal -= above;
    prefix = (prefix << width) | static_cast<uint32_t>(last);
    inside = s.count[last];
    each = s.mass[last] / static_cast<double>(inside);
  }
  return {prefix, reach(goal, each, inside)};
}

/// Keeps the candidates for which keep(place) holds, in order; gives their count. `numbered`: ids are set already.
template <class F>
int64_t keep_only(const RowScratch& s, int64_t n, bool& numbered, F keep) {
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!keep(i)) continue;
    s.z[kept] = s.z[i];
    s.e[kept] = s.e[i];
    s.ids[kept++] = numbered ? s.ids[i] : static_cast<int32_t>(i);
  }
  numbered = true;
  return kept;
}

int64_t apply_cut(const RowScratch& s, int64_t n, bool& numbered, Cut cut) {
  int64_t equal = cut.equal;
  return keep_only(s, n, numbered, [&](int64_t i) {
    const uint32_t order = order_of(s.z[i]);
    return order > cut.order || (order == cut.order && equal-- > 0);
  });
}

// Most candidates of a long row are far from the boundary. They are let go block by block, by a bound that the boundary
// cannot lie below; the exact selection then has little to look at. Which ones are kept does not depend on it.

constexpr int64_t block = 64;
constexpr int64_t long_row = 4096;  // from here on that pays

int64_t blocks_of(int64_t n) { return (n + block - 1) / block; }

void find_tops(const RowScratch& s, const float* x, int64_t n) {
  for (int64_t i = 0; i < blocks_of(n); ++i) s.tops[i] = top_of(x + i * block, smaller(block, n - i * block));
}

/// z = factor * x, from logits at temperature 1.
void temper(const float* x, int64_t n, float factor, float* z) { transform_logits(x, n, factor, 0.0f, z); }

/// Calls visit(place) for all places of the blocks whose top is at least `least`, in order.
template <class F>
void each_near(const RowScratch& s, int64_t n, float least, F visit) {
  for (int64_t b = 0; b < blocks_of(n); ++b) {
    if (!(s.tops[b] >= least)) continue;
    for (int64_t i = b * block; i < smaller(n, (b + 1) * block); ++i) visit(i);
  }
}

/// Makes the tempered logits z = factor * x, only of candidates that may be among the best k when they are few: blocks
/// have k tops that are at least the k-th greatest top, so k candidates are. Gives their count. There are no e yet.
int64_t near_count(const RowScratch& s, const float* x, float factor, int64_t n, int64_t k, bool& numbered) {
  if (n < long_row || k > blocks_of(n) / 2) {
    temper(x, n, factor, s.z);
    return n;
  }
  find_tops(s, x, n);
  temper(s.tops, blocks_of(n), factor, s.tops);  // rounding keeps the order
  const float least = number_of(cut_at_count(s.tops, blocks_of(n), k).order);
  int64_t kept = 0;
  each_near(s, n, least, [&](int64_t i) {
    s.z[kept] = x[i] * factor;
    s.ids[kept] = static_cast<int32_t>(i);
    kept += s.z[kept] >= least;
  });
  numbered = true;
  return kept;
}

constexpr int bounds = 8;

/// Tries bounds e >= 2^-2, 2^-4, ...: the first above which there is more than enough mass.
int64_t near_mass(const RowScratch& s, int64_t n, double goal, bool& numbered) {
  if (n < long_row) return n;
  V sum[bounds];
  WS_EACH(bounds) sum[i] = zero();
  for_vectors(0, n, [&](int64_t at, auto lanes) {
    const V e = load(s.e + at, lanes);
    WS_EACH(bounds) sum[i] = add(sum[i], select_less(e, set1(1.0f / static_cast<float>(4 << (2 * i))), zero(), e));
  });
  for (int i = 0; i < bounds; ++i) {
    if (!(static_cast<double>(sum_lanes(sum[i])) > 1.001 * goal)) continue;
    const float least = 1.0f / static_cast<float>(4 << (2 * i));
    int64_t kept = 0;
    find_tops(s, s.e, n);
    each_near(s, n, least, [&](int64_t j) {
      s.z[kept] = s.z[j];
      s.e[kept] = s.e[j];
      s.ids[kept] = numbered ? s.ids[j] : static_cast<int32_t>(j);
      kept += s.e[kept] >= least;
    });
    numbered = true;
    return kept;
  }
  return n;
}

/// Sum in f64: sixteen interleaved sums, then halving.
double exact_mass(const float* e, int64_t n) {
  double sums[16] = {0};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 16; ++j) sums[j] += static_cast<double>(e[i + j]);
  }
  for (int j = 0; i + j < n; ++j) sums[j] += static_cast<double>(e[i + j]);
  for (int half = 8; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

void exponentiate(const RowScratch& s, int64_t n, float top) {
  for_vectors(0, n, [&](int64_t i, auto lanes) { store(s.e + i, exp_low(sub(load(s.z + i, lanes), set1(top))), lanes); });
}

/// Makes z = factor * x and e for what top-k leaves, and cuts.
int64_t truncate(const Settings& set, const RowScratch& s, const float* x, float factor, float top, bool& numbered) {
  int64_t n = set.vocabulary;
  const bool few = set.top_k > 0 && set.top_k < n;
  if (few) n = near_count(s, x, factor, n, set.top_k, numbered);
  else temper(x, n, factor, s.z);
  exponentiate(s, n, top);
  if (few) n = apply_cut(s, n, numbered, cut_at_count(s.z, n, set.top_k));
  if (set.top_p < 1) {
    const double goal = set.top_p * exact_mass(s.e, n);
    n = near_mass(s, n, goal, numbered);
    n = apply_cut(s, n, numbered, cut_at_mass(s, n, goal));
  }
  if (set.min_p > 0) {
    // The best candidate has e = 1, so e is the share of the largest probability.
    n = keep_only(s, n, numbered, [&](int64_t i) { return static_cast<double>(s.e[i]) >= set.min_p; });
  }
  return n;
}

// Drawing ------------------------------------------------------------------------------------------------------------

/// Sum of up to fold_width masses; the tree of sum_of().
double block_mass(const float* e, int64_t n) {
  V a = zero();
  for (int64_t i = 0; i < n; i += W) a = add(a, i + W <= n ? load(e + i) : load_n(e + i, static_cast<int>(n - i)));
  return static_cast<double>(sum_lanes(a));
}

double total_mass(const float* e, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; i += fold_width) total += block_mass(e + i, smaller(fold_width, n - i));
  return total;
}

/// The last place before n with mass, or -1.
int64_t last_with_mass(const float* e, int64_t n) {
  int64_t i = n - 1;
  while (i >= 0 && !(e[i] > 0)) --i;
  return i;
}

/// Inverse CDF in order of the index: the first place at which the running mass exceeds the goal. The sums of blocks
/// round differently than the sums inside them; where that leaves the goal out of reach, the last place is taken.
int64_t place_of_mass(const float* e, int64_t n, double goal) {
  double before = 0;
  for (int64_t first = 0; first < n; first += fold_width) {
    const int64_t count = smaller(fold_width, n - first);
    const double mass = block_mass(e + first, count);
    if (before + mass > goal) {
      double running = before;
      for (int64_t i = first; i < first + count; ++i) {
        running += static_cast<double>(e[i]);
        if (running > goal && e[i] > 0) return i;
      }
      return last_with_mass(e, first + count);
    }
    before += mass;
  }
  return last_with_mass(e, n);
}

int32_t first_equal(const float* z, int64_t n, float value) {
  for (int64_t i = 0; i < n; ++i)
    if (z[i] == value) return static_cast<int32_t>(i);
  return -1;
}

/// The logit of one word at temperature 1.
float logit_of(float raw, float softcap) {
  float z[1];
  transform_logits(&raw, 1, 1.0f, softcap, z);
  return z[0];
}

/// x becomes the logits of the geometric mixture of two models, from the products of both with the vocabulary. What is
/// missing to the logarithm of its probabilities is the same for all words.
void mix_logits(const Settings& set, float* x, float* y, int64_t n) {
  if (set.softcap > 0) {
    transform_logits(x, n, 1.0f, set.softcap, x);
    transform_logits(y, n, 1.0f, set.softcap, y);
  }
  const V own = set1(static_cast<float>(1 - set.mixture)), other = set1(static_cast<float>(set.mixture));
  for_vectors(0, n, [&](int64_t i, auto lanes) {
    store(x + i, add(mul(load(x + i, lanes), own), mul(load(y + i, lanes), other)), lanes);
  });
}

/// The ids of a row that the penalty is for, in ascending order, behind some -1.
struct Seen {
  const int32_t* ids;
  int64_t count;
};

/// Transformers' RepetitionPenaltyLogitsProcessor (CTRL, 1909.05858): what is likely becomes less so, on either side of 0.
void penalize(const Seen& seen, float penalty, float* x) {
  for (int64_t i = 0; i < seen.count; ++i) {
    if (seen.ids[i] < 0) continue;
    float& logit = x[seen.ids[i]];
    logit = logit < 0 ? logit * penalty : logit / penalty;
  }
}

/// raw: products of the row with the vocabulary.
Drawn draw_row(const Settings& set, const float* raw, const int32_t* key, const Seen& seen, const RowScratch& s) {
  const int64_t n = set.vocabulary;
  const bool copied = set.softcap > 0 || seen.count > 0;
  if (copied) transform_logits(raw, n, 1.0f, set.softcap, s.z);
  const float* x = copied ? s.z : raw;
  RowStatistics plain = empty_row();
  fold_all(plain, x, n);
  const Drawn none = {-1, __builtin_nanf(""), __builtin_nanf("")};
  if (!(plain.sum > 0)) return none;  // NaN, or nothing but -inf
  RowStatistics whole = plain;
  if (seen.count > 0) {
    penalize(seen, set.penalty, s.z);
    fold_all(whole = empty_row(), x, n);
  }
  const auto model_logps = [&](int32_t id) { return log_prob(plain, logit_of(raw[id], set.softcap)); };
  if (set.temperature == 0) {
    const int32_t best = first_equal(x, n, whole.top);
    return {best, model_logps(best), 0.0f};
  }

  const float factor = static_cast<float>(1.0 / set.temperature);
  RowStatistics tempered = {0, whole.top * factor, 0};  // the sum is that of what is left
  bool numbered = false;
  int64_t left = n;
  if (set.truncated()) {
    left = truncate(set, s, x, factor, tempered.top, numbered);
  } else {
    temper(x, n, factor, s.z);
    if (factor == 1.0f) tempered = whole;
    else fold_all(tempered = empty_row(), s.z, n);
    exponentiate(s, n, tempered.top);
  }
  const double total = total_mass(s.e, left);
  const double u = uniform53(random4(static_cast<uint32_t>(key[0]), static_cast<uint32_t>(key[1]),
                                     static_cast<uint32_t>(key[2]), static_cast<uint32_t>(key[3])));
  const int64_t place = place_of_mass(s.e, left, u * total);
  if (place < 0) return none;  // a logit that the temperature makes infinite
  const int32_t id = numbered ? s.ids[place] : static_cast<int32_t>(place);
  if (set.truncated()) tempered.sum = total;
  return {id, model_logps(id), log_prob(tempered, s.z[place])};
}

// The call -----------------------------------------------------------------------------------------------------------

Status read_settings(const Call& c, int64_t vocabulary, Settings& set) {
  WS_TRY(check_softcap(c.p[0]));
  set = {static_cast<float>(c.p[0]), 1.0f, c.p[1], c.p[3], c.p[4], 0, vocabulary, 0};
  WS_CHECK(c.p[1] == 0 || (c.p[1] >= 1e-6 && __builtin_isfinite(c.p[1])), config,
           "temperature: expected 0 (the best token) or at least 1e-6, got %g", c.p[1]);
  WS_CHECK(c.p[2] >= 0 && c.p[2] <= 2147483647.0 && c.p[2] == std::floor(c.p[2]), config,
           "topK: expected a whole number from 0 (all), got %g", c.p[2]);
  WS_CHECK(c.p[3] >= 0 && c.p[3] <= 1, config, "topP: expected 0 to 1 (all), got %g", c.p[3]);
  WS_CHECK(c.p[4] >= 0 && c.p[4] <= 1, config, "minP: expected 0 (all) to 1, got %g", c.p[4]);
  set.top_k = static_cast<int64_t>(c.p[2]);
  return {};
}

Status check_seen(const View& seen, int64_t rows, int64_t vocabulary) {
  WS_CHECK(seen.rank == 2 && seen.dims[0] == rows, shape, "seen: expected [%lld, S], got %s",
           static_cast<long long>(rows), shape_text(seen).text);
  const int64_t width = seen.dims[1];
  for (int64_t i = 0; i < rows * width; ++i) {
    const int32_t id = seen.as<int32_t>()[i], before = i % width == 0 ? -1 : seen.as<int32_t>()[i - 1];
    WS_CHECK(id >= -1 && id < vocabulary && (id > before || (id == -1 && before == -1)), shape,
             "seen[%lld]: expected an id below %lld and above the %d before it, or -1 before all ids, got %d",
             static_cast<long long>(i), static_cast<long long>(vocabulary), before, id);
  }
  return {};
}

/// Bytes of one worker's RowScratch.
int64_t row_bytes(int64_t vocabulary) {
  return 3 * lines_of(vocabulary * 4) + most_bins * 16 + lines_of(blocks_of(vocabulary) * 4);
}

RowScratch split_row(char* at, int64_t vocabulary) {
  const int64_t row = lines_of(vocabulary * 4);
  RowScratch s;
  s.z = reinterpret_cast<float*>(at);
  s.e = reinterpret_cast<float*>(at + row);
  s.ids = reinterpret_cast<int32_t*>(at + 2 * row);
  s.mass = reinterpret_cast<double*>(at + 3 * row);
  s.count = reinterpret_cast<int64_t*>(at + 3 * row + most_bins * 8);
  s.tops = reinterpret_cast<float*>(at + 3 * row + most_bins * 16);
  return s;
}

/// One head, or two (q null: one).
struct Heads {
  const View &h, &w;
  const View *qh, *qw;
};

/// What rows are drawn with, and where ids, logps and sampled go.
struct Draws {
  const View &keys, &seen;
  const View* out;
};

Status sample_heads(const Call& c, const Settings& set, const Heads& from, const Draws& draws) {
  const View &h = from.h, &keys = draws.keys, &seen_ids = draws.seen;
  const View* const out = draws.out;
  const char* const names[] = {"ids", "logps", "sampled"};
  WS_CHECK(keys.rank == 2 && keys.dims[0] == h.dims[0] && keys.dims[1] == 4, shape, "keys: expected [%lld, 4], got %s",
           static_cast<long long>(h.dims[0]), shape_text(keys).text);
  for (int i = 0; i < 3; ++i) WS_TRY(vector_of(out[i], names[i], h.dims[0]));
  if (seen_ids.present()) WS_TRY(check_seen(seen_ids, h.dims[0], set.vocabulary));
  if (h.dims[0] == 0) return {};
  const int64_t tokens = h.dims[0], vocabulary = set.vocabulary;
  WS_CHECK(vocabulary > 0, shape, "w: the vocabulary is empty");
  const int64_t width = seen_ids.present() && set.penalty != 1.0f ? seen_ids.dims[1] : 0;

  const int heads = from.qh == nullptr ? 1 : 2;
  const int64_t stride = (vocabulary + 15) / 16 * 16,
                rows = larger(1, smaller(tokens, smaller(256, most_logits / stride / heads)));
  const auto product_bytes = [&](const View& hidden) {
    return lines_of(larger(gemm_scratch_bytes(*c.rt, {rows, vocabulary, hidden.dims[1]}),
                           gemm_scratch_bytes(*c.rt, {tokens % rows, vocabulary, hidden.dims[1]})));
  };
  const int64_t product = larger(product_bytes(h), heads == 1 ? 0 : product_bytes(*from.qh));
  const int64_t tile = rows * stride * 4, bytes = heads * tile + product + c.rt->threads() * row_bytes(vocabulary);
  char* scratch = static_cast<char*>(c.rt->scratch(bytes));
  WS_CHECK(scratch != nullptr, oom, "no memory for %lld bytes of scratch", static_cast<long long>(bytes));
  float* x = reinterpret_cast<float*>(scratch);
  float* y = reinterpret_cast<float*>(scratch + (heads - 1) * tile);
  char* workers = scratch + heads * tile + product;
  Settings of_row = set;
  if (heads == 2) of_row.softcap = 0;  // mixed logits are capped
  for (int64_t row = 0; row < tokens; row += rows) {
    LogitTile part = {row, smaller(rows, tokens - row), 0, vocabulary, x, stride};
    raw_logits(*c.rt, h, from.w, part, scratch + heads * tile);
    if (heads == 2) {
      part.z = y;
      raw_logits(*c.rt, *from.qh, *from.qw, part, scratch + heads * tile);
    }
    parallel_for(*c.rt, part.rows, [&](int64_t r, int worker) {
      const RowScratch s = split_row(workers + worker * row_bytes(vocabulary), vocabulary);
      if (heads == 2) mix_logits(set, x + r * stride, y + r * stride, vocabulary);
      const Seen seen = {width == 0 ? nullptr : seen_ids.as<int32_t>() + width * (row + r), width};
      const Drawn drawn = draw_row(of_row, x + r * stride, keys.as<int32_t>() + 4 * (row + r), seen, s);
      out[0].as<int32_t>()[row + r] = drawn.id;
      out[1].as<float>()[row + r] = drawn.logps;
      out[2].as<float>()[row + r] = drawn.sampled;
    });
  }
  return {};
}

}  // namespace

/// One token per row of h [N,C] from w [V,C] with the number that keys [N,4] = (seed low, seed high, stream, index)
/// name. Order: temperature, top-k (largest k, ties by lower index), top-p (smallest set of the best with at least that
/// share of what top-k left), min-p (share of the largest probability). logps: log p of the id at temperature 1, all
/// tokens, with the bits of head_logprobs; sampled: its log-prob in the distribution that it was drawn from, which has
/// the bits of head_logprobs at that temperature when nothing was cut or penalized. A row without a finite sum gives id -1
/// and NaN. The logits of a row's `seen` ids are divided by the penalty where they are positive, else multiplied by it, before
/// the temperature; logps knows nothing of that.
Status head_sample(const Call& c) {
  Settings set = {};
  WS_TRY(check_head(c.t[0], c.t[1], "h", "w"));
  WS_TRY(read_settings(c, c.t[1].dims[0], set));
  WS_CHECK(c.p[5] >= 1e-6 && c.p[5] <= 1e6, config, "repetitionPenalty: expected 1e-6 to 1e6, got %g", c.p[5]);
  set.penalty = static_cast<float>(c.p[5]);
  return sample_heads(c, set, {c.t[0], c.t[1], nullptr, nullptr}, {c.t[2], c.t[3], c.t + 4});
}

/// The same from the geometric mixture of two models, the second of which may have another width: GeometricMixtureWrapper
/// of Nash-MD. logps and sampled are those of the mixture.
Status head_sample_mixture(const Call& c) {
  Settings set = {};
  WS_TRY(check_head(c.t[0], c.t[1], "h", "w"));
  WS_TRY(check_head(c.t[2], c.t[3], "qh", "qw"));
  WS_TRY(read_settings(c, c.t[1].dims[0], set));
  WS_CHECK(c.t[3].dims[0] == set.vocabulary && c.t[2].dims[0] == c.t[0].dims[0], shape,
           "expected qh and qw with the rows of h and w, got %s and %s", shape_text(c.t[2]).text, shape_text(c.t[3]).text);
  WS_CHECK(c.p[5] > 0 && c.p[5] < 1, config, "mixture: expected a number between 0 and 1, got %g", c.p[5]);
  set.mixture = c.p[5];
  return sample_heads(c, set, {c.t[0], c.t[1], c.t + 2, c.t + 3}, {c.t[4], View(), c.t + 5});
}

}  // namespace ws::WS_NS
