// The products of a linear layer by a library: oneDNN (-DPEER_ONEDNN -ldnnl) or OpenBLAS (-DPEER_OPENBLAS -lopenblas),
// compiled by `--peer` where headers and library are installed. Talks as serve.py does: one line of JSON each way.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

/// c[m][n] (+)= a b, as the library is told: which operand is transposed, and whether bf16.
struct Job {
  int64_t m, n, k;
  bool a_transposed, b_transposed, accumulate, bf16;
  int threads;
};

using Run = std::function<void()>;

std::vector<float> normals(int64_t size) {
  static std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(size));
  for (float& x : values) x = normal(random);
  return values;
}

#if defined(PEER_OPENBLAS)
#include <cblas.h>

extern "C" char* openblas_get_config(void);

std::string version() {
  const std::string all = openblas_get_config();
  return all.substr(all.find(' ') + 1, all.find(' ', all.find(' ') + 1) - all.find(' ') - 1);
}

/// No bf16: distributions build OpenBLAS without it.
Run prepare(const Job& j) {
  if (j.bf16) return {};
  openblas_set_num_threads(j.threads);
  auto a = normals(j.m * j.k), b = normals(j.k * j.n), c = normals(j.m * j.n);
  return [=]() mutable {
    const int m = static_cast<int>(j.m), n = static_cast<int>(j.n), k = static_cast<int>(j.k);
    cblas_sgemm(CblasRowMajor, j.a_transposed ? CblasTrans : CblasNoTrans, j.b_transposed ? CblasTrans : CblasNoTrans, m,
                n, k, 1.0f, a.data(), j.a_transposed ? m : k, b.data(), j.b_transposed ? k : n, j.accumulate ? 1.0f : 0.0f,
                c.data(), n);
  };
}

#else
#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

using dnnl::memory;

std::string version() {
  const dnnl_version_t* v = dnnl_version();
  return std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
}

/// Operands lie as they are given; what the library wants packed it packs within the product, as PyTorch has it do.
Run prepare(const Job& j) {
  omp_set_num_threads(j.threads);
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  static dnnl::stream stream(engine);
  using Tag = memory::format_tag;
  const auto type = j.bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  const auto c_type = j.bf16 && !j.accumulate ? type : memory::data_type::f32;
  const memory::desc a({j.m, j.k}, type, j.a_transposed ? Tag::ba : Tag::ab);
  const memory::desc b({j.k, j.n}, type, j.b_transposed ? Tag::ba : Tag::ab);
  const memory::desc c({j.m, j.n}, c_type, Tag::ab);
  const auto filled = [&](const memory::desc& like, int64_t rows, int64_t columns, bool transposed) {
    memory exact({{rows, columns}, memory::data_type::f32, transposed ? Tag::ba : Tag::ab}, engine);
    const auto values = normals(rows * columns);
    std::memcpy(exact.get_data_handle(), values.data(), values.size() * sizeof(float));
    memory given(like, engine);
    dnnl::reorder(exact, given).execute(stream, exact, given);
    stream.wait();
    return given;
  };
  dnnl::primitive_attr attributes;
  if (j.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc made(engine, a, b, c, attributes);
#else
  const dnnl::matmul::primitive_desc made(dnnl::matmul::desc(a, b, c), attributes, engine);
#endif
  const std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, filled(a, j.m, j.k, j.a_transposed)},
                                                     {DNNL_ARG_WEIGHTS, filled(b, j.k, j.n, j.b_transposed)},
                                                     {DNNL_ARG_DST, filled(c, j.m, j.n, false)}};
  dnnl::matmul product(made);
  return [=]() mutable {
    product.execute(stream, arguments);
    stream.wait();
  };
}

#endif

/// The whole number behind `"key":`, or the first of a list.
int64_t number(const std::string& line, const std::string& key, int at = 0) {
  size_t place = line.find("\"" + key + "\":");
  if (place == std::string::npos) return 0;
  place += key.size() + 3;
  if (line[place] == '[') ++place;
  for (; at > 0; --at) place = line.find(',', place) + 1;
  return std::atoll(line.c_str() + place);
}

bool holds(const std::string& line, const char* text) { return line.find(text) != std::string::npos; }

/// x [N, C], w [O, C], dy [N, O], as native/cpu/matmul.cpp has them.
bool read_job(const std::string& line, Job& j) {
  j.threads = static_cast<int>(number(line, "threads"));
  if (holds(line, "\"op\":\"linear\"")) {
    j = {number(line, "x"), number(line, "w"), number(line, "x", 1), false, true, false, false, j.threads};
    j.bf16 = holds(line, "\"x\":\"bf16\"");
  } else if (holds(line, "\"op\":\"linear_dx\"")) {
    j = {number(line, "dy"), number(line, "w", 1), number(line, "dy", 1), false, false, false, false, j.threads};
    j.bf16 = holds(line, "\"dy\":\"bf16\"");
  } else if (holds(line, "\"op\":\"linear_dw\"")) {
    j = {number(line, "dy", 1), number(line, "x", 1), number(line, "x"), true, false, true, false, j.threads};
    j.bf16 = holds(line, "\"dy\":\"bf16\"");
  } else {
    return false;
  }
  return true;
}

int main() {
  std::printf("{\"version\":\"%s\"}\n", version().c_str());
  std::fflush(stdout);
  Run run;
  for (std::string line; std::getchar() != EOF;) {
    line = "{";
    for (int c = std::getchar(); c != '\n' && c != EOF; c = std::getchar()) line += static_cast<char>(c);
    const int64_t times = number(line, "run");
    if (times > 0) {
      const auto start = std::chrono::steady_clock::now();
      for (int64_t i = 0; i < times; ++i) run();
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      std::printf("{\"seconds\":%.9g}\n", seconds.count() / static_cast<double>(times));
    } else {
      Job job = {};
      run = read_job(line, job) ? prepare(job) : Run();
      std::printf(run ? "{}\n" : "{\"unsupported\":true}\n");
    }
    std::fflush(stdout);
  }
}
