// The kernel table of one instruction set: this file is compiled once per level, like every kernel file, and
// lists the functions that ops.def names. cpu/device.cpp chooses a table when the addon starts.
#include "../core/op.h"

namespace ws::WS_NS {

#define OP(family, name, signature, parameters) Status name(const Call&);
#include "../ops.def"
#undef OP

extern const Kernel kernels[op_count];
const Kernel kernels[op_count] = {
#define OP(family, name, signature, parameters) name,
#include "../ops.def"
#undef OP
};

}  // namespace ws::WS_NS
