// How rows become panels and strips, and panels become rows.

#pragma once

#include "vectors.h"

namespace {

int64_t padded(int64_t m) { return (m + HALF - 1) / HALF * HALF; }

template <typename T> INLINE const float* as_units(const T* p) { return reinterpret_cast<const float*>(p); }

// Rows of units (m, ldx) become columns: out[u * ldo + t] = x[t * ldx + u] for the units [begin, end).
template <typename T>
INLINE void transpose(const T* x, int64_t ldx, int64_t m, int64_t begin, int64_t end, int64_t ldo, float* out) {
  for (int64_t b = begin; b < end; b += 16)
    for (int64_t t = 0; t < m; ++t)
      for (int64_t u = b; u < std::min(b + 16, end); ++u)
        out[u * ldo + t] = unit(x + t * ldx + u * PER_UNIT<T>);
}

// The panel (units(K), P) of m rows (m, K); what is padded is zero.
template <typename T> void pack(const T* x, int64_t m, int64_t K, int64_t P, float* panel) {
  const int64_t full = K / PER_UNIT<T>;
  transpose(x, K, m, 0, full, P, panel);
  if (full < units<T>(K))
    for (int64_t t = 0; t < m; ++t) panel[full * P + t] = half_unit(x + t * K + full * PER_UNIT<T>);
  for (int64_t u = 0; u < units<T>(K); ++u)
    for (int64_t t = m; t < P; ++t) panel[u * P + t] = 0.f;
}

INLINE void convert(const float* from, int64_t count, float* to) { std::memcpy(to, from, count * sizeof(float)); }
#if MOEZOO_BF16
// Reads up to W floats more.
INLINE void convert(const float* from, int64_t count, bf16* to) {
  for (int64_t i = 0; i < count; i += W) {
    const __mmask16 mask = count - i >= W ? 0xffff : (1u << (count - i)) - 1;
    _mm256_mask_storeu_epi16(to + i, mask, (__m256i)_mm512_cvtneps_pbh((__m512)load(from + i)));
  }
}
#endif

// A panel (n, P) of floats becomes n columns of y (m, ld).
template <typename T> void unpack(const float* panel, int64_t n, int64_t m, int64_t P, int64_t ld, T* y) {
  alignas(64) T rows[STRIP * PANEL];
  convert(panel, n * P, rows);
  for (int64_t t = 0; t < m; ++t)
    for (int64_t r = 0; r < n; ++r) y[t * ld + r] = rows[r * P + t];
}

// Floats (n, P) become rows of a panel: as they are, or in pairs rounded to bfloat16.
INLINE void to_panel(const float* a, int64_t n, int64_t P, float* panel, float*) {
  std::memcpy(panel, a, n * P * sizeof(float));
}
#if MOEZOO_BF16
INLINE __m512i rounded(vf a) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)a)); }
void to_panel(float* a, int64_t n, int64_t P, float* panel, bf16*) {
  if (n % 2) std::memset(a + n * P, 0, P * sizeof(float));
  for (int64_t r = 0; r < n; r += 2)
    for (int64_t t = 0; t < P; t += W) {
      const __mmask16 mask = t + W <= P ? 0xffff : 0xff;
      __m512i low = rounded(load(a + r * P + t)), high = rounded(load(a + (r + 1) * P + t));
      _mm512_mask_storeu_ps(panel + r / 2 * P + t, mask, (__m512)_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}
#endif

// Two rows of n become a row of units; the second may be missing.
INLINE void pair_rows(const float* row, const float*, int64_t n, float* out) {
  if (n == STRIP) {
    UNROLL for (int i = 0; i < STRIP; i += W) store(out + i, load(row + i));
  } else {
    std::memcpy(out, row, n * sizeof(float));
  }
}
INLINE void pair_rows(const bf16* row, const bf16* second, int64_t n, float* out) {
  const uint16_t* low = reinterpret_cast<const uint16_t*>(row);
  const uint16_t* high = reinterpret_cast<const uint16_t*>(second);
  uint32_t* to = reinterpret_cast<uint32_t*>(out);
  if (!high) {
    for (int64_t i = 0; i < n; ++i) to[i] = low[i];
  } else if (n == STRIP) {
    for (int64_t i = 0; i < STRIP; ++i) to[i] = low[i] | static_cast<uint32_t>(high[i]) << 16;
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = low[i] | static_cast<uint32_t>(high[i]) << 16;
  }
}

// The columns (K, n) of w become a strip (units(K), STRIP).
template <typename T> void to_strip(const T* w, int64_t ldw, int64_t K, int64_t n, float* strip) {
  for (int64_t k = 0; k < K; k += PER_UNIT<T>, strip += STRIP)
    pair_rows(w + k * ldw, k + 1 < K ? w + (k + 1) * ldw : nullptr, n, strip);
}

// A matrix of m rows in panels of PANEL columns, (units(m), P) each: what a weight's gradient is summed from.
template <typename T> struct ColumnPanels {
  int64_t m, columns;
  float* data;
  int64_t width(int64_t c) const { return padded(std::min<int64_t>(PANEL, columns - c)); }
  float* panel(int64_t c) const { return data + units<T>(m) * c; }  // c: a multiple of PANEL

  void fill(const T* rows) const {
    for (int64_t c = 0; c < columns; c += PANEL)
      for (int64_t t = 0; t < m; t += PER_UNIT<T>) {
        const T* row = rows + t * columns + c;
        pair_rows(row, t + 1 < m ? row + columns : nullptr, std::min<int64_t>(PANEL, columns - c),
                  panel(c) + t / PER_UNIT<T> * width(c));
      }
  }

  // The transposed rows (n, P) become the columns [c, c + n).
  void fill_columns(const T* rows, int64_t n, int64_t P, int64_t c) const {
    for (int64_t r = 0; r < n;) {
      const int64_t first = (c + r) / PANEL * PANEL, stop = std::min(n, first + PANEL - c);
      transpose(rows + r * P, P, stop - r, 0, units<T>(m), width(first), panel(first) + c + r - first);
      r = stop;
    }
  }
};

}  // namespace
