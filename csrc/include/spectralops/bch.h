// Binary BCH codes read backwards: at most `degree` positions from their odd power sums (ops/bch.py has the formulas).
//
//   const int length = bch_locator(field, sums, degree, locator);          the polynomial prod (1 + alpha^p z) and its degree
//   bch_vanishes(field, locator, length, p)                                whether p is one of the positions: L(alpha^-p) = 0
//
// The positions are right if `length` of them vanish and length <= degree.
#pragma once

#include "spectralops/platform.h"

namespace spectralops {

constexpr int kBchDegree = 16;  // the largest

struct BchField {
  const int* powers;      // (2^m): alpha^i
  const int* logarithms;  // (2^m): i of alpha^i; of 0 nothing
  int order;              // 2^m - 1

  SO_HOST_DEVICE int power(int i) const { return powers[i >= order ? i - order : i]; }  // i < 2 order
  SO_HOST_DEVICE int times(int a, int b) const { return a && b ? power(logarithms[a] + logarithms[b]) : 0; }
  SO_HOST_DEVICE int over(int a, int b) const { return a ? power(logarithms[a] - logarithms[b] + order) : 0; }
};

// sums[i] = S_(2 i + 1), i < degree.  locator has degree + 1 coefficients, locator[0] = 1.
SO_HOST_DEVICE int bch_locator(const BchField& field, const int* sums, int degree, int* locator) {
  int all[2 * kBchDegree + 1], previous[kBchDegree + 1], updated[kBchDegree + 1];
  for (int j = 1; j <= 2 * degree; ++j) all[j] = j & 1 ? sums[j / 2] : field.times(all[j / 2], all[j / 2]);
  for (int i = 0; i <= degree; ++i) locator[i] = previous[i] = i == 0;
  int length = 0, shift = 1, last = 1;
  for (int step = 1; step < 2 * degree; step += 2) {  // of a binary code every second discrepancy is zero
    int gap = 0;
    for (int i = 0; i <= degree; ++i)
      if (i <= length && i < step) gap ^= field.times(locator[i], all[step - i]);
    if (gap == 0) {
      shift += 2;
      continue;
    }
    const int ratio = field.over(gap, last);
    for (int i = 0; i <= degree; ++i) updated[i] = locator[i] ^ (i >= shift ? field.times(ratio, previous[i - shift]) : 0);
    const bool longer = 2 * length < step;
    for (int i = 0; i <= degree; ++i) {
      if (longer) previous[i] = locator[i];
      locator[i] = updated[i];
    }
    if (longer) length = step - length, last = gap;
    shift = longer ? 2 : shift + 2;
  }
  return length;
}

SO_HOST_DEVICE bool bch_vanishes(const BchField& field, const int* locator, int length, int p) {
  int value = 1;
  for (int i = 1, turn = 0; i <= length; ++i) {  // turn = i p mod order
    turn += p;
    if (turn >= field.order) turn -= field.order;
    if (locator[i]) value ^= field.power(field.logarithms[locator[i]] + field.order - turn);
  }
  return value == 0;
}

}  // namespace spectralops
