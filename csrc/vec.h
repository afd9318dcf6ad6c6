// The vector type of the variant being compiled, and the handful of primitives that differ.
//
// kernels.cpp is compiled once per instruction set with BUMP_VARIANT naming a namespace, so that
// all variants live in one module and the fastest is chosen at run time.  A vector is a GCC/Clang
// vector of T with ordinary operators; on other compilers it is T itself.  Never compile this with
// -ffast-math: it folds the rounding trick of exp2 away and drops NaN.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#if defined(__GNUC__)
#define BUMP_INLINE inline __attribute__((always_inline))
#define BUMP_VECTORS 1
#else
#define BUMP_INLINE inline
#define BUMP_VECTORS 0
#endif

namespace bump {
namespace BUMP_VARIANT {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

template <class T>
struct IntegerOf;
template <>
struct IntegerOf<float> {
  using type = int32_t;
};
template <>
struct IntegerOf<double> {
  using type = int64_t;
};

template <class T>
struct Traits {
  using I = typename IntegerOf<T>::type;
#if BUMP_VECTORS
  typedef T V __attribute__((vector_size(kBytes)));
  typedef I VI __attribute__((vector_size(kBytes)));
#else
  using V = T;
  using VI = I;
#endif
  static constexpr int lanes = sizeof(V) / sizeof(T);
};

template <class T>
using Vec = typename Traits<T>::V;
template <class T>
using VecI = typename Traits<T>::VI;

template <class To, class From>
BUMP_INLINE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps their number");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class T>
BUMP_INLINE Vec<T> splat(T a) {
  return Vec<T>{} + a;
}
template <class T>
BUMP_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
BUMP_INLINE void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}
// Stores the first `count` lanes; all of them when count is not less than a vector.
template <class T>
BUMP_INLINE void store(T* p, Vec<T> v, int64_t count) {
  constexpr int64_t lanes = Traits<T>::lanes;
  if (count >= lanes)
    store<T>(p, v);
  else
    std::memcpy(p, &v, sizeof(T) * count);
}
// Sum of the lanes, in double.
template <class T>
BUMP_INLINE double sum(Vec<T> v) {
  T lane[Traits<T>::lanes];
  std::memcpy(lane, &v, sizeof v);
  double total = 0;
  for (int i = 0; i < Traits<T>::lanes; i++) total += lane[i];
  return total;
}

// Limits as exponents of two.  At the floor 2^x is 0, as the bits of its exponent are, and so are all derivatives,
// whatever a far point multiplies them by.  At the cap 1 / 2^x is as good as 0, whatever the size of a wide bump
// multiplies it by, and what the formulas make of it does not overflow: (1 + n)(1 + t) / 2, where kPaired of two axes.
template <class T>
struct Limits;
template <>
struct Limits<float> {
  static constexpr float floor = -127.f, cap = 120.f, sigmoid_cap = 120.f;
};
template <>
struct Limits<double> {
  static constexpr double floor = -1023., cap = 500., sigmoid_cap = 900.;
};
// Whether one reciprocal serves two axes.
template <class T>
constexpr bool kPaired = sizeof(T) == 8;

// --- primitives with a fast form per instruction set --------------------------------------------
// at_most and at_least let a NaN in v through.

#if defined(__AVX512F__)

BUMP_INLINE Vec<float> at_most(Vec<float> v, float hi) {
  return (Vec<float>)_mm512_min_ps(_mm512_set1_ps(hi), (__m512)v);
}
BUMP_INLINE Vec<double> at_most(Vec<double> v, double hi) {
  return (Vec<double>)_mm512_min_pd(_mm512_set1_pd(hi), (__m512d)v);
}
BUMP_INLINE Vec<float> abs(Vec<float> v) { return (Vec<float>)_mm512_abs_ps((__m512)v); }
BUMP_INLINE Vec<double> abs(Vec<double> v) { return (Vec<double>)_mm512_abs_pd((__m512d)v); }
// m with its sign flipped where s is negative
BUMP_INLINE Vec<float> flip_sign(Vec<float> m, Vec<float> s) {
  return (Vec<float>)_mm512_ternarylogic_epi32((__m512i)m, (__m512i)s, _mm512_set1_epi32(INT32_MIN), 0x78);
}
BUMP_INLINE Vec<double> flip_sign(Vec<double> m, Vec<double> s) {
  return (Vec<double>)_mm512_ternarylogic_epi64((__m512i)m, (__m512i)s, _mm512_set1_epi64(INT64_MIN), 0x78);
}
// 2^v = 2^f 2^n with n the nearest integer: scalef underflows by itself, so no floor is needed, and reduce makes f = 0
// of an infinity
BUMP_INLINE Vec<float> round_off(Vec<float>& v) {
  Vec<float> n = (Vec<float>)_mm512_roundscale_ps((__m512)v, 8);
  v = (Vec<float>)_mm512_reduce_ps((__m512)v, 8);
  return n;
}
BUMP_INLINE Vec<double> round_off(Vec<double>& v) {
  Vec<double> n = (Vec<double>)_mm512_roundscale_pd((__m512d)v, 8);
  v = (Vec<double>)_mm512_reduce_pd((__m512d)v, 8);
  return n;
}
BUMP_INLINE Vec<float> scale_by_power(Vec<float> m, Vec<float> n) {
  return (Vec<float>)_mm512_scalef_ps((__m512)m, (__m512)n);
}
BUMP_INLINE Vec<double> scale_by_power(Vec<double> m, Vec<double> n) {
  return (Vec<double>)_mm512_scalef_pd((__m512d)m, (__m512d)n);
}
// 14 bits, doubled by each Newton step
BUMP_INLINE Vec<float> reciprocal(Vec<float> v) {
  Vec<float> r = (Vec<float>)_mm512_rcp14_ps((__m512)v);
  return r * (2.f - v * r);
}
BUMP_INLINE Vec<double> reciprocal(Vec<double> v) {
  Vec<double> r = (Vec<double>)_mm512_rcp14_pd((__m512d)v);
  r = r * (2. - v * r);
  return r + r * (1. - v * r);
}

#else

template <class V, class T>
BUMP_INLINE V at_most_by_comparison(V v, T hi) {
  V top = V{} + hi;
  return v > top ? top : v;
}
template <class V, class T>
BUMP_INLINE V at_least_by_comparison(V v, T lo) {
  V bottom = V{} + lo;
  return v < bottom ? bottom : v;
}
#if defined(__AVX__)
BUMP_INLINE Vec<float> at_most(Vec<float> v, float hi) {
  return (Vec<float>)_mm256_min_ps(_mm256_set1_ps(hi), (__m256)v);
}
BUMP_INLINE Vec<double> at_most(Vec<double> v, double hi) {
  return (Vec<double>)_mm256_min_pd(_mm256_set1_pd(hi), (__m256d)v);
}
BUMP_INLINE Vec<float> at_least(Vec<float> v, float lo) {
  return (Vec<float>)_mm256_max_ps(_mm256_set1_ps(lo), (__m256)v);
}
BUMP_INLINE Vec<double> at_least(Vec<double> v, double lo) {
  return (Vec<double>)_mm256_max_pd(_mm256_set1_pd(lo), (__m256d)v);
}
#else
BUMP_INLINE Vec<float> at_most(Vec<float> v, float hi) { return at_most_by_comparison(v, hi); }
BUMP_INLINE Vec<double> at_most(Vec<double> v, double hi) { return at_most_by_comparison(v, hi); }
BUMP_INLINE Vec<float> at_least(Vec<float> v, float lo) { return at_least_by_comparison(v, lo); }
BUMP_INLINE Vec<double> at_least(Vec<double> v, double lo) { return at_least_by_comparison(v, lo); }
#endif

template <class T>
struct Format;
template <>
struct Format<float> {
  static constexpr int32_t sign = INT32_MIN, bias = 127;
  static constexpr int mantissa = 23;
  static constexpr float round = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
};
template <>
struct Format<double> {
  static constexpr int64_t sign = INT64_MIN, bias = 1023;
  static constexpr int mantissa = 52;
  static constexpr double round = 6755399441055744.;
};

template <class T>
BUMP_INLINE Vec<T> abs_bits(Vec<T> v) {
  return bits<Vec<T> >(bits<VecI<T> >(v) & ~Format<T>::sign);
}
template <class T>
BUMP_INLINE Vec<T> flip_sign_bits(Vec<T> m, Vec<T> s) {
  return bits<Vec<T> >(bits<VecI<T> >(m) ^ (bits<VecI<T> >(s) & Format<T>::sign));
}
// n is left with the rounding constant added: its low bits are the integer itself
template <class T>
BUMP_INLINE Vec<T> round_off_bits(Vec<T>& v) {
  v = at_least(v, Limits<T>::floor);
  Vec<T> shifted = v + Format<T>::round;
  v -= shifted - Format<T>::round;
  return shifted;
}
template <class T>
BUMP_INLINE Vec<T> scale_by_power_bits(Vec<T> m, Vec<T> shifted) {
  using U = VecI<T>;
  return m * bits<Vec<T> >((bits<U>(shifted) << Format<T>::mantissa) + (Format<T>::bias << Format<T>::mantissa));
}
BUMP_INLINE Vec<float> abs(Vec<float> v) { return abs_bits<float>(v); }
BUMP_INLINE Vec<double> abs(Vec<double> v) { return abs_bits<double>(v); }
BUMP_INLINE Vec<float> flip_sign(Vec<float> m, Vec<float> s) { return flip_sign_bits<float>(m, s); }
BUMP_INLINE Vec<double> flip_sign(Vec<double> m, Vec<double> s) { return flip_sign_bits<double>(m, s); }
BUMP_INLINE Vec<float> round_off(Vec<float>& v) { return round_off_bits<float>(v); }
BUMP_INLINE Vec<double> round_off(Vec<double>& v) { return round_off_bits<double>(v); }
BUMP_INLINE Vec<float> scale_by_power(Vec<float> m, Vec<float> n) { return scale_by_power_bits<float>(m, n); }
BUMP_INLINE Vec<double> scale_by_power(Vec<double> m, Vec<double> n) { return scale_by_power_bits<double>(m, n); }
BUMP_INLINE Vec<float> reciprocal(Vec<float> v) { return 1.f / v; }
BUMP_INLINE Vec<double> reciprocal(Vec<double> v) { return 1. / v; }

#endif

// Minimax polynomials of 2^v on [-1/2, 1/2], highest power first; relative errors 7e-8 and 2e-16.
template <class T>
struct Exp2;
template <>
struct Exp2<float> {
  static constexpr float c[] = {1.3276473e-3f, 9.6755413e-3f, 5.5507133e-2f, 2.4022120e-1f, 6.9314697e-1f, 1.f};
};
template <>
struct Exp2<double> {
  static constexpr double c[] = {7.03727953058280352e-9,
                                 1.02085379045521639e-7,
                                 1.321566283184610283e-6,
                                 1.525265811656138433e-5,
                                 1.540352996113595545e-4,
                                 1.333355822856147553e-3,
                                 9.618129108034588692e-3,
                                 5.550410866445883319e-2,
                                 2.40226506959087678e-1,
                                 6.931471805599497751e-1,
                                 1.};
};

// v[i] = 2^v[i], step by step for all i: the chains are independent, and the processor overlaps
// instructions that stand side by side better than ones that stand apart.
template <class T, int L>
BUMP_INLINE void exp2(Vec<T> (&v)[L]) {
  constexpr int terms = sizeof(Exp2<T>::c) / sizeof(T);
  Vec<T> n[L], p[L];
  for (int i = 0; i < L; i++) n[i] = round_off(v[i]);
  for (int i = 0; i < L; i++) p[i] = v[i] * Exp2<T>::c[0] + Exp2<T>::c[1];
  for (int t = 2; t < terms; t++)
    for (int i = 0; i < L; i++) p[i] = p[i] * v[i] + Exp2<T>::c[t];
  for (int i = 0; i < L; i++) v[i] = scale_by_power(p[i], n[i]);
}

}  // namespace BUMP_VARIANT
}  // namespace bump
