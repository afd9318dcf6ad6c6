// The bump's formulas over a vector of points: the C++ twin of bumpnet_fast/reference.py.
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
  T a[D], q[D], k[D];   // 2 A log2 e, exp(-4 A), 2 (1 - q)
  T s, ss, b, h;        // outer slope, its square, -s log2 e, amplitude
  // derivatives of the packed values by the raw columns, for the design matrix
  T by_centre[D];
  T by_skew[D * (D - 1) / 2 + 1][D][D];
  T stretch[D * (D - 1) / 2 + 1];
};

// The two edges of every axis and the sum of them.
template <int D, class T>
struct Axes {
  Vec<T> y[D], B[D], g[D], d[D], S, psi;
};

template <int D, class T>
BUMP_INLINE void evaluate_axes(const Packed<D, T>& bump, const Vec<T>* x, Axes<D, T>& out) {
  using V = Vec<T>;
  const T two_log2e = T(2.8853900817779268147);
  V n[D], t[D], den[D];
  for (int j = 0; j < D; j++) out.y[j] = x[j] - bump.c[j];
  for (int k = 0; k < D; k++) {
    V B = out.y[0] * bump.V[k][0];
    for (int j = 1; j < D; j++) B += out.y[j] * bump.V[k][j];
    out.B[k] = B;
    n[k] = exp2(at_most(bump.a[k] - abs(B) * two_log2e, Limits<T>::cap));
    t[k] = n[k] * bump.q[k];
    den[k] = (n[k] + T(1)) * (t[k] + T(1));
  }
  out.S = splat<T>(T(1 - 2 * D));
  // One reciprocal serves two axes.
  for (int k = 0; k < D; k += 2) {
    V r[2];
    if (k + 1 < D) {
      V both = reciprocal(den[k] * den[k + 1]);
      r[0] = both * den[k + 1];
      r[1] = both * den[k];
    } else {
      r[0] = reciprocal(den[k]);
    }
    for (int i = k; i < D && i < k + 2; i++) {
      V ri = r[i - k];
      out.g[i] = (n[i] * bump.k[i]) * ri;
      ri += ri;
      out.d[i] = flip_sign(ri - (t[i] * n[i]) * ri, out.B[i]);
      out.S += out.g[i];
    }
  }
  out.psi = reciprocal(exp2(at_most(out.S * bump.b, Limits<T>::sigmoid_cap)) + T(1));
}

// Derivatives of g in B, and bend = G2 / g.
template <class V>
struct Edge {
  V G1, G2, bend, gg, dd;
};
template <class T>
BUMP_INLINE Edge<Vec<T>> edge(Vec<T> g, Vec<T> d) {
  Edge<Vec<T>> e;
  e.gg = g * g;
  e.dd = d * d;
  e.G1 = -(d * g);
  e.bend = T(0.5) * (e.gg + T(3) * e.dd) - T(2);
  e.G2 = g * e.bend;
  return e;
}

// Gradient of S, and its second derivatives in the form of WANT.
template <int D, int WANT, class T>
BUMP_INLINE void shape_derivatives(const Packed<D, T>& bump, const Edge<Vec<T>>* e, Vec<T>* S1, Vec<T>* S2) {
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
BUMP_INLINE void pair_jet(const Packed<D, T>& bump, const Vec<T>* x, T weight, Vec<T>* out) {
  using V = Vec<T>;
  Axes<D, T> ax;
  evaluate_axes(bump, x, ax);
  V psi = ADD ? ax.psi * weight : ax.psi;
  out[0] = ADD ? out[0] + psi : psi;
  if (WANT == VALUE) return;
  Edge<V> e[D];
  for (int k = 0; k < D; k++) e[k] = edge<T>(ax.g[k], ax.d[k]);
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

// Derivatives of L = c0 psi + c1 . grad psi + c2 : second derivatives, by B, A and s, and the
// pieces of the derivative by V: dV_kj = dB_k y_j + dS1_j G1_k + (2 w G2_k) (c2 V_k)_j.
// cot[components]: with WANT = HESSIAN the off-diagonal entries are (c2_ij + c2_ji) / 2.
template <int D, int WANT, class T>
struct PairVjp {
  Vec<T> L, ds, dB[D], dA[D], dS1[D], w;
  Edge<Vec<T>> e[D];
  Vec<T> cV[WANT == HESSIAN ? D : 1][WANT == HESSIAN ? D : 1];
};

template <int D, int WANT, class T>
BUMP_INLINE void pair_vjp(const Packed<D, T>& bump, const Axes<D, T>& ax, const Vec<T>* cot, PairVjp<D, WANT, T>& out) {
  using V = Vec<T>;
  const V *c1 = cot + 1, *c2 = cot + 1 + D;
  for (int k = 0; k < D; k++) out.e[k] = edge<T>(ax.g[k], ax.d[k]);
  V p1 = ax.psi - ax.psi * ax.psi;
  V L = cot[0] * ax.psi, Ls = cot[0] * p1, ds{};
  V dG1[D], cVV[D];
  if (WANT >= GRADIENT) {
    V S1[D], S2[D + 1];
    shape_derivatives<D, GRADIENT, T>(bump, out.e, S1, S2);
    V p2 = p1 * (T(1) - (ax.psi + ax.psi));
    V P = c1[0] * S1[0];
    for (int j = 1; j < D; j++) P += c1[j] * S1[j];
    out.w = p1 * bump.s;
    for (int j = 0; j < D; j++) out.dS1[j] = out.w * c1[j];
    if (WANT >= DIAGONAL) {
      V cS[D];
      if (WANT == HESSIAN) {
        for (int j = 0; j < D; j++) cS[j] = V{};
        for (int k = 0; k < D; k++)
          for (int j = 0; j < D; j++) out.cV[k][j] = V{};
        for (int i = 0, m = 0; i < D; i++)
          for (int j = i; j < D; j++, m++) {
            cS[i] += c2[m] * S1[j];
            if (i != j) cS[j] += c2[m] * S1[i];
            for (int k = 0; k < D; k++) {
              out.cV[k][i] += c2[m] * bump.V[k][j];
              if (i != j) out.cV[k][j] += c2[m] * bump.V[k][i];
            }
          }
      } else {
        for (int j = 0; j < D; j++) cS[j] = c2[WANT == DIAGONAL ? j : 0] * S1[j];
      }
      for (int k = 0; k < D; k++) {
        if (WANT == LAPLACIAN) {
          cVV[k] = c2[0] * bump.norm[k];
        } else {
          cVV[k] = WANT == HESSIAN ? out.cV[k][0] * bump.V[k][0] : c2[0] * bump.VV[k][0];
          for (int j = 1; j < D; j++) cVV[k] += WANT == HESSIAN ? out.cV[k][j] * bump.V[k][j] : c2[j] * bump.VV[k][j];
        }
        P += out.e[k].G2 * cVV[k];
      }
      V Q = cS[0] * S1[0];
      for (int j = 1; j < D; j++) Q += cS[j] * S1[j];
      V sp2 = p2 * bump.s, two_ssp2 = (sp2 + sp2) * bump.s;
      V p3 = p1 * (T(1) - T(6) * p1);
      for (int j = 0; j < D; j++) out.dS1[j] += two_ssp2 * cS[j];
      L += (sp2 * bump.s) * Q;
      Ls += (p3 * bump.ss) * Q;
      ds += (sp2 + sp2) * Q;
      for (int k = 0; k < D; k++) cVV[k] *= out.w;
    }
    L += out.w * P;
    Ls += (p2 * bump.s) * P;
    ds += p1 * P;
    for (int k = 0; k < D; k++) {
      dG1[k] = out.dS1[0] * bump.V[k][0];
      for (int j = 1; j < D; j++) dG1[k] += out.dS1[j] * bump.V[k][j];
    }
  }
  out.L = L;
  out.ds = ax.S * Ls + ds;
  V dS = Ls * bump.s;
  for (int k = 0; k < D; k++) {
    const Edge<V>& e = out.e[k];
    V eA = T(2) - T(0.5) * (e.gg + e.dd);
    out.dB[k] = dS * e.G1;
    out.dA[k] = dS * eA;
    if (WANT >= GRADIENT) {
      out.dB[k] += dG1[k] * e.G2;
      out.dA[k] += dG1[k] * (ax.d[k] * (e.gg - eA));
    }
    if (WANT >= DIAGONAL) {
      V bend_gg = e.bend + e.gg;
      out.dB[k] += cVV[k] * (e.G1 * (bend_gg - T(3) * eA));
      out.dA[k] += cVV[k] * (eA * bend_gg - T(3) * (e.gg * e.dd));
    }
  }
}

}  // namespace BUMP_VARIANT
}  // namespace bump
