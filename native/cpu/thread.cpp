// Threads by pthread, which says no where std::thread throws.
#include "../core/thread.h"

#include <pthread.h>

#include <memory>
#include <utility>

namespace ws {
namespace {

using Work = std::function<void()>;

void* run(void* work) {
  const std::unique_ptr<Work> owned(static_cast<Work*>(work));
  (*owned)();
  return nullptr;
}

}  // namespace

static_assert(sizeof(pthread_t) == sizeof(unsigned long));

Thread::Thread(Thread&& other) noexcept : id_(other.id_), started_(std::exchange(other.started_, false)) {}

bool Thread::start(Work work) {
  auto owned = std::make_unique<Work>(std::move(work));
  pthread_t id{};
  started_ = pthread_create(&id, nullptr, run, owned.get()) == 0;
  if (started_) owned.release();
  id_ = static_cast<unsigned long>(id);
  return started_;
}

void Thread::join() {
  if (std::exchange(started_, false)) pthread_join(static_cast<pthread_t>(id_), nullptr);
}

}  // namespace ws
