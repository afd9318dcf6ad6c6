// What a variant offers to operators.cpp: functions over one chunk of points, behind a table of
// pointers, so that the caller needs to know neither dimension nor instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bump {

// Points of one chunk, components apart: component j of point i is x[j * stride + i].  Every
// component is readable and finite-or-NaN up to the next multiple of `lanes` after n.
template <class T>
struct Points {
  const T* x;
  int64_t stride, n;
};

constexpr int kMaxDim = 4;
constexpr int kWants = 5;

// Sums of one bump's backward over points, in double: L, s ds, dA[d], dB[d], dV[d*d].
inline int64_t sums_count(int64_t dim) { return 2 + 2 * dim + dim * dim; }

// Components of a jet or of its cotangents: value, gradient, second derivatives (of the full
// Hessian the upper triangle, row by row).
inline int64_t components(int64_t dim, int want) {
  const int64_t second[kWants] = {0, 0, dim, dim * (dim + 1) / 2, 1};
  return 1 + (want >= 1 ? dim : 0) + second[want];
}

template <class T>
struct Kernels {
  int lanes;
  size_t packed_bytes;  // size of one packed bump
  // rows [bumps, columns] (row stride given) -> packed bumps
  void (*pack)(const T* rows, int64_t row_stride, int64_t bumps, const T* frame, bool tied, bool single, void* packed);
  // sums of one bump -> its row gradient (shape columns), through the packing
  void (*unpack_gradient)(const T* row, const T* frame, bool tied, const double* sums, double* gradient);
  // out[c * stride + i] = sum over bumps of amplitude * component c of the jet; written, not added
  void (*jet[kWants])(Points<T>, const void* packed, int64_t bumps, T* out, int64_t stride);
  // out[c * stride + i] = component c of one bump's jet; exactly n entries of each are written
  void (*basis[kWants])(Points<T>, const void* bump, T* out, int64_t stride);
  // adds one bump's sums over the points; cotangents cot[c * stride + i], zero beyond n
  void (*vjp_rows[kWants])(Points<T>, const void* bump, const T* cot, int64_t stride, double* sums);
  // gx[j * stride + i] += weight * gradient of L by x_j (cot and gx share the stride)
  void (*vjp_x[kWants])(Points<T>, const void* bump, const T* cot, int64_t stride, T weight, T* gx);
  // Phi[i] and D[column * stride + i] of one bump (D null: Phi alone); exactly n entries written
  void (*design[kWants])(Points<T>, const void* bump, const T* cot, int64_t cot_stride, bool tied, T* Phi, T* D,
                         int64_t stride);
  // s and s |V| of one bump: the slope of its sigmoid, and how fast the bump can rise
  T (*slope)(const void* bump);
  T (*steepness)(const void* bump);
  // s S at its centre where that is negative, else 0: the log of its height, but for less than log 2
  T (*log_height)(const void* bump);
  // most[t] and least[t]: bounds of s S of one bump over boxes with their centres as points, and half their sides
  // half[j * stride + t]; whole vectors are written
  void (*bounds)(Points<T> centres, const T* half, const void* bump, T* most, T* least);
  // to[i] += weight * from[i], and the sum of a[i] * b[i]; n is a multiple of `lanes`
  void (*add)(int64_t n, T weight, const T* from, T* to);
  double (*dot)(int64_t n, const T* a, const T* b);
};

#define BUMP_DECLARE_DIM(dim)          \
  const Kernels<float>& float_##dim(); \
  const Kernels<double>& double_##dim();
#define BUMP_DECLARE(variant) \
  namespace variant {         \
  BUMP_DECLARE_DIM(1)         \
  BUMP_DECLARE_DIM(2)         \
  BUMP_DECLARE_DIM(3)         \
  BUMP_DECLARE_DIM(4)         \
  }
BUMP_DECLARE(baseline)
BUMP_DECLARE(avx2)
BUMP_DECLARE(avx512)

}  // namespace bump
