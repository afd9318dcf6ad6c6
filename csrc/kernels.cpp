// Loops over points and bumps.  Compiled once per variant and dimension (BUMP_VARIANT, BUMP_DIM).
//
// Forward: points in the lanes, bumps in the inner loop, sums in registers.  Backward, basis and
// design: one bump over a chunk of points that fits the first-level cache, its sums in registers.
#include "kernels.h"

#include "packing.h"

namespace bump {
namespace BUMP_VARIANT {

constexpr int64_t kBumpBlock = 256;  // bumps summed before they are added to the total: error grows with M / 256

template <int D, class T>
BUMP_INLINE void load_point(const Points<T>& points, int64_t i, Vec<T>* x) {
  for (int j = 0; j < D; j++) x[j] = load<T>(points.x + j * points.stride + i);
}

template <int D, int WANT, class T>
void jet(Points<T> points, const void* packed, int64_t bumps, T* out, int64_t stride) {
  constexpr int C = Shape<D, WANT>::components;
  const Packed<D, T>* table = static_cast<const Packed<D, T>*>(packed);
  for (int64_t i = 0; i < points.n; i += Traits<T>::lanes) {
    Vec<T> x[D], total[C];
    load_point<D>(points, i, x);
    for (int c = 0; c < C; c++) total[c] = Vec<T>{};
    for (int64_t first = 0; first < bumps; first += kBumpBlock) {
      const int64_t last = first + kBumpBlock < bumps ? first + kBumpBlock : bumps;
      Vec<T> block[C];
      for (int c = 0; c < C; c++) block[c] = Vec<T>{};
      for (int64_t m = first; m < last; m++) pair_jet<D, WANT, true>(table[m], x, table[m].h, block);
      for (int c = 0; c < C; c++) total[c] += block[c];
    }
    for (int c = 0; c < C; c++) store<T>(out + c * stride + i, total[c], points.n - i);
  }
}

template <int D, int WANT, class T>
void basis(Points<T> points, const void* bump, T* out, int64_t stride) {
  constexpr int C = Shape<D, WANT>::components;
  const Packed<D, T> b = *static_cast<const Packed<D, T>*>(bump);
  for (int64_t i = 0; i < points.n; i += Traits<T>::lanes) {
    Vec<T> x[D], jet[C];
    load_point<D>(points, i, x);
    pair_jet<D, WANT, false>(b, x, T(1), jet);
    for (int c = 0; c < C; c++) store<T>(out + c * stride + i, jet[c], points.n - i);
  }
}

template <int D, int WANT, class T>
void vjp_rows(Points<T> points, const void* bump, const T* cot, int64_t stride, double* sums) {
  constexpr int C = Shape<D, WANT>::components;
  const Packed<D, T> b = *static_cast<const Packed<D, T>*>(bump);
  using V = Vec<T>;
  // w (c2)_j G2_k is summed by itself and gets its factor 2 V_kj after the loop.
  constexpr int Q = WANT == DIAGONAL ? D : 1;
  V L{}, ds{}, dA[D], dB[D], dV[D][D], dQ[D][Q];
  for (int k = 0; k < D; k++) {
    dA[k] = dB[k] = V{};
    for (int j = 0; j < D; j++) dV[k][j] = V{};
    for (int j = 0; j < Q; j++) dQ[k][j] = V{};
  }
  for (int64_t i = 0; i < points.n; i += Traits<T>::lanes) {
    V x[D], g[C];
    load_point<D>(points, i, x);
    for (int c = 0; c < C; c++) g[c] = load<T>(cot + c * stride + i);
    Axes<D, T> ax;
    PairVjp<D, WANT, T> pair;
    evaluate_axes(b, x, ax);
    pair_vjp(b, ax, g, pair);
    L += pair.L;
    ds += pair.ds;
    for (int k = 0; k < D; k++) {
      dA[k] += pair.dA[k];
      dB[k] += pair.dB[k];
      V wG2{};
      if (WANT >= DIAGONAL) wG2 = pair.w * pair.e[k].G2;
      for (int j = 0; j < D; j++) {
        dV[k][j] += pair.dB[k] * ax.y[j];
        if (WANT >= GRADIENT) dV[k][j] += pair.dS1[j] * pair.e[k].G1;
        if (WANT == HESSIAN) dV[k][j] += (wG2 + wG2) * pair.cV[k][j];
      }
      if (WANT == DIAGONAL)
        for (int j = 0; j < D; j++) dQ[k][j] += wG2 * g[1 + D + j];
      if (WANT == LAPLACIAN) dQ[k][0] += wG2 * g[1 + D];
    }
  }
  double* out = sums;
  *out++ += sum<T>(L);
  *out++ += sum<T>(ds);
  for (int k = 0; k < D; k++) *out++ += sum<T>(dA[k]);
  for (int k = 0; k < D; k++) *out++ += sum<T>(dB[k]);
  for (int k = 0; k < D; k++)
    for (int j = 0; j < D; j++) {
      double total = sum<T>(dV[k][j]);
      if (WANT == DIAGONAL || WANT == LAPLACIAN) total += 2 * double(b.V[k][j]) * sum<T>(dQ[k][WANT == DIAGONAL ? j : 0]);
      *out++ += total;
    }
}

template <int D, int WANT, class T>
void vjp_x(Points<T> points, const void* bump, const T* cot, int64_t stride, T weight, T* gx) {
  constexpr int C = Shape<D, WANT>::components;
  const Packed<D, T> b = *static_cast<const Packed<D, T>*>(bump);
  for (int64_t i = 0; i < points.n; i += Traits<T>::lanes) {
    Vec<T> x[D], g[C];
    load_point<D>(points, i, x);
    for (int c = 0; c < C; c++) g[c] = load<T>(cot + c * stride + i) * weight;
    Axes<D, T> ax;
    PairVjp<D, WANT, T> pair;
    evaluate_axes(b, x, ax);
    pair_vjp(b, ax, g, pair);
    for (int j = 0; j < D; j++) {
      Vec<T> d = load<T>(gx + j * stride + i);
      for (int k = 0; k < D; k++) d += pair.dB[k] * b.V[k][j];
      store<T>(gx + j * stride + i, d);
    }
  }
}

// The shape columns of one pair, from the derivatives by the packed values.
template <int D, int WANT, class T, class Store>
BUMP_INLINE void shape_columns(const Packed<D, T>& b, const Axes<D, T>& ax, const Vec<T>* g, const PairVjp<D, WANT, T>& pair,
                               bool tied, Store&& put) {
  using V = Vec<T>;
  V dV[D][D], by_A{}, sharp{};
  for (int k = 0; k < D; k++) {
    V wG2{};
    if (WANT >= DIAGONAL) wG2 = T(2) * (pair.w * pair.e[k].G2);
    for (int j = 0; j < D; j++) {
      dV[k][j] = pair.dB[k] * ax.y[j];
      if (WANT >= GRADIENT) dV[k][j] += pair.dS1[j] * pair.e[k].G1;
      if (WANT == HESSIAN) dV[k][j] += wG2 * pair.cV[k][j];
      if (WANT == DIAGONAL) dV[k][j] += (wG2 * g[1 + D + j]) * b.V[k][j];
      if (WANT == LAPLACIAN) dV[k][j] += (wG2 * g[1 + D]) * b.V[k][j];
      sharp += dV[k][j] * b.V[k][j];
    }
  }
  for (int j = 0; j < D; j++) {
    V dc = pair.dB[0] * b.V[0][j];
    for (int k = 1; k < D; k++) dc += pair.dB[k] * b.V[k][j];
    put(j, -(dc * b.by_centre[j]));
  }
  for (int k = 0; k < D; k++) {
    V dA = pair.dA[k] * b.A[k];
    by_A += dA;
    put(D + k, dA);
  }
  constexpr int skews = D * (D - 1) / 2;
  for (int m = 0; m < skews; m++) {
    V along = by_A * b.stretch[m];
    for (int k = 0; k < D; k++)
      for (int j = 0; j < D; j++)
        if (D > 2 || k != j) along += dV[k][j] * b.by_skew[m][k][j];
    put(2 * D + m, along);
  }
  V outer = pair.ds * b.s;
  sharp += by_A;
  put(2 * D + skews, tied ? sharp + outer : sharp);
  if (!tied) put(2 * D + skews + 1, outer);
}

template <int D, int WANT, class T>
void design(Points<T> points, const void* bump, const T* cot, int64_t cot_stride, bool tied, T* Phi, T* out, int64_t stride) {
  constexpr int C = Shape<D, WANT>::components;
  const Packed<D, T> b = *static_cast<const Packed<D, T>*>(bump);
  for (int64_t i = 0; i < points.n; i += Traits<T>::lanes) {
    Vec<T> x[D], g[C];
    load_point<D>(points, i, x);
    for (int c = 0; c < C; c++) g[c] = load<T>(cot + c * cot_stride + i);
    const int64_t left = points.n - i;
    if (!out) {
      Vec<T> jet[C];
      pair_jet<D, WANT, false>(b, x, T(1), jet);
      Vec<T> L = jet[0] * g[0];
      for (int c = 1; c < C; c++) {
        // an off-diagonal entry of the Hessian stands for two
        bool twice = false;
        if (WANT == HESSIAN)
          for (int r = 0, m = 1 + D; r < D; m += D - r, r++) twice = twice || (c > m && c < m + D - r);
        L += jet[c] * (twice ? g[c] + g[c] : g[c]);
      }
      store<T>(Phi + i, L, left);
      continue;
    }
    Axes<D, T> ax;
    PairVjp<D, WANT, T> pair;
    evaluate_axes(b, x, ax);
    pair_vjp(b, ax, g, pair);
    store<T>(Phi + i, pair.L, left);
    shape_columns<D, WANT, T>(b, ax, g, pair, tied, [&](int column, Vec<T> v) { store<T>(out + column * stride + i, v, left); });
  }
}

template <class T>
void add(int64_t n, T weight, const T* from, T* to) {
  for (int64_t i = 0; i < n; i += Traits<T>::lanes) store<T>(to + i, load<T>(to + i) + load<T>(from + i) * weight);
}

template <class T>
double dot(int64_t n, const T* a, const T* b) {
  Vec<T> total{};
  for (int64_t i = 0; i < n; i += Traits<T>::lanes) total += load<T>(a + i) * load<T>(b + i);
  return sum<T>(total);
}

// In one dimension the three forms of second derivatives are one.
template <int D, int WANT>
constexpr int form() {
  return D == 1 && WANT > DIAGONAL ? DIAGONAL : WANT;
}

template <int D, int WANT, class T>
void fill(Kernels<T>& k) {
  constexpr int W = form<D, WANT>();
  k.jet[WANT] = jet<D, W, T>;
  k.basis[WANT] = basis<D, W, T>;
  k.vjp_rows[WANT] = vjp_rows<D, W, T>;
  k.vjp_x[WANT] = vjp_x<D, W, T>;
  k.design[WANT] = design<D, W, T>;
}

template <int D, class T>
Kernels<T> make() {
  Kernels<T> k;
  k.lanes = Traits<T>::lanes;
  k.packed_bytes = sizeof(Packed<D, T>);
  k.pack = pack<D, T>;
  k.unpack_gradient = unpack_gradient<D, T>;
  k.add = add<T>;
  k.dot = dot<T>;
  fill<D, VALUE>(k);
  fill<D, GRADIENT>(k);
  fill<D, DIAGONAL>(k);
  fill<D, HESSIAN>(k);
  fill<D, LAPLACIAN>(k);
  return k;
}

#define BUMP_JOIN_(a, b) a##b
#define BUMP_JOIN(a, b) BUMP_JOIN_(a, b)

const Kernels<float>& BUMP_JOIN(float_, BUMP_DIM)() {
  static const Kernels<float> kernels = make<BUMP_DIM, float>();
  return kernels;
}
const Kernels<double>& BUMP_JOIN(double_, BUMP_DIM)() {
  static const Kernels<double> kernels = make<BUMP_DIM, double>();
  return kernels;
}

}  // namespace BUMP_VARIANT
}  // namespace bump
