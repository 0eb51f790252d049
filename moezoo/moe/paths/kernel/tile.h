// The product: a few rows of a weight times a panel of tokens, summed in registers.

#pragma once

#include "vectors.h"

namespace {

constexpr int tile_rows(int vectors) { return 8 * vectors <= REGISTERS ? 8 : 6; }

// What a multiplication does beside its sum.
template <typename T> struct Options {
  const T* bias = nullptr;  // (n): where the sums start
  bool add = false;         // the sums start at what `out` holds
  const T* next = nullptr;  // of a strip: rows of STRIP weights to fetch meanwhile
  int64_t next_stride = 0;
};

// How many of the next strip's rows a tile of a strip fetches in 16 steps, so that all its tiles fetch all of it.
template <typename T, int R> constexpr int64_t FETCHED = (16 * R + STRIP - 1) / STRIP * PER_UNIT<T>;

// out[r][t] (+)= bias[r] + sum over k of w[r][k] x[k][t], for R rows and Z W + Y W/2 tokens.
// w is (R, ldw), or with STRIPED a strip (units(K), STRIP) of units.
template <typename T, int R, int Z, int Y, bool STRIPED>
void tile(const T* w, int64_t ldw, const float* x, int64_t K, float* out, int64_t ldo, const Options<T>& options) {
  constexpr int P = Z * W + Y * HALF, U = PER_UNIT<T>;
  vf acc[R][Z ? Z : 1];
  hf rest[R];
  UNROLL for (int r = 0; r < R; ++r) {
    const float b = options.bias ? static_cast<float>(options.bias[r]) : 0.f;
    UNROLL for (int z = 0; z < Z; ++z) acc[r][z] = options.add ? load(out + r * ldo + z * W) : splat(b);
    if (Y) rest[r] = options.add ? hf(*reinterpret_cast<const hfu*>(out + r * ldo + Z * W)) : b - hf{};
  }
  auto step = [&](auto load_unit, const T* wk, const float* xk) __attribute__((always_inline)) {
    vf xz[Z ? Z : 1];
    hf xy;
    UNROLL for (int z = 0; z < Z; ++z) xz[z] = load(xk + z * W);
    if (Y) xy = *reinterpret_cast<const hfu*>(xk + Z * W);
    UNROLL for (int r = 0; r < R; ++r) {
      const float u = load_unit(STRIPED ? wk + r * U : wk + r * ldw);
      UNROLL for (int z = 0; z < Z; ++z) acc[r][z] = Dot<T>::add(acc[r][z], splat(u), xz[z]);
      if (Y) rest[r] = Dot<T>::add(rest[r], u - hf{}, xy);
    }
  };
  const int64_t full = STRIPED ? units<T>(K) : K / U, k_stride = STRIPED ? STRIP * U : U;
  for (int64_t begin = 0; begin < full; begin += 16) {
    if constexpr (STRIPED) {
      if (options.next)
        UNROLL for (int64_t i = 0; i < FETCHED<T, R>; ++i)
          UNROLL for (int64_t j = 0; j < STRIP; j += 64 / static_cast<int64_t>(sizeof(T)))
            __builtin_prefetch(options.next + (begin / 16 * FETCHED<T, R> + i) * options.next_stride + j, 0, 2);
    } else {
      // Most often the next tile's rows: fetched while this one computes.
      UNROLL for (int r = 0; r < R; ++r) __builtin_prefetch(w + (R + r) * ldw + begin * U, 0, 2);
    }
    const int64_t end = std::min(begin + 16, full);
    for (int64_t k = begin; k < end; ++k) step(unit<T>, w + k * k_stride, x + k * P);
  }
  if (!STRIPED && full * U < K) step(half_unit<T>, w + full * k_stride, x + full * P);
  UNROLL for (int r = 0; r < R; ++r) {
    UNROLL for (int z = 0; z < Z; ++z) store(out + r * ldo + z * W, acc[r][z]);
    if (Y) *reinterpret_cast<hfu*>(out + r * ldo + Z * W) = rest[r];
  }
}

template <typename T, int Z, int Y, bool STRIPED>
void rows_of(int64_t n, const T* w, int64_t ldw, const float* x, int64_t K, float* out, int64_t ldo,
             Options<T> options) {
  constexpr int R = tile_rows(Z + Y);
  const int64_t w_stride = STRIPED ? PER_UNIT<T> : ldw;
  const int64_t fetched = (units<T>(K) + 15) / 16 * FETCHED<T, R> * options.next_stride;
  int64_t r = 0;
  for (; r + R <= n; r += R) {
    tile<T, R, Z, Y, STRIPED>(w + r * w_stride, ldw, x, K, out + r * ldo, ldo, options);
    if (options.bias) options.bias += R;
    if (options.next) options.next += fetched;
  }
  options.next = nullptr;
  for (; r < n; ++r) {
    tile<T, 1, Z, Y, STRIPED>(w + r * w_stride, ldw, x, K, out + r * ldo, ldo, options);
    if (options.bias) ++options.bias;
  }
}

// out (n, P) with row stride ldo = w (n, K) x, where the panel x is (units(K), P).
template <typename T, bool STRIPED = false>
void multiply(int64_t n, const T* w, int64_t ldw, const float* x, int64_t K, int64_t P, float* out, int64_t ldo,
              const Options<T>& options) {
  switch (P / HALF) {
    case 1: return rows_of<T, 0, 1, STRIPED>(n, w, ldw, x, K, out, ldo, options);
    case 2: return rows_of<T, 1, 0, STRIPED>(n, w, ldw, x, K, out, ldo, options);
    case 3: return rows_of<T, 1, 1, STRIPED>(n, w, ldw, x, K, out, ldo, options);
    case 4: return rows_of<T, 2, 0, STRIPED>(n, w, ldw, x, K, out, ldo, options);
#if defined(__AVX512F__)
    case 5: return rows_of<T, 2, 1, STRIPED>(n, w, ldw, x, K, out, ldo, options);
    case 6: return rows_of<T, 3, 0, STRIPED>(n, w, ldw, x, K, out, ldo, options);
    case 7: return rows_of<T, 3, 1, STRIPED>(n, w, ldw, x, K, out, ldo, options);
    case 8: return rows_of<T, 4, 0, STRIPED>(n, w, ldw, x, K, out, ldo, options);
#endif
  }
}

}  // namespace
