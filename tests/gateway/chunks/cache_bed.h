// A real cache server of two tiers in the test's own process.
#ifndef TESSERA_TESTS_GATEWAY_CHUNKS_CACHE_BED_H_
#define TESSERA_TESTS_GATEWAY_CHUNKS_CACHE_BED_H_

#include <memory>
#include <string>

namespace tessera {

class CacheBed {
 public:
  virtual ~CacheBed() = default;

  // Starts; with a token, callers must show it.
  static std::unique_ptr<CacheBed> Start(const std::string& token = "");

  virtual const std::string& address() const = 0;
  // Stops the service, and starts it again at the same address; what is stored stays.
  virtual void Stop() = 0;
  virtual void StartAgain() = 0;
  // Flips a bit of a stored value where it lies.
  virtual void Damage(const std::string& key) = 0;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_GATEWAY_CHUNKS_CACHE_BED_H_
