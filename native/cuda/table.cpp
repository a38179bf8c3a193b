// Which ops have CUDA kernels. An op without one is refused by name when it is called on a GPU.
#include "launcher.h"

namespace ws::cuda {

const Entry entries[op_count] = {};

int entry_count() {
  int count = 0;
  for (const Entry entry : entries) count += entry != nullptr ? 1 : 0;
  return count;
}

}  // namespace ws::cuda
