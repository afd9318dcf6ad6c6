// From a raw row to a packed bump, and the gradient back: the C++ twin of bumpnet_fast/core/rows.py.
// Scalar code in double precision whatever the kernels compute in: it runs once per bump and call.
#pragma once

#include <cmath>

#include "bump_math.h"

namespace bump {
namespace BUMP_VARIANT {

// Orientation of one bump: normals W with rows of one length, and their derivatives by the skews.
template <int D>
struct Orientation {
  static constexpr int skews = D * (D - 1) / 2;
  double W[D][D], length = 0;
  double dW[skews + 1][D][D], dlength[skews + 1];
};

// Gram-Schmidt on the rows of the unit upper-triangular U; U = L Q and dQ = Omega Q with the
// strict upper part of the antisymmetric Omega that of L^-1 dU Q^T, L^-1 = Q U^-1.
template <int D>
inline void orient(const double* skew, Orientation<D>& o) {
  if constexpr (D == 1) {
    o.W[0][0] = o.length = 1;
    return;
  }
  if constexpr (D == 2) {
    const double a = skew[0];
    o.length = std::sqrt(1 + a * a);
    const double W[2][2] = {{1, a}, {-a, 1}}, dW[2][2] = {{0, 1}, {-1, 0}};
    std::memcpy(o.W, W, sizeof W);
    std::memcpy(o.dW[0], dW, sizeof dW);
    o.dlength[0] = a / o.length;
    return;
  }
  double U[D][D] = {}, Q[D][D], Ui[D][D] = {}, Li[D][D];
  for (int a = 0, m = 0; a < D; a++) {
    U[a][a] = 1;
    for (int b = a + 1; b < D; b++) U[a][b] = skew[m++];
  }
  for (int k = 0; k < D; k++) {
    double v[D];
    std::memcpy(v, U[k], sizeof v);
    for (int l = 0; l < k; l++) {
      double along = 0;
      for (int j = 0; j < D; j++) along += v[j] * Q[l][j];
      for (int j = 0; j < D; j++) v[j] -= along * Q[l][j];
    }
    double norm = 0;
    for (int j = 0; j < D; j++) norm += v[j] * v[j];
    norm = std::sqrt(norm);
    for (int j = 0; j < D; j++) Q[k][j] = v[j] / norm;
    if (k == 0) o.length = norm;
  }
  for (int i = D - 1; i >= 0; i--) {
    Ui[i][i] = 1;
    for (int j = i + 1; j < D; j++)
      for (int l = i + 1; l <= j; l++) Ui[i][j] -= U[i][l] * Ui[l][j];
  }
  for (int i = 0; i < D; i++)
    for (int j = 0; j < D; j++) {
      o.W[i][j] = o.length * Q[i][j];
      Li[i][j] = 0;
      for (int l = 0; l < D; l++) Li[i][j] += Q[i][l] * Ui[l][j];
    }
  for (int a = 0, m = 0; a < D; a++)
    for (int b = a + 1; b < D; b++, m++) {
      o.dlength[m] = a == 0 ? U[0][b] / o.length : 0;
      for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++) {
          double dQ = 0;
          for (int l = 0; l < D; l++) {
            if (l == i) continue;
            const double omega = l > i ? Li[i][a] * Q[l][b] : -Li[l][a] * Q[i][b];
            dQ += omega * Q[l][j];
          }
          o.dW[m][i][j] = o.dlength[m] * Q[i][j] + o.length * dQ;
        }
    }
}

// One row's used values and the factors of the chain back, all in double.
template <int D>
struct Unpacked {
  static constexpr int skews = D * (D - 1) / 2;
  double c[D], by_centre[D], A[D], V[D][D], p, s;
  double by_skew[skews + 1][D][D], stretch[skews + 1];
};

template <int D, class T>
inline void unpack(const T* row, const T* frame, bool tied, Unpacked<D>& u) {
  constexpr int skews = Unpacked<D>::skews;
  const T *centre = row, *size = row + D, *skew = row + 2 * D, *sharpness = skew + skews;
  double raw_skew[skews + 1];
  for (int m = 0; m < skews; m++) raw_skew[m] = skew[m];
  Orientation<D> o;
  orient<D>(raw_skew, o);
  u.p = std::exp(double(sharpness[0]));
  u.s = tied ? 2 * u.p : std::exp(double(sharpness[1]));
  for (int j = 0; j < D; j++) {
    const double lo = frame[j], hi = frame[D + j], t = std::tanh(double(centre[j]));
    u.c[j] = lo + (hi - lo) * (0.5 * (1 + t));
    u.by_centre[j] = 0.5 * (hi - lo) * (1 - t * t);
    u.A[j] = 0.5 * u.p * o.length * std::exp(double(size[j]));
    for (int k = 0; k < D; k++) u.V[k][j] = u.p * o.W[k][j] * double(frame[2 * D + j]);
  }
  for (int m = 0; m < skews; m++) {
    u.stretch[m] = o.dlength[m] / o.length;
    for (int k = 0; k < D; k++)
      for (int j = 0; j < D; j++) u.by_skew[m][k][j] = u.p * o.dW[m][k][j] * double(frame[2 * D + j]);
  }
}

template <int D, class T>
void pack(const T* rows, int64_t row_stride, int64_t bumps, const T* frame, bool tied, bool single, void* packed) {
  constexpr int skews = Unpacked<D>::skews;
  const double log2e = 1.4426950408889634074;
  for (int64_t i = 0; i < bumps; i++) {
    const T* row = rows + i * row_stride;
    Packed<D, T>& b = static_cast<Packed<D, T>*>(packed)[i];
    Unpacked<D> u;
    unpack<D, T>(row, frame, tied, u);
    for (int k = 0; k < D; k++) {
      double norm = 0;
      for (int j = 0; j < D; j++) {
        b.V[k][j] = T(u.V[k][j]);
        b.U[k][j] = T(2 * log2e * u.V[k][j]);
        b.VV[k][j] = T(u.V[k][j] * u.V[k][j]);
        norm += u.V[k][j] * u.V[k][j];
      }
      b.norm[k] = T(norm);
      b.c[k] = T(u.c[k]);
      b.A[k] = T(u.A[k]);
      b.a[k] = T(2 * log2e * u.A[k]);
      // of the rounded a, so that q n^2 is 1 at the centre, where d vanishes, for large A too
      b.q[k] = T(std::exp2(-2 * double(b.a[k])));
      b.k[k] = T(-std::expm1(-2 / log2e * double(b.a[k])));
      b.by_centre[k] = T(u.by_centre[k]);
    }
    b.s = T(u.s);
    b.ss = T(u.s * u.s);
    b.ss6 = T(6 * u.s * u.s);
    b.b = T(-u.s * log2e);
    b.h = single ? row[2 * D + skews + (tied ? 1 : 2)] : T(1);
    for (int m = 0; m < skews; m++) {
      b.stretch[m] = T(u.stretch[m]);
      for (int k = 0; k < D; k++)
        for (int j = 0; j < D; j++) b.by_skew[m][k][j] = T(u.by_skew[m][k][j]);
    }
  }
}

template <int D, class T>
void unpack_gradient(const T* row, const T* frame, bool tied, const double* sums, double* gradient) {
  constexpr int skews = Unpacked<D>::skews;
  Unpacked<D> u;
  unpack<D, T>(row, frame, tied, u);
  const double s_ds = sums[1], *dA = sums + 2, *dB = dA + D, *dV = dB + D;
  double sharp = 0, by_A = 0;
  for (int k = 0; k < D; k++) {
    double dc = 0;
    for (int l = 0; l < D; l++) dc -= dB[l] * u.V[l][k];
    gradient[k] = dc * u.by_centre[k];
    gradient[D + k] = dA[k] * u.A[k];
    by_A += dA[k] * u.A[k];
    for (int j = 0; j < D; j++) sharp += dV[k * D + j] * u.V[k][j];
  }
  for (int m = 0; m < skews; m++) {
    double along = by_A * u.stretch[m];
    for (int k = 0; k < D; k++)
      for (int j = 0; j < D; j++) along += dV[k * D + j] * u.by_skew[m][k][j];
    gradient[2 * D + m] = along;
  }
  double* last = gradient + 2 * D + skews;
  last[0] = sharp + by_A;
  last[tied ? 0 : 1] = (tied ? last[0] : 0) + s_ds;
}

}  // namespace BUMP_VARIANT
}  // namespace bump
