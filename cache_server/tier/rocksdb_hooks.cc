#include "cache_server/tier/rocksdb_hooks.h"

#include <string>
#include <utility>

#include "cache_server/tier/rocksdb_status.h"
#include "rocksdb/compaction_filter.h"
#include "rocksdb/listener.h"

namespace tessera {
namespace {

class FailureListener : public rocksdb::EventListener {
 public:
  explicit FailureListener(const DatabaseOptions& options)
      : on_failed_(options.on_failed),
        on_recovered_(options.on_recovered),
        on_damage_(options.on_damage) {}

  void OnBackgroundError(rocksdb::BackgroundErrorReason reason, rocksdb::Status* error) override {
    if (reason == rocksdb::BackgroundErrorReason::kCompaction && IsDamage(*error)) {
      on_damage_(error->ToString());
      *error = rocksdb::Status::OK();
      return;
    }
    on_failed_(error->ToString());
  }

  void OnErrorRecoveryEnd(const rocksdb::BackgroundErrorRecoveryInfo& recovery) override {
    if (recovery.new_bg_error.ok()) on_recovered_();
  }

 private:
  const std::function<void(const std::string&)> on_failed_;
  const std::function<void()> on_recovered_;
  const std::function<void(const std::string&)> on_damage_;
};

class SliceFilter : public rocksdb::CompactionFilter {
 public:
  explicit SliceFilter(const std::function<bool(const ChunkKey&)>& is_wanted)
      : is_wanted_(is_wanted) {}

  const char* Name() const override { return "tessera.SliceFilter"; }

  // Asked before the slice is read, so what is damaged can be dropped too.
  Decision FilterBlobByKey(int, const rocksdb::Slice& key, std::string*,
                           std::string*) const override {
    ChunkKey piece;
    if (!PieceOfSliceKey(key.data(), key.size(), &piece)) return Decision::kKeep;
    return is_wanted_(piece) ? Decision::kKeep : Decision::kRemove;
  }

 private:
  const std::function<bool(const ChunkKey&)>& is_wanted_;
};

class SliceFilterFactory : public rocksdb::CompactionFilterFactory {
 public:
  SliceFilterFactory(std::function<bool(const ChunkKey&)> is_wanted,
                     std::shared_ptr<std::atomic<bool>> active)
      : is_wanted_(std::move(is_wanted)), active_(std::move(active)) {}

  const char* Name() const override { return "tessera.SliceFilterFactory"; }

  std::unique_ptr<rocksdb::CompactionFilter> CreateCompactionFilter(
      const rocksdb::CompactionFilter::Context&) override {
    if (!*active_) return nullptr;
    return std::make_unique<SliceFilter>(is_wanted_);
  }

 private:
  const std::function<bool(const ChunkKey&)> is_wanted_;
  const std::shared_ptr<std::atomic<bool>> active_;
};

}  // namespace

std::shared_ptr<rocksdb::EventListener> MakeFailureListener(const DatabaseOptions& options) {
  return std::make_shared<FailureListener>(options);
}

std::shared_ptr<rocksdb::CompactionFilterFactory> MakeSliceFilters(
    const DatabaseOptions& options, std::shared_ptr<std::atomic<bool>> active) {
  return std::make_shared<SliceFilterFactory>(options.is_wanted, std::move(active));
}

}  // namespace tessera
