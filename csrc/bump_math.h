// The bump's formulas over a vector of points: the C++ twin of bumpnet_fast/core/reference.py.
//
// Everything here is one (point vector, bump) pair at a time; loops, sums and memory are in
// kernels.cpp.  Names and order follow docs/math.md, so that the languages can be laid side by
// side.  WANT: 0 value, 1 and gradient, 2 and Hessian diagonal, 3 and full Hessian, 4 and Laplacian.
#pragma once

#include "vec.h"

namespace bump {
namespace BUMP_VARIANT {

enum { VALUE, GRADIENT, DIAGONAL, HESSIAN, LAPLACIAN };

// Number of second-derivative components: the diagonal, the upper triangle row by row, or the sum.
template <int D, int WANT>
struct Shape {
  static constexpr int second = WANT == DIAGONAL ? D : WANT == HESSIAN ? D * (D + 1) / 2 : WANT == LAPLACIAN ? 1 : 0;
  static constexpr int gradient = WANT >= GRADIENT ? D : 0;
  static constexpr int components = 1 + gradient + second;
};

// One bump's constants, derived once per call (packing.h).
template <int D, class T>
struct Packed {
  T V[D][D], VV[D][D];  // normals, their squares
  T norm[D];            // |V_k|^2
  T c[D], A[D];         // centre, half side lengths in edge thicknesses
  T U[D][D];            // 2 log2(e) V: exponents are formed from these
  T a[D], q[D], k[D];   // 2 A log2 e, exp(-4 A), 1 - q
  T s, ss, ss6, b, h;   // outer slope, its square, six times that, -s log2 e, amplitude
  // derivatives of the packed values by the raw columns, for the design matrix
  T by_centre[D];
  T by_skew[D * (D - 1) / 2 + 1][D][D];
  T stretch[D * (D - 1) / 2 + 1];
};

// The two edges of every axis, the sum of them, and the bump's value.
template <int D, class T>
struct Axes {
  Vec<T> y[D];  // g / (1 - q), g = tanh(A + B) + tanh(A - B)
  Vec<T> d[D];  // tanh(A + B) - tanh(A - B)
  Vec<T> z[D];  // 1 - tanh(A + B) tanh(A - B), from which the second derivatives follow without cancellation
  Vec<T> S, psi;
};

// kSide vectors of points at a time, step by step side by side (see exp2).
constexpr int kSide = 2;

// Whether the two halves of a pair's chain are interleaved with those of its neighbours.  With four axes one half fills
// the registers.
template <int D>
constexpr bool kInTurn = D < 4;

// EDGES: everything in `out` except psi, at the points x.  PSI: psi of `before`, whose bump has the constant b_before.
// With both, the two are interleaved step by step: the second half of one pair's chain from the point to psi runs
// beside the first half of the next pair's.
template <int D, bool EDGES, bool PSI, class T>
BUMP_INLINE void evaluate_axes(const Packed<D, T>& bump, const Vec<T> (*x)[D], Axes<D, T>* out, T b_before,
                               Axes<D, T>* before) {
  using V = Vec<T>;
  constexpr int L = EDGES ? kSide * D : 0, P = PSI ? kSide : 0;  // axis k at vector u is number u * D + k
  V B[L + 1], n[L + P], t[L + 1], den[L + 1], r[L + 1];
  for (int i = 0; i < L; i++) {
    B[i] = (x[i / D][0] - bump.c[0]) * bump.U[i % D][0];
    for (int j = 1; j < D; j++) B[i] += (x[i / D][j] - bump.c[j]) * bump.U[i % D][j];
    n[i] = at_most(bump.a[i % D] - abs(B[i]), Limits<T>::cap);
  }
  for (int u = 0; u < P; u++) n[L + u] = at_most(before[u].S * b_before, Limits<T>::sigmoid_cap);
  exp2<T>(n);
  for (int i = 0; i < L; i++) {
    t[i] = n[i] * bump.q[i % D];
    V half = n[i] * T(0.5) + T(0.5);
    den[i] = t[i] * half + half;  // (1 + n)(1 + t) / 2
  }
  for (int u = 0; u < P; u++) before[u].psi = reciprocal(n[L + u] + T(1));
  // One reciprocal serves two axes.
  for (int i = 0; i < L; i++) {
    if (i % D % 2) continue;
    if (kPaired<T> && i % D + 1 < D) {
      V both = reciprocal(den[i] * den[i + 1]);
      r[i] = both * den[i + 1];
      r[i + 1] = both * den[i];
    } else {
      r[i] = reciprocal(den[i]);
      if (i % D + 1 < D) r[i + 1] = reciprocal(den[i + 1]);
    }
  }
  for (int i = 0; i < L; i++) {
    V y = n[i] * r[i];
    out[i / D].y[i % D] = y;
    out[i / D].d[i % D] = flip_sign(r[i] - t[i] * y, B[i]);
    out[i / D].z[i % D] = r[i] + t[i] * y;
    out[i / D].S = (i % D ? out[i / D].S : splat<T>(T(1 - 2 * D))) + y * bump.k[i % D];
  }
}

// First and second derivative of g in B.
template <class V>
struct Edge {
  V G1, G2;
};
template <int D, class T>
BUMP_INLINE void edges(const Packed<D, T>& bump, const Axes<D, T>& ax, Edge<Vec<T>>* e) {
  for (int k = 0; k < D; k++) {
    Vec<T> g = ax.y[k] * bump.k[k], d = ax.d[k];
    e[k].G1 = -(d * g);
    e[k].G2 = (g + g) * (d * d - ax.z[k]);
  }
}

// The same with the third derivative in B and the derivatives of g, G1 and G2 in A.
template <class V>
struct EdgeGradients {
  V G1, G2, G3, gA, G1A, G2A;
};
template <int D, class T>
BUMP_INLINE EdgeGradients<Vec<T>> edge_gradients(const Packed<D, T>& bump, const Axes<D, T>& ax, int k) {
  using V = Vec<T>;
  V y = ax.y[k], d = ax.d[k], g = y * bump.k[k];
  V e = y * ((y * T(4) + ax.z[k]) * bump.q[k] + ax.z[k]);  // a sum of what is positive: no cancellation
  V e3 = (e + e) + e, rest = T(4) - e3;
  EdgeGradients<V> out;
  out.G1 = -(d * g);
  out.G2 = g * (d * d - e);
  out.G3 = out.G1 * (rest - e3);
  out.gA = e;
  out.G1A = d * (g * g - e);
  out.G2A = e * rest - ((out.G1 + out.G1) + out.G1) * out.G1;
  return out;
}

// Gradient of S, and its second derivatives in the form of WANT.
template <int D, int WANT, class T, class E>
BUMP_INLINE void shape_derivatives(const Packed<D, T>& bump, const E* e, Vec<T>* S1, Vec<T>* S2) {
  for (int j = 0; j < D; j++) {
    S1[j] = e[0].G1 * bump.V[0][j];
    for (int k = 1; k < D; k++) S1[j] += e[k].G1 * bump.V[k][j];
  }
  if (WANT == DIAGONAL)
    for (int j = 0; j < D; j++) {
      S2[j] = e[0].G2 * bump.VV[0][j];
      for (int k = 1; k < D; k++) S2[j] += e[k].G2 * bump.VV[k][j];
    }
  if (WANT == LAPLACIAN) {
    S2[0] = e[0].G2 * bump.norm[0];
    for (int k = 1; k < D; k++) S2[0] += e[k].G2 * bump.norm[k];
  }
  if (WANT == HESSIAN)
    for (int i = 0, m = 0; i < D; i++)
      for (int j = i; j < D; j++, m++) {
        S2[m] = e[0].G2 * (bump.V[0][i] * bump.V[0][j]);
        for (int k = 1; k < D; k++) S2[m] += e[k].G2 * (bump.V[k][i] * bump.V[k][j]);
      }
}

// Products S_i S_j in the form of WANT.
template <int D, int WANT, class T>
BUMP_INLINE void outer_square(const Vec<T>* S1, Vec<T>* out) {
  if (WANT == DIAGONAL)
    for (int j = 0; j < D; j++) out[j] = S1[j] * S1[j];
  if (WANT == LAPLACIAN) {
    out[0] = S1[0] * S1[0];
    for (int j = 1; j < D; j++) out[0] += S1[j] * S1[j];
  }
  if (WANT == HESSIAN)
    for (int i = 0, m = 0; i < D; i++)
      for (int j = i; j < D; j++, m++) out[m] = S1[i] * S1[j];
}

// weight * jet of psi, added to out[components] (ADD) or written there.
template <int D, int WANT, bool ADD, class T>
BUMP_INLINE void pair_jet(const Packed<D, T>& bump, const Axes<D, T>& ax, T weight, Vec<T>* out) {
  using V = Vec<T>;
  V psi = ADD ? ax.psi * weight : ax.psi;
  out[0] = ADD ? out[0] + psi : psi;
  if (WANT == VALUE) return;
  Edge<V> e[D];
  edges(bump, ax, e);
  V S1[D], S2[Shape<D, WANT>::second + 1], SS[Shape<D, WANT>::second + 1];
  shape_derivatives<D, WANT, T>(bump, e, S1, S2);
  V w = (psi - psi * ax.psi) * bump.s;
  for (int j = 0; j < D; j++) out[1 + j] = ADD ? out[1 + j] + w * S1[j] : w * S1[j];
  if (WANT == GRADIENT) return;
  V f = (T(1) - (ax.psi + ax.psi)) * bump.s;
  outer_square<D, WANT, T>(S1, SS);
  for (int m = 0; m < Shape<D, WANT>::second; m++) {
    V term = w * (f * SS[m] + S2[m]);
    out[1 + D + m] = ADD ? out[1 + D + m] + term : term;
  }
}

// L = c0 psi + c1 . grad psi + c2 : second derivatives, and its derivatives by B, A and s; the one
// by V is  dV_kj = dB_k y_j + dS1_j G1_k + 2 G2_k (wc2 V_k)_j.  The cotangents (c0, c1, c2) are
// components apart; with WANT = HESSIAN the off-diagonal ones are (c2_ij + c2_ji) / 2.
template <int D, int WANT, class T>
struct PairVjp {
  Vec<T> L, s_ds, dB[D], dA[D], dS1[D];
  Vec<T> wc2[Shape<D, WANT>::second + 1];  // s psi' c2
  Vec<T> wc2V[D][D];                       // only with WANT = HESSIAN
  EdgeGradients<Vec<T>> e[D];
};

// What the weighted cotangent of the second derivatives is needed for: c2 grad S, and V_k . c2 V_k.
template <int D, int WANT, class T>
BUMP_INLINE void contract_second(const Packed<D, T>& bump, const Vec<T>* S1, PairVjp<D, WANT, T>& out, Vec<T>* cS,
                                 Vec<T>* dG2) {
  using V = Vec<T>;
  const V* c = out.wc2;
  if (WANT == HESSIAN) {
    for (int j = 0; j < D; j++) cS[j] = V{};
    for (int k = 0; k < D; k++)
      for (int j = 0; j < D; j++) out.wc2V[k][j] = V{};
    for (int i = 0, m = 0; i < D; i++)
      for (int j = i; j < D; j++, m++) {
        cS[i] += c[m] * S1[j];
        if (i != j) cS[j] += c[m] * S1[i];
        for (int k = 0; k < D; k++) {
          out.wc2V[k][i] += c[m] * bump.V[k][j];
          if (i != j) out.wc2V[k][j] += c[m] * bump.V[k][i];
        }
      }
  } else {
    for (int j = 0; j < D; j++) cS[j] = c[WANT == DIAGONAL ? j : 0] * S1[j];
  }
  for (int k = 0; k < D; k++) {
    if (WANT == LAPLACIAN) {
      dG2[k] = c[0] * bump.norm[k];
      continue;
    }
    dG2[k] = WANT == HESSIAN ? out.wc2V[k][0] * bump.V[k][0] : c[0] * bump.VV[k][0];
    for (int j = 1; j < D; j++) dG2[k] += WANT == HESSIAN ? out.wc2V[k][j] * bump.V[k][j] : c[j] * bump.VV[k][j];
  }
}

template <int D, int WANT, class T>
BUMP_INLINE void pair_vjp(const Packed<D, T>& bump, const Axes<D, T>& ax, const Vec<T>* cot, PairVjp<D, WANT, T>& out) {
  using V = Vec<T>;
  const V *c1 = cot + 1, *c2 = cot + 1 + D;
  for (int k = 0; k < D; k++) out.e[k] = edge_gradients(bump, ax, k);
  V p1 = ax.psi - ax.psi * ax.psi, w = p1 * bump.s, f = (T(1) - (ax.psi + ax.psi)) * bump.s;
  V dS = w * cot[0], wP{}, f_wQ{}, dG1[D], dG2[D];
  if (WANT >= GRADIENT) {
    V S1[D], cS[D];
    shape_derivatives<D, GRADIENT, T>(bump, out.e, S1, cS);
    for (int j = 0; j < D; j++) {
      out.dS1[j] = w * c1[j];
      wP = j == 0 ? out.dS1[0] * S1[0] : wP + out.dS1[j] * S1[j];
    }
    if (WANT >= DIAGONAL) {
      for (int m = 0; m < Shape<D, WANT>::second; m++) out.wc2[m] = w * c2[m];
      contract_second(bump, S1, out, cS, dG2);
      V wQ = cS[0] * S1[0];
      for (int j = 1; j < D; j++) wQ += cS[j] * S1[j];
      for (int k = 0; k < D; k++) wP += out.e[k].G2 * dG2[k];
      for (int j = 0; j < D; j++) out.dS1[j] += (f + f) * cS[j];
      f_wQ = f * wQ;
      dS += (bump.ss - p1 * bump.ss6) * wQ;
    }
    dS += f * wP;
    for (int k = 0; k < D; k++) {
      dG1[k] = out.dS1[0] * bump.V[k][0];
      for (int j = 1; j < D; j++) dG1[k] += out.dS1[j] * bump.V[k][j];
    }
  }
  out.L = cot[0] * ax.psi + (wP + f_wQ);
  out.s_ds = ax.S * dS + (wP + (f_wQ + f_wQ));
  for (int k = 0; k < D; k++) {
    const EdgeGradients<V>& e = out.e[k];
    out.dB[k] = dS * e.G1;
    out.dA[k] = dS * e.gA;
    if (WANT >= GRADIENT) {
      out.dB[k] += dG1[k] * e.G2;
      out.dA[k] += dG1[k] * e.G1A;
    }
    if (WANT >= DIAGONAL) {
      out.dB[k] += dG2[k] * e.G3;
      out.dA[k] += dG2[k] * e.G2A;
    }
  }
}

}  // namespace BUMP_VARIANT
}  // namespace bump
