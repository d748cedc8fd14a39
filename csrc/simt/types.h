// CUDA's vector types with CUDA's alignments, which UBSan then enforces on every vector load and store.
#pragma once

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define SIMT_VECTORS(T, name, align2, align4)                                                          \
  struct name##1 { T x; };                                                                             \
  struct alignas(align2) name##2 { T x, y; };                                                          \
  struct name##3 { T x, y, z; };                                                                       \
  struct alignas(align4) name##4 { T x, y, z, w; };                                                    \
  constexpr name##1 make_##name##1(T x) { return name##1{x}; }                                         \
  constexpr name##2 make_##name##2(T x, T y) { return name##2{x, y}; }                                 \
  constexpr name##3 make_##name##3(T x, T y, T z) { return name##3{x, y, z}; }                         \
  constexpr name##4 make_##name##4(T x, T y, T z, T w) { return name##4{x, y, z, w}; }

SIMT_VECTORS(signed char, char, 2, 4)
SIMT_VECTORS(unsigned char, uchar, 2, 4)
SIMT_VECTORS(short, short, 4, 8)
SIMT_VECTORS(unsigned short, ushort, 4, 8)
SIMT_VECTORS(int, int, 8, 16)
SIMT_VECTORS(unsigned, uint, 8, 16)
SIMT_VECTORS(long long, longlong, 16, 16)
SIMT_VECTORS(unsigned long long, ulonglong, 16, 16)
SIMT_VECTORS(float, float, 8, 16)
SIMT_VECTORS(double, double, 16, 16)
#undef SIMT_VECTORS
