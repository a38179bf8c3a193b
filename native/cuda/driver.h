// The CUDA driver's library, opened at run time: one table of functions per process. Nothing of CUDA is linked. What
// the functions are used for is in device.cpp and library.cpp.
#pragma once
#include <string>
#include <vector>

#include "../core/check.h"
#include "driver_types.h"

namespace ws::cuda {

/// The functions of driver.def by their names in cuda.h. Null where the driver does not have them.
struct Driver {
#define CU(need, name, version, symbol, parameters) Result(*name) parameters = nullptr;
#include "driver.def"
#undef CU
  int32_t version = 0;               // newest CUDA version that the driver speaks, 13000 for 13.0
  std::string file;                  // what dlopen was given
  std::vector<std::string> missing;  // optional functions that this driver lacks
  Status status;                     // why it cannot be used; the functions may be null then
};

/// A GPU as the driver describes it.
struct Gpu {
  Ordinal ordinal = 0;
  std::string name;
  int32_t major = 0, minor = 0;  // compute capability
  int32_t multiprocessors = 0;
  int32_t shared_bytes = 0;  // most shared memory that a block may have, opted in
  int64_t l2_bytes = 0;
  int64_t total_bytes = 0;
};

/// The driver, opened and initialised by the first call of the process; look at its status first. The library is
/// `libcuda.so.1`, or the file that WHETSTONE_CUDA_LIBRARY names. It is never closed.
const Driver& driver();

/// All GPUs that the driver shows (CUDA_VISIBLE_DEVICES decides which), by their ordinals.
Status list_gpus(std::vector<Gpu>& gpus);

/// Names the result as the driver does: "CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered)".
std::string describe(Result result);

/// True for results after which the context answers nothing else any more.
bool is_fatal(Result result);

/// The status of a failed call: oom and device_lost where they fit, internal otherwise.
Status to_status(Result result, const char* call);

/// CUDA versions as people write them: 13000 is 13.0.
std::string version_text(int32_t version);

}  // namespace ws::cuda
