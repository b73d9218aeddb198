// The function of a shared library that stands behind one of the same name in this program.
#ifndef TESSERA_TESTS_TSAN_REAL_H_
#define TESSERA_TESTS_TSAN_REAL_H_

#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace tessera::tsan {

// Looked up by its (mangled) name at the first call; a name that no library has ends the program.
// Thread-safe, and to be made constinit: libraries call us before main.
template <typename Function>
class Real {
 public:
  explicit constexpr Real(const char* name) : name_(name) {}

  template <typename... Arguments>
  auto operator()(Arguments... arguments) {
    Function* function = function_.load(std::memory_order_relaxed);
    if (function == nullptr) function = Find();
    return function(arguments...);
  }

 private:
  Function* Find() {
    auto* function = reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name_));
    if (function == nullptr) {
      std::fprintf(stderr, "tests/tsan: no library has %s: written for another version\n", name_);
      std::abort();
    }
    function_.store(function, std::memory_order_relaxed);
    return function;
  }

  const char* const name_;
  std::atomic<Function*> function_{nullptr};
};

}  // namespace tessera::tsan

#endif  // TESSERA_TESTS_TSAN_REAL_H_
