// What every CPU operator needs around the kernels: the choice of the variant, threads, packed
// bumps, and the way between the users' layouts and the kernels' (components apart, whole vectors).
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels.h"

namespace bump {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

// --- variants ------------------------------------------------------------------------------------

enum Variant { kBaseline, kAvx2, kAvx512, kVariants };

inline bool runs(int variant) {
  if (variant == kBaseline) return true;
#ifndef BUMP_ONLY_BASELINE
  if (variant == kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (variant == kAvx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
#endif
  return false;
}

// Of the calling thread, which is the one that starts an operator.
inline int& chosen_variant() {
  static thread_local int variant{runs(kAvx512) ? kAvx512 : runs(kAvx2) ? kAvx2 : kBaseline};
  return variant;
}

// Kernels of the chosen variant for T = float or double and d = 1 to 4.
#define BUMP_BY_DIM(ns, type) \
  (dim == 1 ? ns::type##_1() : dim == 2 ? ns::type##_2() : dim == 3 ? ns::type##_3() : ns::type##_4())
#ifdef BUMP_ONLY_BASELINE
#define BUMP_BY_VARIANT(type) return BUMP_BY_DIM(baseline, type)
#else
#define BUMP_BY_VARIANT(type)                               \
  const int variant = chosen_variant();                     \
  if (variant == kAvx512) return BUMP_BY_DIM(avx512, type); \
  if (variant == kAvx2) return BUMP_BY_DIM(avx2, type);     \
  return BUMP_BY_DIM(baseline, type)
#endif
template <class T>
const Kernels<T>& kernels_for(int64_t dim);
template <>
inline const Kernels<float>& kernels_for<float>(int64_t dim) {
  BUMP_BY_VARIANT(float);
}
template <>
inline const Kernels<double>& kernels_for<double>(int64_t dim) {
  BUMP_BY_VARIANT(double);
}

// --- sizes and threads ---------------------------------------------------------------------------

constexpr int64_t kChunk = 512;          // points at a time: their components fit the first-level cache
constexpr int64_t kTaskPairs = 1 << 14;  // pairs worth handing to another thread

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

template <class F>
void parallel(int64_t items, int64_t pairs_per_item, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kTaskPairs / std::max<int64_t>(1, pairs_per_item));
  if (items <= grain)
    f(0, items);
  else
    torch::stable::parallel_for(0, items, grain, f);
}

// Entries of the second derivatives of one output at one point in the user's layout.
inline int64_t second_size(int64_t dim, int want) {
  return want == 2 ? dim : want == 3 ? dim * dim : want == 4 ? 1 : 0;
}

template <class T>
T* data(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}
template <class T>
const T* data(const MaybeTensor& t) {
  return t ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
}
inline Tensor empty(const Tensor& like, std::vector<int64_t> size) { return torch::stable::new_empty(like, size); }

// --- the arguments common to all operators -------------------------------------------------------

// Keeps a direct call of an operator from reading beyond a tensor; the friendly messages are in
// bumpnet_fast/core/functional.py.
inline void check(const Tensor& x, const Tensor& rows, const Tensor& frame, int64_t want, bool tied) {
  STD_TORCH_CHECK(x.dim() == 2 && rows.dim() == 2 && frame.dim() == 2 && frame.size(0) == 3,
                  "expected x [N, d], rows [M, columns], frame [3, d]");
  const int64_t d = frame.size(1);
  STD_TORCH_CHECK(d >= 1 && d <= kMaxDim && x.size(1) == d, "expected x [N, d] with d from 1 to 4");
  STD_TORCH_CHECK(rows.size(1) >= 2 * d + d * (d - 1) / 2 + (tied ? 1 : 2), "rows have too few columns");
  STD_TORCH_CHECK(want >= 0 && want < kWants, "want must be 0 to 4");
  const ScalarType type = rows.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "rows must be float32 or float64");
  STD_TORCH_CHECK(x.scalar_type() == type && frame.scalar_type() == type, "x, rows and frame must have one dtype");
}

// Cotangents or coefficients of value, gradient and second derivatives, for `entries` jets at x:
// checked for size and dtype, and made contiguous.
inline void make_contiguous(MaybeTensor& g0, MaybeTensor& g1, MaybeTensor& g2, int64_t entries, const Tensor& x,
                            int64_t want) {
  const int64_t d = x.size(1);
  const std::pair<MaybeTensor&, int64_t> all[] = {{g0, 1}, {g1, d}, {g2, second_size(d, int(want))}};
  for (auto& [t, size] : all) {
    if (!t) continue;
    STD_TORCH_CHECK(t->numel() == entries * size && t->scalar_type() == x.scalar_type(),
                    "a cotangent or coefficient has a wrong size or dtype");
    t = torch::stable::contiguous(*t);
  }
}

// The numbers 0 to n - 1, to be looped over.
struct All {
  struct Iterator {
    int64_t i;
    int64_t operator*() const { return i; }
    void operator++() { i++; }
    bool operator!=(const Iterator& other) const { return i != other.i; }
  };
  int64_t n;
  Iterator begin() const { return {0}; }
  Iterator end() const { return {n}; }
};

// The points, and the bumps packed for the kernels.
template <class T>
class Bumps {
  Tensor x_, rows_, frame_;

 public:
  // `single`: fold the amplitudes of a net with one output into the packed bumps.
  Bumps(const Tensor& x, const Tensor& rows, const Tensor& frame, int64_t want, bool tied, bool single)
      : x_(torch::stable::contiguous(x)),
        rows_(torch::stable::contiguous(rows)),
        frame_(torch::stable::contiguous(frame)),
        points(x.size(0)),
        count(rows.size(0)),
        dim(frame.size(1)),
        columns(rows.size(1)),
        want(int(want)),
        tied(tied),
        shape_columns(2 * dim + dim * (dim - 1) / 2 + (tied ? 1 : 2)),
        outputs(columns - shape_columns),
        kernels(kernels_for<T>(dim)),
        packed_(kernels.packed_bytes * count) {
    kernels.pack(row(0), columns, count, frame_data(), tied, single && outputs == 1, packed_.data());
  }

  const int64_t points, count, dim, columns;
  const int want;
  const bool tied;
  const int64_t shape_columns, outputs;
  const Kernels<T>& kernels;

  const void* bump(int64_t m) const { return packed_.data() + m * kernels.packed_bytes; }
  const T* row(int64_t m) const { return static_cast<const T*>(rows_.const_data_ptr()) + m * columns; }
  const T* amplitudes(int64_t m) const { return row(m) + shape_columns; }
  const T* x() const { return static_cast<const T*>(x_.const_data_ptr()); }
  // Other points in place of those given, as many.
  void move_to(const Tensor& x) { x_ = x; }
  const T* frame_data() const { return static_cast<const T*>(frame_.const_data_ptr()); }
  int64_t components() const { return bump::components(dim, want); }
  int64_t padded(int64_t n) const { return round_up(n, kernels.lanes); }

  // Points [first, first + n) with components apart in `to[j * stride + i]`, infinities turned to
  // NaN (v - v is NaN), and the last point repeated up to a whole vector.  A point so far that V (x - c) might
  // overflow, and differences of infinities be NaN, is moved to where it is as far from every bump.
  Points<T> load_points(int64_t first, int64_t n, int64_t stride, T* to) const {
    const T* x = this->x() + first * dim;
    for (int64_t j = 0; j < dim; j++) {
      T* out = to + j * stride;
      const T most = std::ldexp(T(1), sizeof(T) == 4 ? 100 : 900) / std::abs(frame_data()[2 * dim + j]);
      for (int64_t i = 0; i < n; i++) {
        const T v = x[i * dim + j] + (x[i * dim + j] - x[i * dim + j]);
        out[i] = v > most ? most : v < -most ? -most : v;
      }
      std::fill(out + n, out + padded(n), out[n - 1]);
    }
    return {to, stride, n};
  }

 private:
  std::vector<char> packed_;
};

// --- jets in the users' tensors ------------------------------------------------------------------

// Value, gradient and second derivatives (null when absent), and the distances in memory between
// points and between the entries of one point.
template <class T>
struct JetView {
  T *value, *gradient, *second;
  int64_t value_step, gradient_step, second_step, entry;

  JetView at(int64_t value_offset, int64_t gradient_offset, int64_t second_offset) const {
    JetView v = *this;
    if (value) v.value += value_offset;
    if (gradient) v.gradient += gradient_offset;
    if (second) v.second += second_offset;
    return v;
  }
};

// Tensors [N, K, ...]: points first, the entries of one point together.
template <class T>
JetView<T> points_first(T* value, T* gradient, T* second, int64_t outputs, int64_t dim, int want) {
  return {value, gradient, second, outputs, outputs * dim, outputs * second_size(dim, want), 1};
}
// Output `o` from point `first` on.
template <class T>
JetView<T> output_of(const JetView<T>& v, int64_t first, int64_t o, int64_t dim, int want) {
  return v.at(first * v.value_step + o, first * v.gradient_step + o * dim,
              first * v.second_step + o * second_size(dim, want));
}

// Cotangents of n points with components apart, zero where absent and up to a whole vector.  The
// full Hessian's is symmetrised: the off-diagonal components are means of two entries.
template <class T>
void load_cotangents(const JetView<const T>& from, int64_t dim, int want, int64_t n, int64_t padded, int64_t stride,
                     T* to) {
  auto component = [&](const T* base, int64_t step, int64_t entry, T* out) {
    for (int64_t i = 0; base && i < n; i++) out[i] = base[i * step + entry * from.entry];
    std::fill(out + (base ? n : 0), out + padded, T(0));
  };
  component(from.value, from.value_step, 0, to);
  for (int64_t j = 0; want >= 1 && j < dim; j++) component(from.gradient, from.gradient_step, j, to + (1 + j) * stride);
  T* out = to + (1 + dim) * stride;
  if (want == 2 || want == 4)
    for (int64_t j = 0; j < second_size(dim, want); j++) component(from.second, from.second_step, j, out + j * stride);
  if (want == 3)
    for (int64_t i = 0; i < dim; i++)
      for (int64_t j = i; j < dim; j++, out += stride) {
        component(from.second, from.second_step, i * dim + j, out);
        if (i == j || !from.second) continue;
        for (int64_t p = 0; p < n; p++)
          out[p] = T(0.5) * (out[p] + from.second[p * from.second_step + (j * dim + i) * from.entry]);
      }
}

// Components apart of n points into the user's tensors.
template <class T>
void store_jet(const T* from, int64_t stride, int64_t n, int64_t dim, int want, const JetView<T>& to) {
  auto component = [&](const T* in, T* base, int64_t step, int64_t entry) {
    for (int64_t i = 0; i < n; i++) base[i * step + entry * to.entry] = in[i];
  };
  component(from, to.value, to.value_step, 0);
  for (int64_t j = 0; want >= 1 && j < dim; j++) component(from + (1 + j) * stride, to.gradient, to.gradient_step, j);
  const T* in = from + (1 + dim) * stride;
  if (want == 2 || want == 4)
    for (int64_t j = 0; j < second_size(dim, want); j++) component(in + j * stride, to.second, to.second_step, j);
  if (want == 3)
    for (int64_t i = 0; i < dim; i++)
      for (int64_t j = i; j < dim; j++, in += stride) {
        component(in, to.second, to.second_step, i * dim + j);
        if (i != j) component(in, to.second, to.second_step, j * dim + i);
      }
}

// Whether component c of the full Hessian's stands for two entries.
inline bool off_diagonal(int64_t c, int64_t dim, int want) {
  if (want != 3 || c < 1 + dim) return false;
  for (int64_t row = 0, first = 1 + dim; row < dim; first += dim - row, row++)
    if (c == first) return false;
  return true;
}

}  // namespace bump
