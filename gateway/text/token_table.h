// Open-addressed map from a token's bytes to its id.
#ifndef TESSERA_GATEWAY_TEXT_TOKEN_TABLE_H_
#define TESSERA_GATEWAY_TEXT_TOKEN_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// A hash for tables whose keys no user can add to: it is fast, and its collisions can be made.
inline uint64_t HashWord(std::string_view word) {
  const auto load = [&](size_t at, auto bits) {
    std::memcpy(&bits, word.data() + at, sizeof(bits));
    return static_cast<uint64_t>(bits);
  };
  const auto mix = [](uint64_t a, uint64_t b) {
    const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  };
  constexpr uint64_t kFirst = 0x9e3779b97f4a7c15, kSecond = 0xe7037ed1a0b428db;
  const size_t size = word.size();
  uint64_t hash = size * kFirst;
  for (size_t at = 0; at + 16 < size; at += 8) {
    hash = mix(load(at, uint64_t{}) ^ kFirst, hash ^ kSecond);
  }
  uint64_t head = 0, tail = 0;  // the last 16 bytes; those of a shorter word may overlap
  if (size >= 8) {
    head = load(size >= 16 ? size - 16 : 0, uint64_t{});
    tail = load(size - 8, uint64_t{});
  } else if (size >= 4) {
    head = load(0, uint32_t{});
    tail = load(size - 4, uint32_t{});
  } else if (size > 0) {
    head = load(0, uint8_t{}) << 16 | load(size / 2, uint8_t{}) << 8 | load(size - 1, uint8_t{});
  }
  return mix(head ^ kSecond ^ hash, tail ^ kFirst);
}

// Whether the bytes of two words of `size` bytes are the same; for words of a few bytes faster than
// a call of memcmp.
inline bool SameBytes(const char* a, const char* b, size_t size) {
  const auto differ = [&](size_t at, auto left) {
    auto right = left;
    std::memcpy(&left, a + at, sizeof(left));
    std::memcpy(&right, b + at, sizeof(right));
    return left != right;
  };
  if (size >= 8) {
    for (size_t at = 0; at + 8 < size; at += 8) {
      if (differ(at, uint64_t{})) return false;
    }
    return !differ(size - 8, uint64_t{});
  }
  if (size >= 4) return !differ(0, uint32_t{}) && !differ(size - 4, uint32_t{});
  for (size_t at = 0; at < size; ++at) {
    if (a[at] != b[at]) return false;
  }
  return true;
}

// Tokens by id and by their bytes. Filled once, then only read.
class TokenTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr uint32_t kLargestId = 1u << 24;

  // Room for `count` tokens with ids up to `largest_id`, which is at most kLargestId.
  void Reserve(size_t count, uint32_t largest_id);

  // Adds a token that is not empty; at most as many as there is room for. False, and nothing is
  // added, when the id or the bytes are there already, or all bytes together exceed 4 GiB.
  bool Insert(std::string_view bytes, uint32_t id);

  // Marks a token that is there.
  void Mark(uint32_t id);

  struct Entry {
    uint32_t id;  // kNone: there is no such token
    bool marked;
  };
  // The token of just these bytes, of which `hash` is the HashWord.
  Entry Find(std::string_view bytes, uint64_t hash) const {
    for (size_t at = hash >> shift_;; at = (at + 1) & (slots_.size() - 1)) {
      const Slot slot = slots_[at];
      if (slot.token == kNone) return {kNone, false};
      if (slot.tag != static_cast<uint32_t>(hash)) continue;
      const uint32_t id = slot.token & ~kMark;
      const Span span = spans_[id];
      if (span.size == bytes.size() &&
          SameBytes(bytes_.data() + span.begin, bytes.data(), span.size)) {
        return {id, (slot.token & kMark) != 0};
      }
    }
  }

  // Empty when there is no such token.
  std::string_view Bytes(uint32_t id) const {
    if (id >= spans_.size()) return {};
    return std::string_view(bytes_).substr(spans_[id].begin, spans_[id].size);
  }

  // One more than the largest id.
  size_t size() const { return spans_.size(); }

 private:
  static constexpr uint32_t kMark = 1u << 31;

  struct Slot {
    uint32_t tag;    // low half of the hash
    uint32_t token;  // id, with kMark; kNone: free
  };
  struct Span {
    uint32_t begin = 0;
    uint32_t size = 0;  // 0: no token
  };

  std::vector<Slot> slots_ = {{0, kNone}, {0, kNone}};  // a power of two, at most 3/4 full
  int shift_ = 63;
  std::vector<Span> spans_;  // by id
  std::string bytes_;        // of all tokens
};

}  // namespace tessera

#endif  // TESSERA_GATEWAY_TEXT_TOKEN_TABLE_H_
