/** Numbers in words: weights in per cent, two digits, never rounded up to all or down to nothing. */

const SPACE = "\u202f";

/** @param {number} share 0 to 1 @returns {string} */
export function percent(share) {
  if (share === 0 || share === 1) return `${100 * share}${SPACE}%`;
  if (share < 0.0001) return `<${SPACE}0.01${SPACE}%`;
  if (share > 0.9995) return `>${SPACE}99.9${SPACE}%`;
  const digits = share >= 0.995 || share < 0.0995 ? (share < 0.00995 ? 2 : 1) : 0;
  return `${(100 * share).toFixed(digits)}${SPACE}%`;
}

/** @param {number} share @returns {string} in per cent, two digits however small */
export function fine(share) {
  if (share === 0 || share >= 0.001) return percent(share);
  const digits = Math.min(12, 1 - Math.floor(Math.log10(100 * share)));
  return `${(100 * share).toFixed(digits)}${SPACE}%`;
}

/** @param {number} value @returns {string} a plain number, three digits */
export function plain(value) {
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  return size < -3 ? value.toExponential(1) : value.toFixed(Math.min(4, Math.max(0, 2 - size)));
}

/** @param {number} count @param {string} noun @returns {string} "1 head", "9 heads" */
export function counted(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}
