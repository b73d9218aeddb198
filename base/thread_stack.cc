// Threads whose creator asks for a small stack start in a program with large thread-local data too.
//
// glibc takes a thread's static thread-local data from its stack, and does not start one whose
// stack is smaller (sourceware bug 11787). The HTTP server of prometheus-cpp asks for 100 KiB;
// cuBLASLt alone brings 92 KiB of such data. glibc tells how much it needs in a function that it
// has for this (the JVM and Rust's standard library ask it too); so whoever asks for a stack gets
// that on top.
#include <dlfcn.h>
#include <pthread.h>

#include <cstddef>

extern "C" int pthread_attr_setstacksize(pthread_attr_t* attr, size_t size) noexcept {
  using SetStackSize = int (*)(pthread_attr_t*, size_t);
  using LeastStack = size_t (*)(const pthread_attr_t*);
  static const auto set =
      reinterpret_cast<SetStackSize>(dlsym(RTLD_NEXT, "pthread_attr_setstacksize"));
  static const auto least =
      reinterpret_cast<LeastStack>(dlsym(RTLD_DEFAULT, "__pthread_get_minstack"));
  return set(attr, size + (least != nullptr ? least(attr) : 0));
}
