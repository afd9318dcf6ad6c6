// Points and cotangents as the backward loops want them: components apart, chunk after chunk.
#pragma once

#include "host.h"

namespace bump {

template <class T>
struct Blocked {
  int64_t chunk, chunks, points, x_size, cot_size, outputs;
  std::unique_ptr<T[]> x, cot;

  Points<T> at(int64_t c) const { return {x.get() + c * x_size, chunk, std::min(chunk, points - c * chunk)}; }
  const T* cotangents(int64_t c, int64_t output) const { return cot.get() + (c * outputs + output) * cot_size; }
};

// `outputs` cotangents per point are kept; with 0 the points alone.
template <class T>
Blocked<T> block(const Bumps<T>& b, const JetView<const T>& g, int64_t outputs, int64_t chunk = kChunk) {
  Blocked<T> k;
  k.chunk = std::min(chunk, b.padded(std::max<int64_t>(b.points, 1)));
  k.chunks = divide_up(b.points, k.chunk);
  k.points = b.points;
  k.x_size = b.dim * k.chunk;
  k.cot_size = b.components() * k.chunk;
  k.outputs = outputs;
  k.x.reset(new T[k.x_size * k.chunks]);
  k.cot.reset(new T[k.cot_size * k.chunks * outputs]);
  parallel(k.chunks, k.chunk, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c++) {
      const int64_t first = c * k.chunk, n = std::min(k.chunk, b.points - first);
      b.load_points(first, n, k.chunk, k.x.get() + c * k.x_size);
      for (int64_t o = 0; o < outputs; o++)
        load_cotangents(output_of(g, first, o, b.dim, b.want), b.dim, b.want, n, b.padded(n), k.chunk,
                        k.cot.get() + (c * outputs + o) * k.cot_size);
    }
  });
  return k;
}

// Where the cotangent of bump m over chunk c comes from.  `combined` is scratch of one chunk.
template <class T>
struct Cotangents {
  const Bumps<T>& b;
  const Blocked<T>& blocked;
  JetView<const T> by_bump;  // cotangents of a basis [M, ..., N]; null for those of a jet

  const T* of(int64_t m, int64_t c, T* combined) const {
    if (!by_bump.value && !by_bump.gradient && !by_bump.second) {
      if (blocked.outputs == 1) return blocked.cotangents(c, 0);
      std::fill(combined, combined + blocked.cot_size, T(0));
      for (int64_t o = 0; o < blocked.outputs; o++)
        b.kernels.add(blocked.cot_size, b.amplitudes(m)[o], blocked.cotangents(c, o), combined);
      return combined;
    }
    const int64_t first = c * blocked.chunk, n = std::min(blocked.chunk, b.points - first);
    const int64_t row = m * b.points;
    const JetView<const T> g = by_bump.at(row + first, row * b.dim + first, row * second_size(b.dim, b.want) + first);
    load_cotangents(g, b.dim, b.want, n, b.padded(n), blocked.chunk, combined);
    return combined;
  }
  // Factor that is not in the cotangent itself.
  T weight(int64_t m) const { return blocked.outputs == 1 ? b.amplitudes(m)[0] : T(1); }
};

// Gradients of a bump's several amplitudes over one chunk: its jet against every output's cotangent.
template <class T>
void add_amplitude_gradients(const Bumps<T>& b, const Blocked<T>& k, int64_t m, int64_t c, T* jet, double* gradients) {
  const Points<T> points = k.at(c);
  b.kernels.basis[b.want](points, b.bump(m), jet, k.chunk);
  const int64_t padded = b.padded(points.n);
  for (int64_t i = 0; i < b.components(); i++) {
    std::fill(jet + i * k.chunk + points.n, jet + i * k.chunk + padded, T(0));
    const double factor = off_diagonal(i, b.dim, b.want) ? 2 : 1;
    for (int64_t o = 0; o < b.outputs; o++)
      gradients[o] += factor * b.kernels.dot(padded, jet + i * k.chunk, k.cotangents(c, o) + i * k.chunk);
  }
}

// Gradient of the points of one chunk, by the bumps given; `scratch` holds a chunk's cotangents and points.
template <class T, class Indices>
void x_gradient_of_chunk(const Bumps<T>& b, const Blocked<T>& k, const Cotangents<T>& cotangents, int64_t c,
                         const Indices& bumps, T* scratch, T* gx) {
  const Points<T> points = k.at(c);
  T* sums = scratch + k.cot_size;
  std::fill(sums, sums + k.x_size, T(0));
  for (const int64_t m : bumps)
    b.kernels.vjp_x[b.want](points, b.bump(m), cotangents.of(m, c, scratch), k.chunk, cotangents.weight(m), sums);
  for (int64_t j = 0; j < b.dim; j++)
    for (int64_t i = 0; i < points.n; i++) gx[(c * k.chunk + i) * b.dim + j] = sums[j * k.chunk + i];
}

// Several outputs at the points of one chunk: one bump's jet at a time, added to every output's sums.
template <class T, class Indices>
void jet_of_many(const Bumps<T>& b, const Indices& bumps, const Points<T>& points, int64_t chunk, T* one, T* sums) {
  const int64_t size = b.components() * chunk;
  std::fill(sums, sums + b.outputs * size, T(0));
  std::fill(one, one + size, T(0));
  for (const int64_t m : bumps) {
    b.kernels.basis[b.want](points, b.bump(m), one, chunk);
    for (int64_t o = 0; o < b.outputs; o++) b.kernels.add(size, b.amplitudes(m)[o], one, sums + o * size);
  }
}

}  // namespace bump
