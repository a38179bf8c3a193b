// The types and constants of the CUDA driver API that we use, declared by hand: the addon builds without NVIDIA's
// headers. Layouts and values are those of cuda.h (13.0), unchanged since the version that introduced each function;
// test/native/cuda_types_test.cpp holds them against cuda.h where it is installed. No functions here.
#pragma once
#include <cstddef>
#include <cstdint>

#include "tensor_map.h"

namespace ws::cuda {

using Result = int32_t;   // CUresult
using Ordinal = int32_t;  // CUdevice
using Address = uint64_t;  // CUdeviceptr

// Handles are opaque pointers.
using Context = struct ContextTag*;
using Stream = struct StreamTag*;
using Event = struct EventTag*;
using Module = struct ModuleTag*;
using Library = struct LibraryTag*;
using Kernel = struct KernelTag*;      // of a library, for all contexts
using Function = struct FunctionTag*;  // of one context; a Kernel may be passed in its place to a launch

/// The results that we tell apart; the driver gives names for the others.
namespace result {
constexpr Result success = 0, invalid_value = 1, out_of_memory = 2, not_initialized = 3, deinitialized = 4;
constexpr Result stub_library = 34, device_unavailable = 46, no_device = 100, invalid_image = 200, invalid_context = 201;
constexpr Result no_binary_for_gpu = 209, ecc_uncorrectable = 214, invalid_ptx = 218, nvlink_uncorrectable = 220;
constexpr Result unsupported_ptx_version = 222, contained = 226, not_found = 500, not_ready = 600;
constexpr Result illegal_address = 700, launch_out_of_resources = 701, launch_timeout = 702, context_is_destroyed = 709;
constexpr Result assert_failed = 710, hardware_stack_error = 714, illegal_instruction = 715, misaligned_address = 716;
constexpr Result invalid_address_space = 717, invalid_pc = 718, launch_failed = 719, tensor_memory_leak = 721;
constexpr Result system_driver_mismatch = 803, external_device = 911, unknown = 999;
}  // namespace result

/// CUdevice_attribute
namespace attribute {
constexpr int32_t warp_size = 10, multiprocessors = 16, l2_bytes = 38, capability_major = 75, capability_minor = 76;
constexpr int32_t shared_per_block_optin = 97;
}  // namespace attribute

constexpr int32_t max_dynamic_shared_bytes = 8;  // CUfunction_attribute
constexpr int32_t binary_is_preserved = 1;       // CUlibraryOption
constexpr uint32_t stream_non_blocking = 1;      // CUstream_flags
constexpr uint32_t event_disable_timing = 2;     // CUevent_flags

/// CUtensorMapDataType, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill
namespace tensor_map {
constexpr int32_t bfloat16 = 9, no_interleave = 0, swizzle_128b = 3, promote_256b = 3, fill_zeros = 0;
}

/// CUlaunchAttribute; the value is a union of 64 bytes.
struct LaunchAttribute {
  static constexpr int32_t cooperative = 2, cluster_dimension = 4, programmatic_serialization = 6;  // of id
  int32_t id;
  char pad[4];
  union {
    char bytes[64];
    int32_t flag;          // cooperative, programmatic_serialization
    uint32_t cluster[3];
    uint64_t alignment;
  };
};

/// CUlaunchConfig
struct LaunchConfig {
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t shared_bytes;
  Stream stream;
  LaunchAttribute* attributes;
  uint32_t attribute_count;
};

}  // namespace ws::cuda
