// Sampling from the head on the GPU: a penalty for repetition, temperature, then top-k, top-p and min-p on the tempered
// distribution, one counter-based uniform number per row, inverse CDF. Semantics: native/cpu/sample.cpp. A block has a row.
// Thresholds are exact: a radix selection over the order of the floats, ties by index. Masses are whole multiples of 2^-40 of
// the best token's, so that sums are exact and have no order; log-probs have the bits of head_logprobs.
#include "../core/rng.h"
#include "head_rows.h"

namespace ws::cuda {
namespace {

constexpr int bins = 2048, bins_per_thread = bins / row_threads;
constexpr float mass_unit = 0x1p40f;

struct SampleArguments {
  float* logits;                   // capped [rows, stride]; the penalty changes them
  const Partial *partials, *plain; // [rows, groups]: sums of the tempered logits, and of those at temperature 1
  const int32_t *keys, *seen;      // seen: [tokens, width], ascending, -1 for none
  float *unpenalized, *tops;       // [rows, width]: what the logits of `seen` were; [rows]: the maxima since
  int32_t* ids;
  float *logps, *sampled;
  int64_t row, stride, vocabulary, groups;
  int64_t top_k;  // 0: all
  int64_t width;  // 0: no penalty
  float inverse_temperature, penalty;
  double top_p, min_p;
  int32_t greedy, truncated;
  Fault* fault;
};

/// Shared memory of a row.
struct RowShared {
  uint64_t mass[bins];
  uint32_t count[bins];
  uint64_t sums[row_threads];
  int64_t place;
};

WS_DEVICE RowShared& row_shared() { return *reinterpret_cast<RowShared*>(shared()); }

/// Unsigned integers in the order of the floats; -0 equals 0.
WS_DEVICE uint32_t order_of(float x) {
  const uint32_t u = as_bits(x + 0.0f);
  return u ^ ((u >> 31) != 0 ? 0xffffffffu : 0x80000000u);
}

/// The best candidates: all above `order`, and those that have it up to index `last`.
struct Cut {
  uint32_t order;
  int64_t last;
  WS_DEVICE bool keeps(uint32_t o, int64_t i) const { return o > order || (o == order && i <= last); }
};

/// A row in work: its logits, the maximum of the tempered ones, and what is left of them.
struct Row {
  const float* logits;
  float inverse_temperature;
  int64_t size;
  float top;
  Cut cut;

  WS_DEVICE float z(int64_t i) const { return logits[i] * inverse_temperature; }
  WS_DEVICE uint32_t order(int64_t i) const { return order_of(z(i)); }
  WS_DEVICE float share(int64_t i) const { return exponential(z(i) - top); }
  WS_DEVICE uint64_t mass(int64_t i) const { return static_cast<uint64_t>(share(i) * mass_unit); }
};

template <class F>
WS_DEVICE void over_row(const Row& row, F f) {
  for (int64_t i = thread(); i < row.size; i += row_threads) f(i);
}

/// The first index for which f holds, in all threads.
template <class F>
WS_DEVICE int64_t first_place(int64_t size, F f) {
  RowShared& s = row_shared();
  const int64_t each_thread = (size + row_threads - 1) / row_threads, begin = thread() * each_thread;
  int64_t found = size;
  for (int64_t i = begin; i < size && i < begin + each_thread && found == size; ++i)
    if (f(i)) found = i;
  s.sums[thread()] = static_cast<uint64_t>(found);
  barrier();
  int64_t first = size;
  for (int i = 0; i < row_threads; ++i)
    if (static_cast<int64_t>(s.sums[i]) < first) first = static_cast<int64_t>(s.sums[i]);
  return first;
}

/// Counts and masses of the candidates whose order begins with `prefix`, by their next `width` bits.
WS_DEVICE void histogram(const Row& row, uint32_t prefix, int shift, int width) {
  RowShared& s = row_shared();
  for (int i = thread(); i < bins; i += row_threads) s.mass[i] = 0, s.count[i] = 0;
  barrier();
  over_row(row, [&](int64_t i) {
    const uint32_t order = row.order(i);
    if (!row.cut.keeps(order, i) || (static_cast<uint64_t>(order) >> (shift + width)) != prefix) return;
    const uint32_t bin = order >> shift & ((1u << width) - 1);
    atomic_add(&s.count[bin], 1u);
    atomic_add(&s.mass[bin], row.mass(i));
  });
  barrier();
}

/// What lies above the bin that reaches the goal, and that bin: from the top down, first by threads' shares, then by bin.
struct Boundary {
  int bin;
  double above;
};
WS_DEVICE Boundary find_boundary(double goal, bool by_mass) {
  RowShared& s = row_shared();
  const auto size = [&](int bin) { return by_mass ? s.mass[bin] : static_cast<uint64_t>(s.count[bin]); };
  uint64_t own = 0;
  for (int i = 0; i < bins_per_thread; ++i) own += size(thread() * bins_per_thread + i);
  s.sums[thread()] = own;
  barrier();
  Boundary found = {-1, 0};
  uint64_t above = 0;
  int share = row_threads - 1;
  for (; share > 0 && static_cast<double>(above + s.sums[share]) < goal; --share) above += s.sums[share];
  // When rounding left the goal out of reach, the lowest bin with candidates is the boundary.
  for (int bin = (share + 1) * bins_per_thread - 1; bin >= 0; --bin) {
    if (s.count[bin] == 0) continue;
    if (found.bin >= 0) above += size(found.bin);
    found = {bin, static_cast<double>(above)};
    if (static_cast<double>(above + size(bin)) >= goal) break;
  }
  for (int bin = 0; found.bin < 0 && bin < bins; ++bin)
    if (s.count[bin] != 0) found = {bin, static_cast<double>(above - size(bin))};
  return found;
}

/// Index of the n-th candidate (from 1) that has this order.
WS_DEVICE int64_t place_of_equal(const Row& row, uint32_t order, int64_t n) {
  RowShared& s = row_shared();
  const auto counts = [&](int64_t i) { return row.order(i) == order && row.cut.keeps(order, i); };
  const int64_t each_thread = (row.size + row_threads - 1) / row_threads, begin = thread() * each_thread;
  const int64_t end = begin + each_thread < row.size ? begin + each_thread : row.size;
  uint64_t own = 0;
  for (int64_t i = begin; i < end; ++i) own += counts(i);
  s.sums[thread()] = own;
  barrier();
  int64_t before = 0;
  for (int i = 0; i < thread(); ++i) before += static_cast<int64_t>(s.sums[i]);
  if (before < n && n <= before + static_cast<int64_t>(own))
    for (int64_t i = begin; i < end; ++i)
      if (counts(i) && ++before == n) s.place = i;
  barrier();
  return s.place;
}

/// How many of `count` equal masses reach the goal; at least 1.
WS_DEVICE int64_t reach(double goal, double each_mass, int64_t count) {
  int64_t few = 1, many = count;
  while (few < many) {
    const int64_t middle = few + (many - few) / 2;
    if (static_cast<double>(middle) * each_mass >= goal) many = middle;
    else few = middle + 1;
  }
  return few;
}

/// Cuts the row to the smallest set of best candidates with `wanted` members or that share of the mass.
WS_DEVICE void select(Row& row, double wanted, bool by_mass) {
  RowShared& s = row_shared();
  uint32_t prefix = 0;
  double goal = wanted, each_mass = 1;
  int64_t inside = 0;
  for (int shift = 32; shift > 0;) {
    const int width = shift < 11 ? shift : 11;
    shift -= width;
    histogram(row, prefix, shift, width);
    if (by_mass && shift + width == 32) {
      uint64_t total = 0;
      for (int i = 0; i < bins; ++i) total += s.mass[i];
      goal = wanted * static_cast<double>(total);
    }
    const Boundary b = find_boundary(goal, by_mass);
    goal -= b.above;
    prefix = prefix << width | static_cast<uint32_t>(b.bin);
    inside = static_cast<int64_t>(s.count[b.bin]);
    each_mass = by_mass ? static_cast<double>(s.mass[b.bin]) / static_cast<double>(inside) : 1.0;
    barrier();  // all have read the histogram and the sums
  }
  row.cut = {prefix, place_of_equal(row, prefix, reach(goal, each_mass, inside))};
}

/// Inverse CDF by index over exact masses: the place, and the total in units.
WS_DEVICE int64_t draw(const Row& row, double u, double min_p, uint64_t& total) {
  RowShared& s = row_shared();
  const auto mass = [&](int64_t i) -> uint64_t {
    if (!row.cut.keeps(row.order(i), i)) return 0;
    const float e = row.share(i);
    return static_cast<double>(e) >= min_p ? static_cast<uint64_t>(e * mass_unit) : 0;
  };
  const int64_t each_thread = (row.size + row_threads - 1) / row_threads, begin = thread() * each_thread;
  const int64_t end = begin + each_thread < row.size ? begin + each_thread : row.size;
  uint64_t own = 0;
  for (int64_t i = begin; i < end; ++i) own += mass(i);
  s.sums[thread()] = own;
  barrier();
  uint64_t before = 0;
  total = 0;
  for (int i = 0; i < row_threads; ++i) {
    if (i < thread()) before += s.sums[i];
    total += s.sums[i];
  }
  uint64_t goal = static_cast<uint64_t>(u * static_cast<double>(total));
  if (goal >= total) goal = total - 1;
  if (before <= goal && goal < before + own)
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t m = mass(i);
      if (goal < before + m) {
        s.place = i;
        break;
      }
      before += m;
    }
  barrier();
  return s.place;
}

/// Is it an id, above the one before it? What is out of order is reported and passed over.
WS_DEVICE bool is_seen(const SampleArguments& a, int64_t at, bool is_first) {
  constexpr int operand = 3;
  const int32_t id = a.seen[at], before = is_first ? -1 : a.seen[at - 1];
  if (id == -1 && before == -1) return false;
  if (!check_index(a.fault, Op::head_sample, operand, at, id, a.vocabulary)) return false;
  return before < 0 || check_index(a.fault, Op::head_sample, operand, at - 1, before, id);
}

/// Changes the logits of the seen ids and keeps what they were, and the maximum of the row as it is then.
WS_KERNEL(penalize_row, row_threads, SampleArguments, a) {
  const int64_t r = block().x, first = (a.row + r) * a.width;
  float* logits = a.logits + r * a.stride;
  for (int64_t i = thread(); i < a.width; i += row_threads) {
    if (!is_seen(a, first + i, i == 0)) continue;
    float& logit = logits[a.seen[first + i]];
    a.unpenalized[r * a.width + i] = logit;
    logit = logit < 0 ? logit * a.penalty : logit / a.penalty;
  }
  barrier();
  float top = -infinity;
  for (int64_t i = thread(); i < a.vocabulary; i += row_threads) top = larger(top, logits[i]);
  top = row_max(top);
  if (thread() == 0) a.tops[r] = top;
}

/// Puts the log-prob of a seen id right, which the model knows without the penalty. A warp has a row.
WS_KERNEL(unpenalize_logps, warp_size, SampleArguments, a) {
  const int64_t r = block().x, token = a.row + r;
  const int32_t* seen = a.seen + token * a.width;
  const int32_t id = a.ids[token];
  int64_t low = 0, high = a.width;  // the first place that is not below the id
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (seen[middle] < id) low = middle + 1;
    else high = middle;
  }
  const RowStatistics plain = merge_groups(a.plain + r * a.groups, a.groups);
  if (id < 0 || low == a.width || seen[low] != id || lane() != 0) return;
  a.logps[token] = log_prob(plain, a.unpenalized[r * a.width + low]);
}

WS_KERNEL(sample_row, row_threads, SampleArguments, a) {
  const int64_t r = block().x, token = a.row + r;
  const float* logits = a.logits + r * a.stride;
  const RowStatistics plain = merge_groups(a.plain + r * a.groups, a.groups);
  const auto finish = [&](int64_t id, float logps, float sampled) {
    if (thread() != 0) return;
    a.ids[token] = static_cast<int32_t>(id);
    a.logps[token] = logps;
    a.sampled[token] = sampled;
  };
  if (!(plain.sum > 0)) return finish(-1, as_float(0x7fc00000u), as_float(0x7fc00000u));
  const float top = a.width > 0 ? a.tops[r] : plain.top;
  if (a.greedy != 0) {
    const int64_t id = first_place(a.vocabulary, [&](int64_t i) { return logits[i] == top; });
    return finish(id, log_prob(plain, top), 0.0f);
  }
  RowStatistics tempered = plain;
  if (a.partials != a.plain) tempered = merge_groups(a.partials + r * a.groups, a.groups);
  if (a.width > 0) tempered.top = top * a.inverse_temperature;  // the sum is that of what is left
  // A logit that the temperature makes infinite, or the penalty.
  if (!(tempered.sum > 0 && tempered.top > -infinity && tempered.top < infinity))
    return finish(-1, as_float(0x7fc00000u), as_float(0x7fc00000u));
  Row row = {logits, a.inverse_temperature, a.vocabulary, tempered.top, {0, a.vocabulary}};
  if (a.top_k > 0 && a.top_k < a.vocabulary) select(row, static_cast<double>(a.top_k), false);
  if (a.top_p < 1) select(row, a.top_p, true);
  const int32_t* key = a.keys + 4 * token;
  const double u = uniform53(random4(static_cast<uint32_t>(key[0]), static_cast<uint32_t>(key[1]),
                                     static_cast<uint32_t>(key[2]), static_cast<uint32_t>(key[3])));
  uint64_t total = 0;
  const int64_t id = draw(row, u, a.min_p, total);
  if (a.truncated != 0) tempered.sum = static_cast<double>(total) / static_cast<double>(mass_unit);
  finish(id, log_prob(plain, logits[id]), log_prob(tempered, row.z(id)));
}

// Two heads ----------------------------------------------------------------------------------------------------------------

/// Row r is row r of what these point to.
struct MixArguments {
  float* z;               // capped logits [rows, stride]; they become those of the mixture
  const float* qz;
  Partial *partials, *plain;  // [rows, groups]: of the tempered mixture and, unless null, of that at temperature 1
  int64_t stride, vocabulary, groups;
  float own, other, inverse_temperature;
};

constexpr int mixed_groups = 8;  // of a warp, and of a block that many times its warps
constexpr int lane_words = static_cast<int>(group_words) / warp_size;

/// Maximum of a group, and the sum of exp(z - top); a lane has every 32nd word.
WS_DEVICE void fold_group(const float* x, float factor, Partial* to) {
  float top = -infinity, sum = 0;
  WS_UNROLL
  for (int k = 0; k < lane_words; ++k) top = larger(top, x[k] * factor);
  top = warp_max(top);
  const float shift = top == -infinity ? 0.0f : top;
  WS_UNROLL
  for (int k = 0; k < lane_words; ++k) sum += exponential(x[k] * factor - shift);
  sum = warp_sum(sum);
  if (lane() == 0) *to = {top, sum};
}

WS_KERNEL(mix_heads, row_threads, MixArguments, a) {
  const int64_t r = block().x, first = (static_cast<int64_t>(block().y) * row_warps + warp()) * mixed_groups;
  float* z = a.z + r * a.stride;
  const float* qz = a.qz + r * a.stride;
  for (int64_t g = first; g < first + mixed_groups && g < a.groups; ++g) {
    float x[lane_words];
    WS_UNROLL
    for (int k = 0; k < lane_words; ++k) {
      const int64_t i = g * group_words + k * warp_size + lane();
      x[k] = i < a.vocabulary ? a.own * z[i] + a.other * qz[i] : -infinity;
      if (i < a.vocabulary) z[i] = x[k];
    }
    if (a.plain != nullptr) fold_group(x, 1.0f, a.plain + r * a.groups + g);
    fold_group(x, a.inverse_temperature, a.partials + r * a.groups + g);
  }
}

}  // namespace

#if WS_HOST

namespace {

constexpr int64_t most_logits = int64_t{1} << 24;

Status check_settings(const double* p) {
  WS_CHECK(p[0] >= 0 && __builtin_isfinite(p[0]), config, "softcap: expected 0 (none) or more, got %g", p[0]);
  WS_CHECK(p[1] == 0 || (p[1] >= 1e-6 && __builtin_isfinite(p[1])), config,
           "temperature: expected 0 (the best token) or at least 1e-6, got %g", p[1]);
  WS_CHECK(p[2] >= 0 && p[2] <= 2147483647.0 && p[2] == __builtin_floor(p[2]), config,
           "topK: expected a whole number from 0 (all), got %g", p[2]);
  WS_CHECK(p[3] >= 0 && p[3] <= 1, config, "topP: expected 0 to 1 (all), got %g", p[3]);
  WS_CHECK(p[4] >= 0 && p[4] <= 1, config, "minP: expected 0 (all) to 1, got %g", p[4]);
  return {};
}

/// One head, or two (q null: one).
struct Heads {
  const View &h, &w;
  const View *qh, *qw;
  double mixture;
};

Status check_heads(const View& h, const View& w) {
  WS_CHECK(h.rank == 2 && w.rank == 2 && w.dims[1] == h.dims[1], shape, "expected h [N, C] and w [V, C], got %s, %s",
           shape_text(h).text, shape_text(w).text);
  return {};
}

/// Logits of some rows with the sums of their groups. `second`: room for another head's.
Status row_logits(Launcher& on, const Heads& from, int64_t row, int64_t count, const KeptLogits& kept, float* second) {
  if (second == nullptr) return head_logits(on, from.h, from.w, row, count, kept);
  KeptLogits bare = kept;
  bare.partials = bare.plain = nullptr;
  WS_TRY(head_logits(on, from.h, from.w, row, count, bare));
  bare.logits = second;
  WS_TRY(head_logits(on, *from.qh, *from.qw, row, count, bare));
  const int64_t vocabulary = from.w.dims[0], groups = (vocabulary + group_words - 1) / group_words;
  const MixArguments a = {kept.logits,   second, kept.partials, kept.plain, kept.stride, vocabulary, groups,
                          static_cast<float>(1 - from.mixture), static_cast<float>(from.mixture), kept.inverse_temperature};
  return start(on, mix_heads, {static_cast<uint32_t>(count), blocks_for(groups, row_warps * mixed_groups), 1}, 0, a);
}

/// What rows are drawn with, and where ids, logps and sampled go.
struct Draws {
  const View &keys, &seen;
  float penalty;
  const View* out;
};

Status sample_heads(const Call& c, Launcher& on, const Heads& from, const Draws& draws) {
  const View &keys = draws.keys, &seen = draws.seen;
  const View* const out = draws.out;
  const char* const names[] = {"ids", "logps", "sampled"};
  const int64_t tokens = from.h.dims[0], vocabulary = from.w.dims[0];
  WS_TRY(check_settings(c.p));
  WS_CHECK(keys.rank == 2 && keys.dims[0] == tokens && keys.dims[1] == 4, shape, "keys: expected [%lld, 4], got %s",
           static_cast<long long>(tokens), shape_text(keys).text);
  for (int i = 0; i < 3; ++i) WS_TRY(vector_of(out[i], names[i], tokens));
  WS_CHECK(!seen.present() || (seen.rank == 2 && seen.dims[0] == tokens), shape, "seen: expected [%lld, S], got %s",
           static_cast<long long>(tokens), shape_text(seen).text);
  if (tokens == 0) return {};
  WS_CHECK(vocabulary > 0, shape, "w: the vocabulary is empty");
  WS_CHECK(vocabulary <= int64_t{1} << 22, shape, "w: at most 4194304 words can be drawn from on a GPU, got %lld",
           static_cast<long long>(vocabulary));
  const int64_t stride = (vocabulary + 7) / 8 * 8, fit = most_logits / stride > 0 ? most_logits / stride : 1;
  const int64_t rows = tokens < fit ? tokens : fit;
  const int64_t groups = (vocabulary + group_words - 1) / group_words;
  const float inverse_temperature = c.p[1] == 0 ? 1.0f : static_cast<float>(1.0 / c.p[1]);
  const auto sums = [&] { return static_cast<Partial*>(on.scratch(rows * groups * static_cast<int64_t>(sizeof(Partial)))); };
  const auto logits = [&] { return static_cast<float*>(on.scratch(rows * stride * 4)); };
  KeptLogits kept = {logits(), stride, sums(), nullptr, static_cast<float>(c.p[0]), inverse_temperature};
  if (inverse_temperature != 1.0f) kept.plain = sums();
  const Partial* plain = inverse_temperature != 1.0f ? kept.plain : kept.partials;
  float* const second = from.qh == nullptr ? nullptr : logits();
  WS_CHECK(kept.logits != nullptr && kept.partials != nullptr && plain != nullptr && (from.qh == nullptr || second != nullptr),
           oom, "no memory for the logits of %lld rows", static_cast<long long>(rows));
  const int64_t width = seen.present() && draws.penalty != 1.0f ? seen.dims[1] : 0;
  float* unpenalized = width == 0 ? nullptr : static_cast<float*>(on.scratch(rows * width * 4));
  float* tops = width == 0 ? nullptr : static_cast<float*>(on.scratch(rows * 4));
  WS_CHECK(width == 0 || (unpenalized != nullptr && tops != nullptr), oom, "no memory for the penalties of %lld rows",
           static_cast<long long>(rows));
  SampleArguments a = {kept.logits, kept.partials, plain, keys.as<int32_t>(),
                       width == 0 ? nullptr : seen.as<int32_t>(), unpenalized, tops, out[0].as<int32_t>(),
                       out[1].as<float>(), out[2].as<float>(), 0, stride, vocabulary, groups, static_cast<int64_t>(c.p[2]), width,
                       inverse_temperature, draws.penalty, c.p[3], c.p[4], c.p[1] == 0, 0, on.fault()};
  a.truncated = (a.top_k > 0 && a.top_k < vocabulary) || a.top_p < 1 || a.min_p > 0 || width > 0;
  for (a.row = 0; a.row < tokens; a.row += rows) {
    const int64_t count = tokens - a.row < rows ? tokens - a.row : rows;
    WS_TRY(row_logits(on, from, a.row, count, kept, second));
    const Extent grid = {static_cast<uint32_t>(count), 1, 1};
    if (width > 0) WS_TRY(start(on, penalize_row, grid, row_warps * sizeof(float), a));
    WS_TRY(start(on, sample_row, grid, sizeof(RowShared), a));
    if (width > 0) WS_TRY(start(on, unpenalize_logps, grid, 0, a));
  }
  return {};
}

}  // namespace

Status head_sample(const Call& c, Launcher& on) {
  WS_TRY(check_heads(c.t[0], c.t[1]));
  WS_CHECK(c.p[5] >= 1e-6 && c.p[5] <= 1e6, config, "repetitionPenalty: expected 1e-6 to 1e6, got %g", c.p[5]);
  const float penalty = static_cast<float>(c.p[5]);
  return sample_heads(c, on, {c.t[0], c.t[1], nullptr, nullptr, 0}, {c.t[2], c.t[3], penalty, c.t + 4});
}

Status head_sample_mixture(const Call& c, Launcher& on) {
  const View &h = c.t[0], &w = c.t[1], &qh = c.t[2], &qw = c.t[3];
  WS_TRY(check_heads(h, w));
  WS_TRY(check_heads(qh, qw));
  WS_CHECK(qh.dims[0] == h.dims[0] && qw.dims[0] == w.dims[0], shape,
           "expected qh and qw with the rows of h and w, got %s and %s", shape_text(qh).text, shape_text(qw).text);
  WS_CHECK(c.p[5] > 0 && c.p[5] < 1, config, "mixture: expected a number between 0 and 1, got %g", c.p[5]);
  return sample_heads(c, on, {h, w, &qh, &qw, c.p[5]}, {c.t[4], View(), 1.0f, c.t + 5});
}

#endif

}  // namespace ws::cuda
