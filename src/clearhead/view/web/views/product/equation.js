/** The equation of a weight: from Σ q·k by scale, softcap and bias to the score, and by the softmax to the weight. */

import { percent } from "../../numbers.js";

/** @param {number} value @param {number} digits @returns {string} with a true minus, and never "−0.00" */
export function signed(value, digits) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/**
 * @typedef {object} Part of the equation
 * @property {string} name
 * @property {string} sign what stands before it
 * @property {string} value
 * @property {string} says below it
 * @property {number} exact
 */

/**
 * @param {import("./vectors.js").Steps} steps
 * @param {import("./vectors.js").Vectors} vectors
 * @returns {Part[]}
 */
export function equation(steps, vectors) {
  const { sum, scaled, capped, bias, score, logSum, weight } = steps;
  const { width, scale, softcap, form, sink } = vectors;
  // A weight near all is the exponential of nearly nothing.
  const digits = Math.abs(score - logSum) < 0.1 || Math.max(Math.abs(sum), Math.abs(score)) < 0.1 ? 3 : 2;
  /** @param {string} name @param {string} sign @param {number} exact @param {string} says @returns {Part} */
  const part = (name, sign, exact, says) => ({ name, sign, value: signed(exact, digits), says, exact });
  /** @type {Part[]} */
  const parts = [];
  if (width) {
    const usual = Math.abs(scale * Math.sqrt(width) - 1) < 1e-6;
    parts.push(part("sum", "", sum, "Σ q·k"));
    if (scale !== 1) {
      const value = Number(scale.toPrecision(4)).toString();
      parts.push({ name: "scale", sign: "×", value, says: usual ? `1/√${width}` : "scale", exact: scale });
      parts.push(part("scaled", "=", scaled, form || softcap !== null ? "scaled" : "score"));
    }
    if (softcap !== null) parts.push(part("capped", "→", capped, `softcap at ±${softcap}`));
    if (form) parts.push(part("bias", "+", bias, form === "distance" ? "bias of this distance" : "bias"));
  }
  if (form || !width) parts.push(part("score", width ? "=" : "", score, "score"));
  const row = sink === null ? "log of Σ e^score over the row" : "log of Σ e^score over the row and its sink";
  parts.push(part("log-sum-exp", "−", logSum, row), part("logit", "=", score - logSum, "logarithm of the weight"));
  const says = `weight: e^${signed(score - logSum, digits)}`;
  parts.push({ name: "weight", sign: "→", value: percent(Math.min(1, weight)), says, exact: weight });
  return parts;
}
