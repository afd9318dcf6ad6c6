// The loops over active pairs: jets and their gradients where bumps are sharp and many (cull.h).
#pragma once

#include "blocks.h"
#include "cull.h"

namespace bump {

// The points in the order of their tiles, and the way back.
template <class T>
struct Sorted {
  std::vector<int64_t> order;
  Tensor x;
  std::unique_ptr<Tiles<T>> tiles;

  Tensor taken(const Tensor& t) const {
    Tensor to = torch::stable::empty_like(t);
    take(static_cast<const T*>(t.const_data_ptr()), t.numel() / int64_t(order.size()), order, data<T>(to));
    return to;
  }
  MaybeTensor taken(const MaybeTensor& t) const { return t ? MaybeTensor(taken(*t)) : t; }
  Tensor put_back(const Tensor& t) const {
    Tensor to = torch::stable::empty_like(t);
    bump::put_back(static_cast<const T*>(t.const_data_ptr()), t.numel() / int64_t(order.size()), order, data<T>(to));
    return to;
  }
};

// The bumps' points sorted and tiled, if that pays; `b` then has them in that order.
template <class T>
std::unique_ptr<Sorted<T>> sort_if_it_pays(Bumps<T>& b, const Tensor& x) {
  if (!may_pay(b)) return nullptr;
  std::unique_ptr<Sorted<T>> sorted(new Sorted<T>{z_order(b.x(), b.points, b.dim), x, nullptr});
  sorted->x = sorted->taken(torch::stable::contiguous(x));
  sorted->tiles.reset(new Tiles<T>(b, static_cast<const T*>(sorted->x.const_data_ptr()), std::min(b.want, 2)));
  if (chosen_culling() == kAuto && sorted->tiles->active_share() > kWorthwhile) return nullptr;
  b.move_to(sorted->x);
  return sorted;
}

// Calls each(tile, bumps met by their shells, bumps that are 1 all over it) for the tiles of a slab.
template <class T, class Each>
void for_tiles_of_slab(const Bumps<T>& b, const Tiles<T>& tiles, int64_t slab, Each&& each) {
  const int64_t first = slab * kSlab, n = std::min(kSlab, tiles.count - first);
  std::vector<std::vector<int64_t>> active(n), in(n);
  std::vector<T> scratch(tiles.scratch(n));
  for (int64_t m = 0; m < b.count; m++)
    tiles.met(m, first, n, scratch.data(),
              [&](int64_t tile, bool inside) { (inside ? in : active)[tile - first].push_back(m); });
  for (int64_t i = 0; i < n; i++) each(first + i, active[i], in[i]);
}

template <class T>
void jet_by_tiles(const Bumps<T>& b, const Tiles<T>& tiles, const JetView<T>& out) {
  const int64_t size = b.components() * kTile, bytes = int64_t(b.kernels.packed_bytes);
  parallel(divide_up(tiles.count, kSlab), kSlab * b.count, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(b.dim * kTile + (b.outputs + 1) * size);
    T *xs = scratch.data(), *one = xs + b.dim * kTile, *sums = one + size;
    std::vector<char> packed;
    for (int64_t slab = begin; slab < end; slab++)
      for_tiles_of_slab(b, tiles, slab, [&](int64_t tile, const auto& active, const auto& in) {
        const int64_t first = tile * kTile;
        const Points<T> points = b.load_points(first, std::min(kTile, b.points - first), kTile, xs);
        if (b.outputs == 1) {
          packed.resize(active.size() * bytes);
          for (size_t i = 0; i < active.size(); i++)
            std::copy_n(static_cast<const char*>(b.bump(active[i])), bytes, packed.data() + i * bytes);
          b.kernels.jet[b.want](points, packed.data(), int64_t(active.size()), sums, kTile);
        } else {
          jet_of_many(b, active, points, kTile, one, sums);
        }
        for (int64_t o = 0; o < b.outputs; o++) {
          double inside = 0;
          for (const int64_t m : in) inside += b.amplitudes(m)[o];
          for (int64_t i = 0; i < points.n; i++) sums[o * size + i] += T(inside);
          store_jet(sums + o * size, kTile, points.n, b.dim, b.want, output_of(out, first, o, b.dim, b.want));
        }
      });
  });
}

// Sums over the points of a tile of every output's cotangent of the value: the share of a bump that is 1 there.
// If a cotangent is not finite, the tile is marked to meet all bumps.
template <class T>
std::vector<double> value_cotangents(const Bumps<T>& b, const Blocked<T>& k, Tiles<T>& tiles) {
  std::vector<double> total(tiles.count * k.outputs);
  for (int64_t t = 0; t < tiles.count; t++) {
    const int64_t n = k.at(t).n;
    double all = 0;
    for (int64_t o = 0; o < k.outputs; o++)
      for (int64_t c = b.components() - 1; c >= 0; c--) {
        const T* cot = k.cotangents(t, o) + c * k.chunk;
        double sum = 0;
        for (int64_t i = 0; i < n; i++) sum += cot[i];
        all += sum;
        total[t * k.outputs + o] = sum;  // the last one is the value's
      }
    if (!std::isfinite(all)) tiles.keep_all(t);
  }
  return total;
}

// As the sums of rows_gradient, partial [bumps, width].
template <class T>
void sums_by_tiles(const Bumps<T>& b, const Blocked<T>& k, const Cotangents<T>& cotangents, const Tiles<T>& tiles,
                   const std::vector<double>& values, double* partial, int64_t width) {
  const int64_t sums = width - b.outputs;
  const bool several = k.outputs > 1;
  parallel(b.count, tiles.count, [&](int64_t begin, int64_t end) {
    std::unique_ptr<T[]> scratch(new T[2 * k.cot_size]);
    std::vector<T> bounds(tiles.scratch(tiles.count));
    for (int64_t m = begin; m < end; m++) {
      double* out = partial + m * width;
      tiles.met(m, 0, tiles.count, bounds.data(), [&](int64_t t, bool inside) {
        if (inside) {
          for (int64_t o = 0; o < k.outputs; o++) out[several ? sums + o : 0] += values[t * k.outputs + o];
          return;
        }
        b.kernels.vjp_rows[b.want](k.at(t), b.bump(m), cotangents.of(m, t, scratch.get()), k.chunk, out);
        if (several) add_amplitude_gradients(b, k, m, t, scratch.get() + k.cot_size, out + sums);
      });
    }
  });
}

// Gradient of the points, in the order of the tiles.
template <class T>
void x_gradient_by_tiles(const Bumps<T>& b, const Blocked<T>& k, const Cotangents<T>& cotangents, const Tiles<T>& tiles,
                         T* gx) {
  parallel(divide_up(tiles.count, kSlab), kSlab * b.count, [&](int64_t begin, int64_t end) {
    std::unique_ptr<T[]> scratch(new T[k.cot_size + k.x_size]);
    for (int64_t slab = begin; slab < end; slab++)
      for_tiles_of_slab(b, tiles, slab, [&](int64_t t, const auto& active, const auto&) {
        x_gradient_of_chunk(b, k, cotangents, t, active, scratch.get(), gx);
      });
  });
}

}  // namespace bump
