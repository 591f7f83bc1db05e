/** Half precision: float16 as Python sends it, which not every browser can read by itself. */

/**
 * @param {ArrayBuffer} buffer little-endian
 * @param {number} at the byte where they begin
 * @param {number} count
 * @returns {Float32Array}
 */
export function halves(buffer, at, count) {
  const bits = new DataView(buffer, at, 2 * count);
  return Float32Array.from({ length: count }, (_, n) => half(bits.getUint16(2 * n, true)));
}

/** @param {number} bits @returns {number} */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
}
