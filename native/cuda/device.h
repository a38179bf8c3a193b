// A GPU as a device of the package: native/core/device.h over one stream of the driver. Everything runs in that stream
// in the order in which it is asked for, so memory may be handed out again as soon as it has been released.
#pragma once
#include <string>
#include <vector>

#include "launcher.h"
#include "library.h"
#include "pool.h"
#include "staging.h"

namespace ws::cuda {

/// Opened by open_cuda (device.cpp); public here for the unit tests, which launch without ops.
class CudaDevice final : public Device, public Launcher, private SegmentSource {
 public:
  CudaDevice(const Gpu& gpu, int64_t limit_bytes);
  ~CudaDevice() override;
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;
  /// Context, stream and staging. On any thread.
  Status open();

  // Device
  const char* name() const override { return name_.c_str(); }
  void* allocate(int64_t bytes) override;
  void release(void* block, int64_t bytes) override;
  Status run(Op op, Call& call) override;
  bool has_kernel(Op op) const override { return entries[static_cast<int>(op)] != nullptr; }
  Status upload(void* to, const void* from, int64_t bytes) override;
  Status download(void* to, const void* from, int64_t bytes) override;
  Status sync() override;
  Status state() const override { return lost_; }
  MemoryStats memory() const override { return pool_.stats(); }
  void reset_peak() override { pool_.reset_peak(); }
  void set_threads(int) override {}
  int threads() const override { return 1; }
  int token_alignment() const override { return 16; }  // the depth of mma and wgmma

  // Launcher
  Status launch(const Launch& launch) override;
  void* scratch(int64_t bytes) override;
  Fault* fault() override { return fault_; }
  const Gpu& gpu() const override { return gpu_; }
  bool hopper() const override { return hopper_; }
  Status map_tiles(const TiledMatrix& matrix, TensorMap& map) override;

 private:
  void* take(int64_t bytes) override;
  void give(void* segment) override;
  Status make_current();
  Status check(Result result, const char* call);
  Status keep(const Status& status);
  Status attempt(const Launch& launch);
  Status start(const Launch& launch, Function function);
  Status out_of_scratch();
  Status clear_fault();
  Status ask_fault();
  Status take_fault();

  const Gpu gpu_;
  const std::string name_;
  const bool wait_after_ops_;  // WHETSTONE_CUDA_SYNC
  const bool hopper_;
  Context context_ = nullptr;
  Stream stream_ = nullptr;
  MemoryPool pool_;
  Staging staging_;
  Kernels kernels_;
  Fault* fault_ = nullptr;      // on the device
  std::vector<void*> scratch_;  // of the running op
  int64_t refused_bytes_ = 0;   // scratch that it could not have
  const char* last_op_ = "nothing";
  Status lost_;  // what every later call answers
};

}  // namespace ws::cuda
