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

// kSide vectors of points from i on; beyond `last` the first one again, whose results are not used.
template <int D, class T>
BUMP_INLINE void load_side_by_side(const Points<T>& points, int64_t i, int64_t last, Vec<T> (*x)[D]) {
  for (int u = 0; u < kSide; u++) {
    const int64_t at = i + u * Traits<T>::lanes;
    load_point<D>(points, at < last ? at : i, x[u]);
  }
}

// The edges of a batch of pairs are evaluated before anything that follows from them: a processor's
// window of instructions is too short to overlap one pair's long chain of dependent ones with the
// next pair's otherwise.
template <int D>
constexpr int kBatch = kInTurn<D> ? 16 : 8;

template <int D, class T>
BUMP_INLINE void evaluate_batch(const Packed<D, T>& bump, const Points<T>& points, int64_t first, int64_t last,
                                Axes<D, T>* ax) {
  constexpr int64_t lanes = Traits<T>::lanes;
  Vec<T> x[kSide][D];
  load_side_by_side<D>(points, first, last, x);
  evaluate_axes<D, true, false>(bump, x, ax, T(0), ax);
  for (int64_t i = first + kSide * lanes; i < last; i += kSide * lanes, ax += kSide) {
    load_side_by_side<D>(points, i, last, x);
    evaluate_axes<D, true, true>(bump, x, ax + kSide, bump.b, ax);
  }
  evaluate_axes<D, false, true>(bump, x, ax, bump.b, ax);
}

// Calls each(i, edges) for every vector of points, i being the first of its points.
template <int D, class T, class Each>
BUMP_INLINE void for_each_vector(const Packed<D, T>& bump, const Points<T>& points, Each&& each) {
  constexpr int64_t step = kBatch<D> * Traits<T>::lanes;
  Axes<D, T> ax[kBatch<D>];
  for (int64_t first = 0; first < points.n; first += step) {
    const int64_t last = first + step < points.n ? first + step : points.n;
    evaluate_batch(bump, points, first, last, ax);
    const Axes<D, T>* next = ax;
    for (int64_t i = first; i < last; i += Traits<T>::lanes) each(i, *next++);
  }
}

// Adds the jets of `count` bumps at kSide vectors of points.
template <int D, int WANT, class T, class V>
BUMP_INLINE void sum_of_bumps(const Packed<D, T>* bumps, int64_t count, const V (*x)[D],
                              V (*sums)[Shape<D, WANT>::components]) {
  Axes<D, T> ax[kSide];
  const auto add = [&](const Packed<D, T>& bump) __attribute__((always_inline)) {
    for (int u = 0; u < kSide; u++) pair_jet<D, WANT, true>(bump, ax[u], bump.h, sums[u]);
  };
  if constexpr (!kInTurn<D>) {
    for (int64_t m = 0; m < count; m++) {
      evaluate_axes<D, true, false>(bumps[m], x, ax, T(0), ax);
      evaluate_axes<D, false, true>(bumps[m], x, ax, bumps[m].b, ax);
      add(bumps[m]);
    }
    return;
  }
  Axes<D, T> next[kSide];
  evaluate_axes<D, true, false>(bumps[0], x, ax, T(0), ax);
  for (int64_t m = 1; m < count; m++) {
    evaluate_axes<D, true, true>(bumps[m], x, next, bumps[m - 1].b, ax);
    add(bumps[m - 1]);
    for (int u = 0; u < kSide; u++) ax[u] = next[u];
  }
  evaluate_axes<D, false, true>(bumps[count - 1], x, ax, bumps[count - 1].b, ax);
  add(bumps[count - 1]);
}

template <int D, int WANT, class T>
void jet(Points<T> points, const void* packed, int64_t bumps, T* out, int64_t stride) {
  constexpr int C = Shape<D, WANT>::components;
  constexpr int64_t lanes = Traits<T>::lanes;
  const Packed<D, T>* table = static_cast<const Packed<D, T>*>(packed);
  for (int64_t i = 0; i < points.n; i += kSide * lanes) {
    Vec<T> x[kSide][D], total[kSide][C] = {};
    load_side_by_side<D>(points, i, points.n, x);
    for (int64_t first = 0; first < bumps; first += kBumpBlock) {
      const int64_t last = first + kBumpBlock < bumps ? first + kBumpBlock : bumps;
      Vec<T> block[kSide][C];
      for (int u = 0; u < kSide; u++)
        for (int c = 0; c < C; c++) block[u][c] = Vec<T>{};
      sum_of_bumps<D, WANT>(table + first, last - first, x, block);
      for (int u = 0; u < kSide; u++)
        for (int c = 0; c < C; c++) total[u][c] += block[u][c];
    }
    for (int u = 0; u < kSide && i + u * lanes < points.n; u++)
      for (int c = 0; c < C; c++) store<T>(out + c * stride + i + u * lanes, total[u][c], points.n - i - u * lanes);
  }
}

template <int D, int WANT, class T>
void basis(Points<T> points, const void* bump, T* out, int64_t stride) {
  constexpr int C = Shape<D, WANT>::components;
  const Packed<D, T> b = *static_cast<const Packed<D, T>*>(bump);
  for_each_vector(b, points, [&](int64_t i, const Axes<D, T>& ax) __attribute__((always_inline)) {
    Vec<T> jet[C];
    pair_jet<D, WANT, false>(b, ax, T(1), jet);
    for (int c = 0; c < C; c++) store<T>(out + c * stride + i, jet[c], points.n - i);
  });
}

template <int D, int WANT, class T>
void vjp_rows(Points<T> points, const void* bump, const T* cot, int64_t stride, double* sums) {
  constexpr int C = Shape<D, WANT>::components;
  const Packed<D, T> b = *static_cast<const Packed<D, T>*>(bump);
  using V = Vec<T>;
  // (wc2)_j G2_k is summed by itself and gets its factor 2 V_kj after the loop.
  constexpr int Q = WANT == DIAGONAL ? D : 1;
  V L{}, s_ds{}, dA[D], dB[D], dV[D][D], dQ[D][Q];
  for (int k = 0; k < D; k++) {
    dA[k] = dB[k] = V{};
    for (int j = 0; j < D; j++) dV[k][j] = V{};
    for (int j = 0; j < Q; j++) dQ[k][j] = V{};
  }
  for_each_vector(b, points, [&](int64_t i, const Axes<D, T>& ax) __attribute__((always_inline)) {
    V x[D], g[C];
    load_point<D>(points, i, x);
    for (int c = 0; c < C; c++) g[c] = load<T>(cot + c * stride + i);
    PairVjp<D, WANT, T> pair;
    pair_vjp(b, ax, g, pair);
    L += pair.L;
    s_ds += pair.s_ds;
    for (int k = 0; k < D; k++) {
      dA[k] += pair.dA[k];
      dB[k] += pair.dB[k];
      for (int j = 0; j < D; j++) {
        dV[k][j] += pair.dB[k] * (x[j] - b.c[j]);
        if (WANT >= GRADIENT) dV[k][j] += pair.dS1[j] * pair.e[k].G1;
        if (WANT == HESSIAN) dV[k][j] += (pair.e[k].G2 + pair.e[k].G2) * pair.wc2V[k][j];
      }
      if (WANT == DIAGONAL || WANT == LAPLACIAN)
        for (int j = 0; j < Q; j++) dQ[k][j] += pair.wc2[j] * pair.e[k].G2;
    }
  });
  double* out = sums;
  *out++ += sum<T>(L);
  *out++ += sum<T>(s_ds);
  for (int k = 0; k < D; k++) *out++ += sum<T>(dA[k]);
  for (int k = 0; k < D; k++) *out++ += sum<T>(dB[k]);
  for (int k = 0; k < D; k++)
    for (int j = 0; j < D; j++) {
      double total = sum<T>(dV[k][j]);
      if (WANT == DIAGONAL || WANT == LAPLACIAN)
        total += 2 * double(b.V[k][j]) * sum<T>(dQ[k][WANT == DIAGONAL ? j : 0]);
      *out++ += total;
    }
}

template <int D, int WANT, class T>
void vjp_x(Points<T> points, const void* bump, const T* cot, int64_t stride, T weight, T* gx) {
  constexpr int C = Shape<D, WANT>::components;
  const Packed<D, T> b = *static_cast<const Packed<D, T>*>(bump);
  for_each_vector(b, points, [&](int64_t i, const Axes<D, T>& ax) __attribute__((always_inline)) {
    Vec<T> g[C];
    for (int c = 0; c < C; c++) g[c] = load<T>(cot + c * stride + i);
    PairVjp<D, WANT, T> pair;
    pair_vjp(b, ax, g, pair);
    for (int j = 0; j < D; j++) {
      Vec<T> d = pair.dB[0] * b.V[0][j];
      for (int k = 1; k < D; k++) d += pair.dB[k] * b.V[k][j];
      store<T>(gx + j * stride + i, load<T>(gx + j * stride + i) + d * weight);
    }
  });
}

// The shape columns of one pair, from the derivatives by the packed values.
template <int D, int WANT, class T, class Store>
BUMP_INLINE void shape_columns(const Packed<D, T>& b, const Vec<T>* x, const PairVjp<D, WANT, T>& pair, bool tied,
                               Store&& put) {
  using V = Vec<T>;
  V dV[D][D], by_A{}, sharp{};
  for (int k = 0; k < D; k++) {
    const V G2_twice = pair.e[k].G2 + pair.e[k].G2;
    for (int j = 0; j < D; j++) {
      dV[k][j] = pair.dB[k] * (x[j] - b.c[j]);
      if (WANT >= GRADIENT) dV[k][j] += pair.dS1[j] * pair.e[k].G1;
      if (WANT == HESSIAN) dV[k][j] += G2_twice * pair.wc2V[k][j];
      if (WANT == DIAGONAL || WANT == LAPLACIAN)
        dV[k][j] += (G2_twice * pair.wc2[WANT == DIAGONAL ? j : 0]) * b.V[k][j];
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
  sharp += by_A;
  put(2 * D + skews, tied ? sharp + pair.s_ds : sharp);
  if (!tied) put(2 * D + skews + 1, pair.s_ds);
}

// L of one pair from its jet: an off-diagonal entry of the Hessian stands for two.
template <int D, int WANT, class T>
BUMP_INLINE Vec<T> contract(const Packed<D, T>& b, const Axes<D, T>& ax, const Vec<T>* g) {
  Vec<T> jet[Shape<D, WANT>::components];
  pair_jet<D, WANT, false>(b, ax, T(1), jet);
  Vec<T> L = jet[0] * g[0];
  for (int c = 1; c < 1 + D && WANT >= GRADIENT; c++) L += jet[c] * g[c];
  for (int i = 0, c = 1 + D; i < (WANT == HESSIAN ? D : 1) && WANT >= DIAGONAL; i++)
    for (int j = i; j < (WANT == LAPLACIAN ? 1 : D); j++, c++)
      L += jet[c] * (WANT == HESSIAN && j > i ? g[c] + g[c] : g[c]);
  return L;
}

template <int D, int WANT, class T>
void design(Points<T> points, const void* bump, const T* cot, int64_t cot_stride, bool tied, T* Phi, T* out,
            int64_t stride) {
  constexpr int C = Shape<D, WANT>::components;
  const Packed<D, T> b = *static_cast<const Packed<D, T>*>(bump);
  for_each_vector(b, points, [&](int64_t i, const Axes<D, T>& ax) __attribute__((always_inline)) {
    const int64_t left = points.n - i;
    Vec<T> x[D], g[C];
    for (int c = 0; c < C; c++) g[c] = load<T>(cot + c * cot_stride + i);
    if (!out) {
      store<T>(Phi + i, contract<D, WANT, T>(b, ax, g), left);
      return;
    }
    load_point<D>(points, i, x);
    PairVjp<D, WANT, T> pair;
    pair_vjp(b, ax, g, pair);
    store<T>(Phi + i, pair.L, left);
    shape_columns<D, WANT, T>(b, x, pair, tied,
                              [&](int column, Vec<T> v) { store<T>(out + column * stride + i, v, left); });
  });
}

template <int D, class T>
T slope(const void* bump) {
  return static_cast<const Packed<D, T>*>(bump)->s;
}

template <int D, class T>
T steepness(const void* bump) {
  const Packed<D, T>& b = *static_cast<const Packed<D, T>*>(bump);
  T most = b.norm[0];
  for (int k = 1; k < D; k++) most = b.norm[k] > most ? b.norm[k] : most;
  return b.s * std::sqrt(most);
}

template <int D, class T>
T log_height(const void* bump) {
  const Packed<D, T>& b = *static_cast<const Packed<D, T>*>(bump);
  T S = 1 - 2 * D;
  for (int k = 0; k < D; k++) S += 2 * std::tanh(b.A[k]);
  return S < 0 ? b.s * S : T(0);
}

// g falls with |B|, and over a box |B| differs from its value at the centre by at most the box's reach.
template <int D, class T>
void bounds(Points<T> centres, const T* half, const void* bump, T* most, T* least) {
  const Packed<D, T> b = *static_cast<const Packed<D, T>*>(bump);
  for (int64_t i = 0; i < centres.n; i += Traits<T>::lanes) {
    Vec<T> x[D], n[2 * D], S[2];
    load_point<D>(centres, i, x);
    for (int k = 0; k < D; k++) {
      Vec<T> B{}, reach{};
      for (int j = 0; j < D; j++) {
        B += (x[j] - b.c[j]) * b.U[k][j];
        reach += abs(load<T>(half + j * centres.stride + i) * b.U[k][j]);
      }
      B = abs(B);
      const Vec<T> nearest = -at_most(reach - B, T(0));
      n[k] = at_most(b.a[k] - nearest, Limits<T>::cap);
      n[D + k] = at_most(b.a[k] - (B + reach), Limits<T>::cap);
    }
    exp2<T>(n);
    for (int side = 0; side < 2; side++) {
      S[side] = splat<T>(T(1 - 2 * D));
      for (int k = 0; k < D; k++) {
        const Vec<T> e = n[side * D + k], t = e * b.q[k];
        const Vec<T> gh = (e * b.k[k]) * reciprocal((t * e + T(1)) + (e + t));
        S[side] += gh + gh;
      }
    }
    store<T>(most + i, S[0] * b.s);
    store<T>(least + i, S[1] * b.s);
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
  k.slope = slope<D, T>;
  k.steepness = steepness<D, T>;
  k.log_height = log_height<D, T>;
  k.bounds = bounds<D, T>;
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
