// Compaction of rows on a device: which rows stay (select) and moving them (gather).
//
// No torch and no CUDA header is needed here: the algorithms are templates over a block of threads,
// so that tests/core/test_compact.py runs this very code on the CPU, where `each` is a loop over threads.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define BUMP_BOTH __host__ __device__
#else
#define BUMP_BOTH
#endif

namespace bump {

constexpr int kBlock = 1024;  // threads of the block that selects
constexpr int kGatherBlock = 256;
constexpr int kTensors = 32;  // tensors of one gather: their descriptors are an argument of the kernel

// Indices of the kept rows, in order, and their number.
//
// One block does it: keeping takes microseconds for 1e5 rows, and happens seldom.  A thread owns a stretch
// of rows; what is kept before it follows from a scan of the threads' counts.  `block.each(f)` calls f for
// every thread and then waits for all; `scan` is shared by the block.  A flag is a byte: a bool tensor made
// as a view of others may hold more than 0 and 1.
struct Scan {
  int64_t sums[2][kBlock];
};

template <class Block>
BUMP_BOTH void select(const Block& block, Scan& scan, const unsigned char* keep, int64_t rows, int64_t* index,
                      int64_t* kept) {
  const int64_t stretch = (rows + kBlock - 1) / kBlock;
  const auto end_of = [=](int t) {
    const int64_t end = (t + 1) * stretch;
    return end < rows ? end : rows;
  };
  block.each([&](int t) {
    int64_t count = 0;
    for (int64_t i = t * stretch; i < end_of(t); i++) count += keep[i] != 0;
    scan.sums[0][t] = count;
  });
  int now = 0;
  for (int step = 1; step < kBlock; step *= 2, now = 1 - now)
    block.each([&](int t) { scan.sums[1 - now][t] = scan.sums[now][t] + (t >= step ? scan.sums[now][t - step] : 0); });
  block.each([&](int t) {
    int64_t place = t > 0 ? scan.sums[now][t - 1] : 0;
    for (int64_t i = t * stretch; i < end_of(t); i++)
      if (keep[i] != 0) index[place++] = i;
    if (t == kBlock - 1) *kept = scan.sums[now][t];
  });
}

struct Copy {
  const char* from;
  char* to;
  int64_t row_bytes;
};

struct Copies {
  Copy of[kTensors];
};

// Widest word that rows and both addresses are multiples of.
BUMP_BOTH inline int word_of(const Copy& copy) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(copy.from) | reinterpret_cast<uintptr_t>(copy.to) |
                        static_cast<uint64_t>(copy.row_bytes);
  for (int word = 16; word > 1; word /= 2)
    if (bits % word == 0) return word;
  return 1;
}

struct alignas(16) Word16 {
  uint64_t low, high;
};

template <class Word>
BUMP_BOTH void gather_words(const Copy& copy, const int64_t* index, int64_t kept, int64_t thread, int64_t threads) {
  const int64_t words = copy.row_bytes / sizeof(Word);
  const Word* from = reinterpret_cast<const Word*>(copy.from);
  Word* to = reinterpret_cast<Word*>(copy.to);
  for (int64_t i = thread; i < kept * words; i += threads) to[i] = from[index[i / words] * words + i % words];
}

// The share of one of `threads` threads in moving one tensor's kept rows.
BUMP_BOTH inline void gather(const Copy& copy, const int64_t* index, int64_t kept, int64_t thread, int64_t threads) {
  switch (word_of(copy)) {
    case 16:
      return gather_words<Word16>(copy, index, kept, thread, threads);
    case 8:
      return gather_words<uint64_t>(copy, index, kept, thread, threads);
    case 4:
      return gather_words<uint32_t>(copy, index, kept, thread, threads);
    case 2:
      return gather_words<uint16_t>(copy, index, kept, thread, threads);
    default:
      return gather_words<uint8_t>(copy, index, kept, thread, threads);
  }
}

// The launches, in compact.cu.  Both give null, or what the CUDA runtime has to say.
//
// select_rows waits for the stream, to read the number of kept rows: `scratch` has rows + 1 entries on the
// device, the indices and behind them the number.
const char* select_rows(int device, void* stream, const unsigned char* keep, int64_t rows, int64_t* scratch,
                        int64_t* kept);
const char* gather_rows(int device, void* stream, const Copy* copies, int64_t count, const int64_t* index,
                        int64_t kept);

}  // namespace bump
