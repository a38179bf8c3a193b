// In place of the kernels of an instruction set that no test of a build runs: its ops exist, for the tables of levels, and
// refuse. Kernels are most of what such a build compiles.
#include "../../native/core/op.h"

namespace ws::WS_NS {

#define OP(family, name, signature, parameters) \
  Status name(const Call&) { return fail(Code::internal, "%s: this build has no kernels of this level", #name); }
#include "../../native/ops.def"
#undef OP

double peak(DType, int64_t) { return 0; }

}  // namespace ws::WS_NS
