#include "gpu_worker/serve/scheduler.h"

#include <algorithm>
#include <deque>
#include <utility>

namespace tessera {
namespace {

class Planner {
 public:
  Planner(const SchedulerState& state, const SchedulerOptions& options)
      : state_(state), options_(options), free_(state.free_blocks) {
    for (const SchedulerEntry& entry : state.entries) {
      (entry.stage == Stage::kWaiting ? waiting_ : running_).push_back(&entry);
    }
    for (auto* entries : {&waiting_, &running_}) {
      std::sort(entries->begin(), entries->end(),
                [](const SchedulerEntry* a, const SchedulerEntry* b) { return Before(*a, *b); });
    }
  }

  Batch Plan() {
    if (IsDecodeDue()) PlanDecode();
    // What preemption gave back is for those that run; the preempted come first in the next plan.
    if (batch_.preempted.empty()) PlanStarts();
    PlanPrefill();
    batch_.chunk = state_.has_chunk && !batch_.prefilled.has_value();
    return std::move(batch_);
  }

 private:
  static bool Before(const SchedulerEntry& a, const SchedulerEntry& b) {
    return std::pair(a.rank, a.id) < std::pair(b.rank, b.id);
  }
  static bool CanPrefill(const SchedulerEntry* entry) {
    return entry->stage == Stage::kPrefilling && !entry->is_loading;
  }

  bool IsDecodeDue() const {
    const bool other_work =
        state_.has_chunk || std::any_of(running_.begin(), running_.end(), CanPrefill);
    const double others = (1 - options_.decode_share) / options_.decode_share;
    return !other_work || state_.since_decode >= others * state_.decode_step;
  }

  // Takes the last in order off those that run.
  const SchedulerEntry* PreemptLast() {
    const SchedulerEntry* last = running_.back();
    running_.pop_back();
    free_ += last->blocks_held;
    batch_.preempted.push_back(last->id);
    return last;
  }

  void PlanDecode() {
    // running_ may get shorter on the way.
    for (size_t i = 0; i < running_.size(); ++i) {
      const SchedulerEntry* entry = running_[i];
      if (entry->stage != Stage::kDecoding) continue;
      bool stays = true;
      while (stays && entry->blocks > free_) stays = PreemptLast() != entry;
      if (!stays) return;
      free_ -= entry->blocks;
      batch_.decoded.push_back(entry->id);
    }
  }

  size_t Prefilling() const {
    return std::count_if(running_.begin(), running_.end(), [](const SchedulerEntry* entry) {
      return entry->stage == Stage::kPrefilling;
    });
  }

  bool HasRoomFor(const SchedulerEntry& entry) const {
    // Where nothing runs, all blocks are free; who needs more than that is told so when it starts.
    if (running_.empty()) return true;
    const size_t prefilling = Prefilling();
    const auto spare = static_cast<int64_t>(running_.size() - prefilling);
    return running_.size() < options_.max_running && prefilling < options_.max_prefilling &&
           entry.blocks + spare <= free_;
  }

  // Preempts those that stand behind `entry` and have a worse priority, from the last on, until it
  // has room; nobody, if all of them would not do.
  bool MakeRoomFor(const SchedulerEntry& entry) {
    Planner tried = *this;
    while (!tried.HasRoomFor(entry)) {
      const SchedulerEntry& last = *tried.running_.back();
      if (last.priority <= entry.priority || !Before(entry, last)) return false;
      tried.PreemptLast();
      std::erase(tried.batch_.decoded, last.id);
    }
    running_ = std::move(tried.running_);
    free_ = tried.free_;
    batch_ = std::move(tried.batch_);
    return true;
  }

  void PlanStarts() {
    for (const SchedulerEntry* entry : waiting_) {
      if (!HasRoomFor(*entry) && !MakeRoomFor(*entry)) return;
      batch_.started.push_back(entry->id);
      free_ -= entry->blocks;
      SchedulerEntry& started = started_.emplace_back(*entry);
      started.stage = Stage::kPrefilling;
      started.is_new = true;
      started.blocks_held = entry->blocks;
      running_.insert(std::upper_bound(running_.begin(), running_.end(), &started,
                                       [](const SchedulerEntry* a, const SchedulerEntry* b) {
                                         return Before(*a, *b);
                                       }),
                      &started);
      // Those that were preempted for it may stand before the next one.
      if (!batch_.preempted.empty()) return;
    }
  }

  void PlanPrefill() {
    const SchedulerEntry* best = nullptr;
    for (const SchedulerEntry* entry : running_) {
      if (!CanPrefill(entry)) continue;
      if (best == nullptr || (entry->is_new && !best->is_new)) best = entry;
    }
    if (best != nullptr) batch_.prefilled = best->id;
  }

  const SchedulerState& state_;
  const SchedulerOptions& options_;
  int64_t free_;
  std::vector<const SchedulerEntry*> waiting_, running_;  // in order
  std::deque<SchedulerEntry> started_;  // as they are from now on; running_ points to them
  Batch batch_;
};

}  // namespace

double RankOf(int32_t priority, absl::Time submitted, absl::Duration priority_step) {
  return absl::ToDoubleSeconds(submitted - absl::UnixEpoch()) +
         priority * absl::ToDoubleSeconds(priority_step);
}

Batch Schedule(const SchedulerState& state, const SchedulerOptions& options) {
  return Planner(state, options).Plan();
}

}  // namespace tessera
