// What an op is to native code: a Call with its operands and parameters, the Runtime that a kernel may use,
// and the enum that ops.def expands to. A device is a table with one kernel slot per op.
#pragma once
#include "check.h"
#include "op_names.h"

namespace ws {

/// Services of the device while a kernel runs. Work is cut by shape only; `worker` picks scratch, never results.
struct Runtime {
  virtual ~Runtime() = default;
  /// Number of workers, the calling thread included.
  virtual int threads() const = 0;
  /// Runs fn(context, task, worker) for every task in [0, tasks); returns when all are done. Not reentrant.
  virtual void parallel(int64_t tasks, void (*fn)(void*, int64_t, int), void* context) = 0;
  /// Scratch for this call, 64-byte aligned, contents undefined; a second call in the same op replaces the
  /// first. Null when memory is short.
  virtual void* scratch(int64_t bytes) = 0;
};

/// f(task, worker) for every task, in parallel.
template <class F>
static inline void parallel_for(Runtime& rt, int64_t tasks, F&& f) {
  if (tasks <= 0) return;
  rt.parallel(tasks, [](void* c, int64_t task, int worker) { (*static_cast<F*>(c))(task, worker); },
              const_cast<void*>(static_cast<const void*>(&f)));
}

constexpr int max_operands = 16;
constexpr int max_parameters = 16;

/// One op call: operands in the order of the signature in ops.def (inputs, then outputs) and its parameters.
struct Call {
  Runtime* rt = nullptr;
  int32_t operands = 0;
  int32_t parameters = 0;
  View t[max_operands];
  double p[max_parameters] = {0};
};

using Kernel = Status (*)(const Call&);

struct OpInfo {
  const char* name;
  const char* family;
  const char* signature;
  const char* parameters;
};

/// The table of ops.def, indexed by Op.
extern const OpInfo op_table[op_count];

/// Checks operand count, presence and element types of a call against its signature; shapes are the kernel's.
Status check_call(Op op, const Call& call);

}  // namespace ws
