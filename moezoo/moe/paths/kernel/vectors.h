// Vectors of tokens, and the 32 bits of a weight that are broadcast to them at once.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#if defined(__AVX512BF16__) && defined(__AVX512F__)
#include <immintrin.h>
#define MOEZOO_BF16 1
#else
#define MOEZOO_BF16 0
#endif

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")


namespace {

#if defined(__AVX512F__)
constexpr int W = 16, REGISTERS = 24, PANEL = 64;
#else
constexpr int W = 8, REGISTERS = 12, PANEL = 16;
#endif
constexpr int HALF = W / 2;
constexpr int CHUNK = 64;   // tokens of one task
constexpr int STRIP = 48;   // weight rows between two visits of the activation; a multiple of every tile's rows
constexpr int PANELS = CHUNK / PANEL;

typedef float vf __attribute__((vector_size(4 * W)));
typedef float hf __attribute__((vector_size(4 * HALF)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef float vfu __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef float hfu __attribute__((vector_size(4 * HALF), aligned(4), may_alias));
using bf16 = at::BFloat16;

INLINE vf load(const float* p) { return *reinterpret_cast<const vfu*>(p); }
INLINE void store(float* p, vf v) { *reinterpret_cast<vfu*>(p) = v; }
INLINE vf splat(float a) { return a - vf{}; }


// A unit is the 32 bits that are broadcast at once: one float, or two bfloat16 that follow each other along k.
template <typename T> constexpr int PER_UNIT = 4 / sizeof(T);
template <typename T> int64_t units(int64_t k) { return (k + PER_UNIT<T> - 1) / PER_UNIT<T>; }

template <typename T> INLINE float unit(const T* p) {
  float u;
  std::memcpy(&u, p, 4);
  return u;
}

template <typename T> INLINE float half_unit(const T* p) {
  float u = 0;
  std::memcpy(&u, p, sizeof(T));
  return u;
}

template <typename T> struct Dot;
template <> struct Dot<float> {
  static INLINE vf add(vf acc, vf w, vf x) { return w * x + acc; }
  static INLINE hf add(hf acc, hf w, hf x) { return w * x + acc; }
};
#if MOEZOO_BF16
template <> struct Dot<bf16> {
  static INLINE vf add(vf acc, vf w, vf x) { return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)w, (__m512bh)x); }
  static INLINE hf add(hf acc, hf w, hf x) { return (hf)_mm256_dpbf16_ps((__m256)acc, (__m256bh)w, (__m256bh)x); }
};
#endif

}  // namespace
