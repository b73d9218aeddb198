// A device whose memory is not the program's, as far as anybody can tell: for what stands between
// the cache and a device.
#ifndef TESSERA_TESTS_GPU_WORKER_FAR_DEVICE_H_
#define TESSERA_TESTS_GPU_WORKER_FAR_DEVICE_H_

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "glog/logging.h"
#include "gpu_worker/device/ops.h"

namespace tessera {

// Copies that are begun beside the work are done as late as they may be: when somebody waits for
// one, and with it all that were begun before it. So whoever does not wait, or lets go of the bytes
// too early, sees wrong numbers (or ASan does). Memory holds NaNs until it is written.
class FarMemory final : public DeviceMemory {
 public:
  ~FarMemory() override {
    CHECK(sizes_.empty() && host_.empty()) << "memory outlives its device";
    CHECK(registered_.empty()) << "memory is still registered";
  }

  bool is_host() const override { return false; }
  DType activation_type() const override { return DType::kF32; }
  DType kv_type() const override { return DType::kF32; }
  int64_t row_block() const override { return 512; }
  int64_t total_bytes() const override { return int64_t{1} << 40; }
  int64_t free_bytes() const override { return int64_t{1} << 40; }

  // A larger block than this is not to be had.
  void set_largest(size_t bytes) { largest_ = bytes; }
  void* Allocate(size_t bytes) override {
    if (bytes > largest_) throw std::bad_alloc();
    return Get(bytes, &sizes_);
  }
  void Free(void* memory) override {
    if (memory != nullptr) Give(memory, &sizes_);
  }
  void* Reserve(size_t bytes) override { return Get(bytes, &sizes_); }
  void Release(void* memory, size_t bytes) override { Give(memory, &sizes_); }
  void* AllocateHost(size_t bytes) override { return Get(bytes, &host_); }
  void FreeHost(void* memory) override { Give(memory, &host_); }
  void RegisterHost(const void* begin, size_t bytes) override {
    const absl::MutexLock lock(&mutex_);
    registered_[static_cast<const char*>(begin)] = bytes;
    ++registrations_;
  }
  void UnregisterHost(const void* begin) override {
    const absl::MutexLock lock(&mutex_);
    CHECK_EQ(registered_.erase(static_cast<const char*>(begin)), 1u);
  }

  void Upload(const void* from, size_t bytes, void* to) override { std::memcpy(to, from, bytes); }
  void Download(const void* from, size_t bytes, void* to) override {
    std::memcpy(to, from, bytes);
    downloaded_bytes_ += bytes;
  }
  void Copy(const void* from, size_t from_pitch, void* to, size_t to_pitch, size_t bytes,
            int64_t rows) override {
    HostMemory().Copy(from, from_pitch, to, to_pitch, bytes, rows);
  }
  void Zero(void* memory, size_t bytes) override { std::memset(memory, 0, bytes); }

  std::unique_ptr<CopyTicket> BeginUpload(const void* from, size_t bytes, void* to) override {
    const absl::MutexLock lock(&mutex_);
    ++copies_;
    if (!Covers(host_, from, bytes) && !Covers(registered_, from, bytes)) ++slow_copies_;
    pending_.push_back({from, bytes, to});
    return std::make_unique<Ticket>(this, ++begun_);
  }
  void Await(CopyTicket& ticket) override { ticket.Wait(); }
  std::unique_ptr<CopyTicket> Mark() override { return std::make_unique<Ticket>(this, 0); }
  void DownloadBehind(CopyTicket* mark, const void* from, size_t bytes, void* to) override {
    CHECK(mark != nullptr);
    Download(from, bytes, to);
  }
  void Synchronize() override {}
  void Pace() override {}

  // What came back.
  size_t downloaded_bytes() const { return downloaded_bytes_; }
  // Copies begun beside the work; those from memory that no real device would copy from fast.
  int copies() const {
    const absl::MutexLock lock(&mutex_);
    return copies_;
  }
  int slow_copies() const {
    const absl::MutexLock lock(&mutex_);
    return slow_copies_;
  }
  int registrations() const {
    const absl::MutexLock lock(&mutex_);
    return registrations_;
  }
  size_t host_blocks() const {
    const absl::MutexLock lock(&mutex_);
    return host_.size();
  }

 private:
  using Blocks = std::map<const char*, size_t>;
  struct Pending {
    const void* from;
    size_t bytes;
    void* to;
  };
  class Ticket final : public CopyTicket {
   public:
    Ticket(FarMemory* memory, int64_t number) : memory_(*memory), number_(number) {}
    void Wait() override { memory_.DoCopies(number_); }

   private:
    FarMemory& memory_;
    const int64_t number_;
  };

  static bool Covers(const Blocks& blocks, const void* from, size_t bytes) {
    const char* const begin = static_cast<const char*>(from);
    auto block = blocks.upper_bound(begin);
    if (block == blocks.begin()) return false;
    --block;
    return begin + bytes <= block->first + block->second;
  }

  void* Get(size_t bytes, Blocks* blocks) {
    void* const memory = ::operator new(bytes, kAlignment);
    std::memset(memory, 0xff, bytes);
    const absl::MutexLock lock(&mutex_);
    (*blocks)[static_cast<const char*>(memory)] = bytes;
    return memory;
  }
  void Give(void* memory, Blocks* blocks) {
    {
      const absl::MutexLock lock(&mutex_);
      CHECK_EQ(blocks->erase(static_cast<const char*>(memory)), 1u);
    }
    ::operator delete(memory, kAlignment);
  }

  void DoCopies(int64_t up_to) {
    const absl::MutexLock lock(&mutex_);
    for (; done_ < up_to; ++done_) {
      std::memcpy(pending_.front().to, pending_.front().from, pending_.front().bytes);
      pending_.pop_front();
    }
  }

  static constexpr std::align_val_t kAlignment{64};

  std::atomic<size_t> largest_ = std::numeric_limits<size_t>::max();
  std::atomic<size_t> downloaded_bytes_ = 0;
  mutable absl::Mutex mutex_;
  Blocks sizes_ ABSL_GUARDED_BY(mutex_);
  Blocks host_ ABSL_GUARDED_BY(mutex_);
  Blocks registered_ ABSL_GUARDED_BY(mutex_);
  std::deque<Pending> pending_ ABSL_GUARDED_BY(mutex_);
  int64_t begun_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t done_ ABSL_GUARDED_BY(mutex_) = 0;
  int copies_ ABSL_GUARDED_BY(mutex_) = 0;
  int slow_copies_ ABSL_GUARDED_BY(mutex_) = 0;
  int registrations_ ABSL_GUARDED_BY(mutex_) = 0;
};

// The CPU's ops on that memory, which the CPU can read after all: with the same bits.
class FarOps final : public Ops {
 public:
  explicit FarOps(FarMemory* memory) : memory_(*memory), cpu_(MakeCpuOps(2)) {}

  std::string name() const override { return "far-" + cpu_->name(); }
  DeviceMemory& memory() override { return memory_; }

  // From then on, products of more rows than a few must have been named.
  void Prepare(absl::Span<const ProductShape> products, const std::string& folder) override {
    products_.assign(products.begin(), products.end());
  }
  int named_products() const { return named_products_; }

  void Embed(const Weight& table, IndexView ids, Matrix out) override {
    cpu_->Embed(table, ids, Rows(out));
  }
  void RmsNorm(Matrix x, absl::Span<const float> gain, float eps, Matrix out) override {
    cpu_->RmsNorm(In(x), gain, eps, Rows(out));
  }
  void MatMul(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
              Matrix out) override {
    CheckNamed(x, w.rows, !bias.empty(), accumulate, out.dtype);
    cpu_->MatMul(In(x), w, bias, accumulate, Rows(out));
  }
  // One product of weights that lie side by side.
  void MatMulMany(Matrix x, absl::Span<const Weight> w,
                  absl::Span<const absl::Span<const float>> bias, bool by_row,
                  absl::Span<const Matrix> out) override {
    int64_t cols = 0;
    for (const Weight& one : w) cols += one.rows;
    if (!by_row) CheckNamed(x, cols, !bias.empty() && !bias[0].empty(), false, out[0].dtype);
    for (size_t i = 0; i < w.size(); ++i) {
      const absl::Span<const float> b = bias.empty() ? absl::Span<const float>() : bias[i];
      if (by_row) {
        cpu_->MatMulByRow(In(x), w[i], b, /*accumulate=*/false, Rows(out[i]));
      } else {
        cpu_->MatMul(In(x), w[i], b, /*accumulate=*/false, Rows(out[i]));
      }
    }
  }
  void MatMulByRow(Matrix x, const Weight& w, absl::Span<const float> bias, bool accumulate,
                   Matrix out) override {
    cpu_->MatMulByRow(In(x), w, bias, accumulate, Rows(out));
  }
  void Rotate(Matrix x, IndexView positions, const RopeTable& rope) override {
    cpu_->Rotate(Rows(x), positions, rope);
  }
  void RotateAndWriteKv(Matrix k, Matrix v, IndexView positions, const RopeTable& rope,
                        const LayerKv& kv) override {
    cpu_->RotateAndWriteKv(Rows(k), Rows(v), positions, rope, kv);
  }
  void PlaceSlice(const SliceView& slice, int64_t first_position, const RopeTable& rope,
                  const LayerKv& kv) override {
    cpu_->PlaceSlice(slice, first_position, rope, kv);
  }
  void Attend(Matrix q, IndexView positions, const LayerKv& kv, Matrix out) override {
    cpu_->Attend(In(q), positions, kv, Rows(out));
  }
  void AttendScored(Matrix q, IndexView positions, const LayerKv& kv, bool by_value_norm,
                    Matrix out, absl::Span<float> scores) override {
    cpu_->AttendScored(In(q), positions, kv, by_value_norm, Rows(out), scores);
  }
  void SwiGlu(Matrix gate, Matrix up) override { cpu_->SwiGlu(Rows(gate), In(up)); }
  void GatherRows(Matrix x, IndexView rows, Matrix out) override {
    cpu_->GatherRows(In(x), rows, Rows(out));
  }
  void Deviation(Matrix fresh, const Bf16* cached, absl::Span<float> deviation) override {
    cpu_->Deviation(In(fresh), cached, deviation);
  }
  void Correct(absl::Span<const CorrectionTask> tasks, Matrix fresh_k, Matrix fresh_v,
               const CorrectionConstants& constants, const RopeTable& rope,
               const LayerKv& kv) override {
    cpu_->Correct(tasks, In(fresh_k), In(fresh_v), constants, rope, kv);
  }
  void RoundToSlice(Matrix k, Matrix v, Bf16* slice_k, Bf16* slice_v) override {
    cpu_->RoundToSlice(Rows(k), Rows(v), slice_k, slice_v);
  }
  void SummarizeLogits(Matrix logits, const float* temperatures,
                       const LogitsSummaries& out) override {
    cpu_->SummarizeLogits(In(logits), temperatures, out);
  }

 private:
  // The CPU knows no columns of wider matrices: it gets rows one after the other, which go back
  // when the op is done, if it may write them.
  class Rows {
   public:
    explicit Rows(Matrix matrix, bool written = true) : matrix_(matrix), written_(written) {
      if (!is_wide()) return;
      numbers_.resize(matrix.rows * matrix.cols);
      HostMemory().Copy(matrix.memory, Pitch(), numbers_.data(), RowBytes(), RowBytes(),
                        matrix.rows);
    }
    ~Rows() {
      if (!is_wide() || !written_) return;
      HostMemory().Copy(numbers_.data(), RowBytes(), matrix_.memory, Pitch(), RowBytes(),
                        matrix_.rows);
    }
    Rows(const Rows&) = delete;
    Rows& operator=(const Rows&) = delete;
    operator Matrix() {  // NOLINT: a Matrix is its view
      return {is_wide() ? numbers_.data() : matrix_.memory, matrix_.rows, matrix_.cols};
    }

   private:
    bool is_wide() const { return matrix_.step() != matrix_.cols; }
    size_t Pitch() const { return matrix_.step() * sizeof(float); }
    size_t RowBytes() const { return matrix_.cols * sizeof(float); }

    const Matrix matrix_;
    const bool written_;
    std::vector<float> numbers_;
  };
  static Rows In(Matrix matrix) { return Rows(matrix, /*written=*/false); }

  void CheckNamed(const Matrix& x, int64_t cols, bool bias, bool accumulate, DType out) {
    if (products_.empty() || x.rows <= kFewRows) return;
    CHECK(std::any_of(products_.begin(), products_.end(),
                      [&](const ProductShape& p) {
                        return p.inner == x.cols && p.cols == cols && p.bias == bias &&
                               p.accumulate == accumulate && p.out == out && p.most_rows >= x.rows;
                      }))
        << "a product that Prepare was not told of: " << x.rows << " rows of " << x.cols << " to "
        << cols;
    ++named_products_;
  }

  static constexpr int64_t kFewRows = 64;

  FarMemory& memory_;
  const std::unique_ptr<Ops> cpu_;
  std::vector<ProductShape> products_;
  int named_products_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_GPU_WORKER_FAR_DEVICE_H_
