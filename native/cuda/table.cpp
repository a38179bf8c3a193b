// Which ops have CUDA kernels. An op without one is refused by name when it is called on a GPU.
#include "launcher.h"

namespace ws::cuda {

// Weak: an op whose family has no file in this build is null in the table.
#define OP(family, name, signature, parameters) [[gnu::weak]] Status name(const Call&, Launcher&);
#include "../ops.def"
#undef OP

const Entry entries[op_count] = {
#define OP(family, name, signature, parameters) name,
#include "../ops.def"
#undef OP
};

int entry_count() {
  int count = 0;
  for (const Entry entry : entries) count += entry != nullptr ? 1 : 0;
  return count;
}

}  // namespace ws::cuda
