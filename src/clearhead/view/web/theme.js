/** Light and dark: as the system has it, until one says otherwise. */

import { element } from "./dom.js";

const DARK = window.matchMedia("(prefers-color-scheme: dark)");

/** @returns {boolean} whether the system is dark */
export const systemIsDark = () => DARK.matches;

/**
 * @typedef {object} Themed where the theme is kept; a `State` is one
 * @property {{theme: "light" | "dark" | null}} place
 * @property {(change: {theme?: "light" | "dark" | null}) => void} go
 * @property {(listener: () => void) => void} follow
 */

/**
 * @param {Themed} state
 * @param {Pick<import("./frame.js").Frame, "themed" | "dark" | "gone">} frame
 * @returns {HTMLElement} a button that turns the page to the other theme
 */
export function themeButton(state, { themed, dark = systemIsDark, gone }) {
  const current = () => state.place.theme ?? (dark() ? "dark" : "light");
  const button = element("button", { type: "button", class: "theme" });
  button.addEventListener("click", () => {
    state.go({ theme: current() === "dark" ? "light" : "dark" });
  });
  const update = () => {
    const theme = current();
    themed.dataset.theme = theme;
    button.textContent = theme === "dark" ? "☀\ufe0e" : "☾\ufe0e";
    button.setAttribute("aria-label", theme === "dark" ? "Light theme" : "Dark theme");
    button.title = theme === "dark" ? "Light theme" : "Dark theme";
  };
  DARK.addEventListener("change", () => state.go({}), { signal: gone });
  state.follow(update);
  return button;
}
