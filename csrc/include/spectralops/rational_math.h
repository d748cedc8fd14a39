// F = P(x) / Q(x) and its first and second derivatives at one element.
//
// With z = |x| (version A) or x, T = sum_j b'_j z^j and Q = phi(T):
//   A       b'_j = |b_j|   phi(T) = 1 + T     phi' = 1        phi'' = 0
//   B, C    b'_j = b_j     phi(T) = c + |T|   phi' = sgn(T)   phi'' = 0     c = 1 (B), 0.1 (C)
//   smooth  b'_j = b_j     phi(T) = 1 + T^2   phi' = 2 T      phi'' = 2
//
// Everything is evaluated as (P/4) / (Q/4): the coefficients are taken as a/4, b/4 and c/4 (smooth: b/2, since T enters
// squared), which is exact.  The GPU's one-instruction reciprocal flushes results below 2^-126 to zero, and of Q/4 that
// is just where Q itself overflows: so F is 0 where P/Q is, and nowhere else.  Gradients of a/4 and b/4 become those of
// a and b by the same factors.
#pragma once

#include "spectralops/types.h"

namespace spectralops {

constexpr int kRationalA = 0, kRationalB = 1, kRationalC = 2, kRationalSmooth = 3;

template <typename C>
constexpr C kNumeratorScale = C(0.25);
template <typename C>
SO_DEVICE C rational_denominator_scale(int version) {
  return version == kRationalSmooth ? C(0.5) : C(0.25);
}
template <typename C>
SO_DEVICE C rational_constant(int version) {
  return version == kRationalC ? C(0.1) * C(0.25) : C(0.25);
}

SO_DEVICE double magnitude(double v) { return v < 0.0 ? -v : v; }
SO_DEVICE float magnitude(float v) {
#if defined(__CUDA_ARCH__)
  return fabsf(v);
#else
  return bits_float(float_bits(v) & 0x7fffffffu);
#endif
}

// value * sgn(v), where sgn(0) = at_zero.
SO_DEVICE double times_sign(double value, double v, double at_zero) {
  return v > 0.0 ? value : v < 0.0 ? -value : value * at_zero;
}
SO_DEVICE float times_sign(float value, float v, float at_zero) {
  const float signed_value = bits_float(float_bits(value) ^ (float_bits(v) & 0x80000000u));
  return v == 0.0f ? value * at_zero : signed_value;
}

SO_DEVICE double reciprocal(double v) { return 1.0 / v; }
SO_DEVICE float reciprocal(float v) {
#if defined(__CUDA_ARCH__)
  float r;  // within one unit in the last place
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
#else
  return 1.0f / v;
#endif
}

// b'_j, scaled.  T starts with Q's constant in version A, where Q = T then; b has no b_0 but in version C.
template <typename C>
SO_DEVICE C rational_denominator(const C* b, int j, int version) {
  if (version == kRationalC) return b[j] * rational_denominator_scale<C>(version);
  if (j == 0) return version == kRationalA ? rational_constant<C>(version) : C(0);
  const C scaled = b[j - 1] * rational_denominator_scale<C>(version);
  return version == kRationalA ? magnitude(scaled) : scaled;
}
// How b'_j moves when b_j moves by direction.
template <typename C>
SO_DEVICE C rational_denominator_direction(const C* direction, const C* b, int j, int version, C at_zero) {
  if (version == kRationalC) return direction[j] * rational_denominator_scale<C>(version);
  if (j == 0) return C(0);
  const C scaled = direction[j - 1] * rational_denominator_scale<C>(version);
  return version == kRationalA ? times_sign(scaled, b[j - 1], at_zero) : scaled;
}

template <typename C>
SO_DEVICE C rational_z(C x, int version) {
  return version == kRationalA ? magnitude(x) : x;
}

template <typename C>
SO_DEVICE C rational_q(C t, int version) {
  if (version == kRationalA) return t;
  const C c = rational_constant<C>(version);
  return version == kRationalSmooth ? t * t + c : magnitude(t) + c;
}

// dx = g F', and the weights of the sums  dF/da_i . g = sum num x^i,  dF/db'_j . g = sum den z^j.
template <typename C>
struct RationalGradient {
  C dx, num, den;
};
template <typename C>
SO_DEVICE RationalGradient<C> rational_gradient(C x, C g, C p, C p1, C t, C t1, int version, C at_zero) {
  const C r = reciprocal(rational_q(t, version));
  const C f = p * r, gr = g * r;
  C slope = t1, w = f;  // F' = (P' - F phi' dT/dx) / Q, with w = F phi'
  if (version == kRationalA)
    slope = times_sign(t1, x, at_zero);
  else if (version == kRationalSmooth)
    w = f * (t + t);
  else
    w = times_sign(f, t, at_zero);
  return {gr * (p1 - w * slope), gr, -(gr * w)};
}

// The values that the second derivative needs of P, of T and of their derivatives along the direction (ggx, ad, bd): v,
// first and second derivative (halved, as Horner leaves it) of the polynomial, and value and first derivative of the
// direction's own polynomial.
template <typename C>
struct RationalJet {
  C v, d1, half_d2, along, along_d1;
};
// The derivatives along the direction, dgrad and dx, and the weights of the sums:
// dnum_i = sum n0 x^i + n1 i x^{i-1},  db'_j = sum d0 z^j + d1 j z^{j-1}.
template <typename C>
struct RationalSecond {
  C dgrad, dx, n0, n1, d0, d1;
};
template <typename C>
SO_DEVICE RationalSecond<C> rational_second(C x, C g, C xd, const RationalJet<C>& p, const RationalJet<C>& t,
                                            int version, C at_zero) {
  const C s = version == kRationalA ? times_sign(C(1), x, at_zero) : C(1);  // dz/dx
  C phi1 = C(1), phi2 = C(0);
  if (version == kRationalSmooth)
    phi1 = t.v + t.v, phi2 = C(2);
  else if (version != kRationalA)
    phi1 = times_sign(C(1), t.v, at_zero);
  const C r = reciprocal(rational_q(t.v, version));
  const C f = p.v * r, gr = g * r;
  // A dot is the derivative along the direction, a prime the one in x.
  const C t_x = s * t.d1, t_dot = t_x * xd + t.along;
  const C t_x_dot = s * (s * (t.half_d2 + t.half_d2) * xd + t.along_d1);
  const C q_x = phi1 * t_x, q_dot = phi1 * t_dot, q_x_dot = phi2 * t_dot * t_x + phi1 * t_x_dot;
  const C p_dot = p.d1 * xd + p.along, p_x_dot = (p.half_d2 + p.half_d2) * xd + p.along_d1;
  const C f_dot = (p_dot - f * q_dot) * r;
  const C bend = p_x_dot - f_dot * q_x - f * q_x_dot - (p.d1 - f * q_x) * (q_dot * r);
  const C by_q = -gr * (f_dot - f * (q_dot * r)), by_q_dot = -gr * f;
  return {
      f_dot, gr * bend, -gr * (q_dot * r), gr * xd, by_q * phi1 + by_q_dot * phi2 * t_dot, by_q_dot * phi1 * s * xd};
}

}  // namespace spectralops
