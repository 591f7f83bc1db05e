/** Colours for what CSS does not draw: the page's own, as they are now, and the scale for heat. */

/** @typedef {[number, number, number]} Triple */

const NAMES = /** @type {const} */ (["paper", "raised", "ink", "muted", "faint", "rule", "hue", "low", "mid", "high"]);

/**
 * The page's colours in its present theme, as CSS writes them: "#1c2126".
 * @param {HTMLElement} root
 * @returns {Record<typeof NAMES[number], string>}
 */
export function colours(root) {
  const style = getComputedStyle(root);
  return /** @type {any} */ (Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()])));
}

/**
 * The scale from low by mid to high, in even steps to the eye (mixed in Oklab, as the style sheet does).
 * @param {HTMLElement} root
 * @returns {Uint8ClampedArray} red, green and blue of 256 steps
 */
export function heatScale(root) {
  const { low, mid, high } = colours(root);
  const [from, through, to] = [low, mid, high].map((colour) => toOklab(rgbOf(colour)));
  const scale = new Uint8ClampedArray(256 * 3);
  for (let step = 0; step < 256; step++) {
    const part = step / 127.5;
    const colour = part <= 1 ? mixed(from, through, part) : mixed(through, to, part - 1);
    scale.set(fromOklab(colour), 3 * step);
  }
  return scale;
}

/** So many heads have colours that all eyes tell apart, which are the style's; see head.css. */
export const TOLD_APART = 5;
const HUE_OF_FIRST = 264; // degrees
const CHROMA = 0.15;

/**
 * The colours of several heads: the style's, or of more heads even steps of hue, light and dark by turns.
 * @param {HTMLElement} root
 * @param {number} count
 * @returns {string[]}
 */
export function headColours(root, count) {
  const style = getComputedStyle(root);
  if (count <= TOLD_APART) {
    return Array.from({ length: count }, (_, head) => style.getPropertyValue(`--head-${head}`).trim());
  }
  const lights = style.getPropertyValue("--heads-light").trim().split(" ").map(Number);
  return Array.from({ length: count }, (_, head) => {
    const angle = (HUE_OF_FIRST + (360 * head) / count) * (Math.PI / 180);
    const [red, green, blue] = fromOklab([lights[head % 2], CHROMA * Math.cos(angle), CHROMA * Math.sin(angle)])
      .map((part) => Math.round(Math.min(255, Math.max(0, part))));
    return `rgb(${red}, ${green}, ${blue})`;
  });
}

/** @param {string} colour "#rrggbb" @returns {Triple} */
function rgbOf(colour) {
  return /** @type {Triple} */ ([1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
}

/** @param {Triple} a @param {Triple} b @param {number} part @returns {Triple} */
function mixed(a, b, part) {
  return /** @type {Triple} */ (a.map((from, at) => from + part * (b[at] - from)));
}

/** Björn Ottosson's Oklab, https://bottosson.github.io/posts/oklab. @param {Triple} rgb @returns {Triple} */
function toOklab(rgb) {
  const [r, g, b] = rgb.map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

/** @param {Triple} lab @returns {Triple} */
function fromOklab([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return /** @type {Triple} */ (linear.map((part) =>
    255 * (part <= 0.0031308 ? 12.92 * part : 1.055 * Math.max(part, 0) ** (1 / 2.4) - 0.055)));
}
