// Leaves out the pairs of point and bump that add nothing, where bumps are sharp and many.
//
// A bump is sigmoid(s S): away from its shell |s S| is large, and the bump is 0 or 1 to the last digit with
// derivatives 0.  Points are sorted so that neighbours in memory are neighbours in space, and cut into tiles.  Two
// evaluations of the edges bound S over a tile's box.  They show which bumps have their shell in the tile, and which
// are 1 all over it.  Cost: the pairs of tiles and bumps, and the active pairs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "host.h"

namespace bump {

constexpr int64_t kTile = 128;       // points of a tile
constexpr int64_t kSlab = 64;        // tiles of a task, a multiple of every vector's length
constexpr double kWorthwhile = 0.4;  // largest fraction of pairs of tiles and bumps that may be active

enum Culling { kNever, kAuto, kAlways };
inline int& chosen_culling() {  // of the calling thread
  static thread_local int culling{kAuto};
  return culling;
}

// --- the order of the points -----------------------------------------------------------------------

// Indices of n points in the order of the cells of a grid along a Z-curve, a cell holding about 32; O(N).
template <class T>
std::vector<int64_t> z_order(const T* x, int64_t n, int64_t dim) {
  int64_t bits = 0;
  while (bits < 8 && (n >> ((bits + 1) * dim)) >= 32) bits++;
  const int64_t cells = int64_t(1) << bits;
  std::vector<double> low(dim, std::numeric_limits<double>::infinity()), high(dim, -low[0]);
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < dim; j++) {
      const double v = x[i * dim + j];
      if (!std::isfinite(v)) continue;
      low[j] = std::min(low[j], v);
      high[j] = std::max(high[j], v);
    }
  std::vector<int64_t> key(n), start((cells << (bits * (dim - 1))) + 1, 0), order(n);
  for (int64_t i = 0; i < n; i++) {
    int64_t cell[kMaxDim];
    for (int64_t j = 0; j < dim; j++) {
      const double at = (x[i * dim + j] - low[j]) / (high[j] - low[j]) * cells;
      cell[j] = at > 0 ? std::min(int64_t(std::min(at, double(cells))), cells - 1) : 0;  // NaN: 0
    }
    int64_t code = 0;
    for (int64_t bit = bits - 1; bit >= 0; bit--)
      for (int64_t j = 0; j < dim; j++) code = code * 2 + (cell[j] >> bit & 1);
    key[i] = code;
    start[code + 1]++;
  }
  for (size_t c = 1; c < start.size(); c++) start[c] += start[c - 1];
  for (int64_t i = 0; i < n; i++) order[start[key[i]]++] = i;
  return order;
}

// Entries of `width` numbers taken in the given order, or put back to where they were taken from.
template <class T>
void take(const T* from, int64_t width, const std::vector<int64_t>& order, T* to) {
  for (size_t i = 0; i < order.size(); i++) std::copy_n(from + order[i] * width, width, to + i * width);
}
template <class T>
void put_back(const T* from, int64_t width, const std::vector<int64_t>& order, T* to) {
  for (size_t i = 0; i < order.size(); i++) std::copy_n(from + i * width, width, to + order[i] * width);
}

// --- tiles and bumps -------------------------------------------------------------------------------

// Exponents beyond which a sigmoid is 0 or 1 to working precision.
template <class T>
constexpr T kNothingLeft = sizeof(T) == 4 ? T(17) : T(37);

template <class T>
class Tiles {
 public:
  // `x`: the points of the bumps, in the order of the tiles.  `order` derivatives will be asked for.
  Tiles(const Bumps<T>& bumps, const T* x, int order)
      : count(divide_up(bumps.points, kTile)), b_(bumps), stride_(round_up(count, bumps.kernels.lanes)) {
    boxes(x);
    margins(order);
  }

  const int64_t count;

  // A tile whose cotangents are not finite has a share in every bump.
  void keep_all(int64_t tile) { centre_[tile] = std::numeric_limits<T>::quiet_NaN(); }

  int64_t scratch(int64_t n) const { return 2 * b_.padded(n); }

  // Calls each(tile, whether the bump is 1 all over it) for the tiles [first, first + n) that bump m does not vanish
  // on; first is a multiple of kSlab, and `bounds` scratch.
  template <class Each>
  void met(int64_t m, int64_t first, int64_t n, T* bounds, Each&& each) const {
    T *most = bounds, *least = bounds + b_.padded(n);
    b_.kernels.bounds({centre_.data() + first, stride_, n}, half_.data() + first, b_.bump(m), most, least);
    const T margin = margin_[m];
    for (int64_t i = 0; i < n; i++)
      if (!(most[i] < -margin)) each(first + i, least[i] > margin);
  }

  // Share of the pairs of tiles and bumps that are active, from at most kSlab tiles and 512 bumps.
  double active_share() const {
    std::vector<T> bounds(scratch(kSlab));
    const int64_t bump_step = divide_up(b_.count, 512), slabs = divide_up(count, kSlab);
    int64_t active = 0, all = 0;
    for (int64_t m = 0, slab = 0; m < b_.count; m += bump_step, slab = (slab + 1) % slabs) {
      const int64_t n = std::min(kSlab, count - slab * kSlab);
      met(m, slab * kSlab, n, bounds.data(), [&](int64_t, bool inside) { active += !inside; });
      all += n;
    }
    return all ? double(active) / all : 1.;
  }

 private:
  void boxes(const T* x) {
    const int64_t dim = b_.dim;
    centre_.assign(dim * stride_, T(0));
    half_.assign(dim * stride_, T(0));
    for (int64_t t = 0; t < count; t++) {
      const int64_t first = t * kTile, last = std::min(first + kTile, b_.points);
      for (int64_t j = 0; j < dim; j++) {
        T low = x[first * dim + j], high = low, bad = 0;
        for (int64_t i = first; i < last; i++) {
          const T v = x[i * dim + j];
          low = std::min(low, v);
          high = std::max(high, v);
          bad += v - v;  // NaN stays, and makes every comparison false: the bump stays active
        }
        const T centre = low + (high - low) / 2;
        centre_[j * stride_ + t] = centre + bad;
        half_[j * stride_ + t] = std::max(high - centre, centre - low);
      }
    }
  }

  // The margin is larger for a bump whose derivatives and amplitude are larger than usual.  The usual size is the
  // geometric mean over the bumps, which a single large bump hardly changes.  The mean counts a bump by its height,
  // not by its raw amplitude.  Bumps with values that are not finite are kept everywhere.
  void margins(int order) {
    margin_.resize(b_.count);
    double total = 0;
    int64_t usual = 0;
    for (int64_t m = 0; m < b_.count; m++) {
      double amplitude = 0;
      for (int64_t o = 0; o < b_.outputs; o++) {
        const double h = std::abs(double(b_.amplitudes(m)[o]));
        amplitude = h > amplitude || !(h - h == 0) ? h : amplitude;
      }
      const double size = std::log(amplitude) + order * std::log(double(b_.kernels.steepness(b_.bump(m))));
      margin_[m] = T(size);
      if (std::isfinite(size)) total += size + b_.kernels.log_height(b_.bump(m)), usual++;
    }
    const double mean = usual ? total / usual : 0;
    for (T& margin : margin_) {
      const double excess = double(margin) - mean;  // -inf: an amplitude of zero
      margin = excess < std::numeric_limits<double>::infinity() ? kNothingLeft<T> + T(std::max(0., excess))
                                                                : std::numeric_limits<T>::infinity();
    }
  }

  const Bumps<T>& b_;
  const int64_t stride_;
  std::vector<T> centre_, half_, margin_;
};

// Whether it may pay at all, before anything is sorted: many pairs, and bumps that vanish where S is lowest, 1 - 2d.
template <class T>
bool may_pay(const Bumps<T>& b) {
  if (chosen_culling() == kNever || b.points == 0 || b.count == 0) return false;
  if (chosen_culling() == kAlways) return true;
  if (b.points < 16 * kTile || b.points * b.count < int64_t(1) << 22) return false;
  const int64_t step = divide_up(b.count, 512);
  int64_t sharp = 0, all = 0;
  for (int64_t m = 0; m < b.count; m += step, all++)
    sharp += b.kernels.slope(b.bump(m)) * (2 * b.dim - 1) > kNothingLeft<T>;
  return 2 * sharp > all;
}

}  // namespace bump
