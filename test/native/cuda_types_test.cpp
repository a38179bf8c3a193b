// Our hand-made declarations of the CUDA driver API against NVIDIA's, where its headers are installed: layouts, values,
// and for every function of driver.def the count, kind and size of its parameters in the version that we ask for.
#include "../../native/cuda/driver_types.h"
#include "check.h"

#if defined(WS_CUDA_HEADERS)
#include <cuda.h>
#include <cudaTypedefs.h>

using namespace ws::cuda;

namespace {

template <class A, class B>
constexpr bool alike_v = sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>;

template <class A, class B>
struct Alike : std::false_type {};
template <class... A, class... B>
struct Alike<Result (*)(A...), CUresult (*)(B...)> {
  static constexpr bool count = sizeof...(A) == sizeof...(B);
  template <bool same = count>
  static constexpr bool all() {
    if constexpr (same) return (alike_v<A, B> && ...);
    else return false;
  }
  static constexpr bool value = all();
};

#define CU(need, name, version, symbol, parameters) \
  static_assert(Alike<Result(*) parameters, PFN_##name##_v##version>::value, #name);
#include "../../native/cuda/driver.def"
#undef CU

static_assert(sizeof(Result) == sizeof(CUresult) && sizeof(Ordinal) == sizeof(CUdevice));
static_assert(sizeof(Address) == sizeof(CUdeviceptr));
static_assert(sizeof(LaunchAttribute) == sizeof(CUlaunchAttribute));
static_assert(offsetof(LaunchAttribute, id) == offsetof(CUlaunchAttribute, id));
static_assert(offsetof(LaunchAttribute, cluster) == offsetof(CUlaunchAttribute, value.clusterDim));
static_assert(offsetof(LaunchAttribute, flag) == offsetof(CUlaunchAttribute, value.cooperative));
static_assert(sizeof(LaunchConfig) == sizeof(CUlaunchConfig));
static_assert(offsetof(LaunchConfig, grid) == offsetof(CUlaunchConfig, gridDimX));
static_assert(offsetof(LaunchConfig, block) == offsetof(CUlaunchConfig, blockDimX));
static_assert(offsetof(LaunchConfig, shared_bytes) == offsetof(CUlaunchConfig, sharedMemBytes));
static_assert(offsetof(LaunchConfig, stream) == offsetof(CUlaunchConfig, hStream));
static_assert(offsetof(LaunchConfig, attributes) == offsetof(CUlaunchConfig, attrs));
static_assert(offsetof(LaunchConfig, attribute_count) == offsetof(CUlaunchConfig, numAttrs));

static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) == alignof(CUtensorMap));
static_assert(tensor_map::bfloat16 == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16);
static_assert(tensor_map::no_interleave == CU_TENSOR_MAP_INTERLEAVE_NONE);
static_assert(tensor_map::swizzle_128b == CU_TENSOR_MAP_SWIZZLE_128B);
static_assert(tensor_map::promote_256b == CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
static_assert(tensor_map::fill_zeros == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);

static_assert(LaunchAttribute::cooperative == CU_LAUNCH_ATTRIBUTE_COOPERATIVE);
static_assert(LaunchAttribute::cluster_dimension == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
static_assert(LaunchAttribute::programmatic_serialization == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
static_assert(attribute::multiprocessors == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
static_assert(attribute::l2_bytes == CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
static_assert(attribute::capability_major == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(attribute::capability_minor == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
static_assert(attribute::shared_per_block_optin == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
static_assert(max_dynamic_shared_bytes == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
static_assert(binary_is_preserved == CU_LIBRARY_BINARY_IS_PRESERVED);
static_assert(stream_non_blocking == CU_STREAM_NON_BLOCKING && event_disable_timing == CU_EVENT_DISABLE_TIMING);

static_assert(result::out_of_memory == CUDA_ERROR_OUT_OF_MEMORY && result::deinitialized == CUDA_ERROR_DEINITIALIZED);
static_assert(result::device_unavailable == CUDA_ERROR_DEVICE_UNAVAILABLE && result::no_device == CUDA_ERROR_NO_DEVICE);
static_assert(result::invalid_context == CUDA_ERROR_INVALID_CONTEXT && result::not_found == CUDA_ERROR_NOT_FOUND);
static_assert(result::ecc_uncorrectable == CUDA_ERROR_ECC_UNCORRECTABLE && result::contained == CUDA_ERROR_CONTAINED);
static_assert(result::nvlink_uncorrectable == CUDA_ERROR_NVLINK_UNCORRECTABLE);
static_assert(result::illegal_address == CUDA_ERROR_ILLEGAL_ADDRESS && result::unknown == CUDA_ERROR_UNKNOWN);
static_assert(result::launch_timeout == CUDA_ERROR_LAUNCH_TIMEOUT && result::assert_failed == CUDA_ERROR_ASSERT);
static_assert(result::context_is_destroyed == CUDA_ERROR_CONTEXT_IS_DESTROYED);
static_assert(result::hardware_stack_error == CUDA_ERROR_HARDWARE_STACK_ERROR);
static_assert(result::illegal_instruction == CUDA_ERROR_ILLEGAL_INSTRUCTION);
static_assert(result::misaligned_address == CUDA_ERROR_MISALIGNED_ADDRESS);
static_assert(result::invalid_address_space == CUDA_ERROR_INVALID_ADDRESS_SPACE);
static_assert(result::invalid_pc == CUDA_ERROR_INVALID_PC && result::launch_failed == CUDA_ERROR_LAUNCH_FAILED);
static_assert(result::tensor_memory_leak == CUDA_ERROR_TENSOR_MEMORY_LEAK);
static_assert(result::external_device == CUDA_ERROR_EXTERNAL_DEVICE);

}  // namespace

int main() {
  CHECK(true);  // what there is to check was checked by the compiler
  return check::report();
}
#else
int main() {
  std::printf("cuda.h is not installed: nothing to compare with\n");
  CHECK(sizeof(ws::cuda::LaunchAttribute) == 72 && sizeof(ws::cuda::LaunchConfig) == 56);
  return check::report();
}
#endif
