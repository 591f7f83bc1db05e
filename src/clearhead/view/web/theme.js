/** Light and dark: as the system has it, until one says otherwise. */

import { element } from "./dom.js";

const DARK = window.matchMedia("(prefers-color-scheme: dark)");

/** @param {import("./state.js").Place} place @returns {"light" | "dark"} */
const current = (place) => place.theme ?? (DARK.matches ? "dark" : "light");

/**
 * @param {import("./state.js").State} state
 * @param {HTMLElement} themed the element that bears the theme
 * @returns {HTMLElement} a button that turns the page to the other theme
 */
export function themeButton(state, themed) {
  const button = element("button", { type: "button", class: "theme" });
  button.addEventListener("click", () => {
    state.go({ theme: current(state.place) === "dark" ? "light" : "dark" });
  });
  const update = () => {
    const theme = current(state.place);
    themed.dataset.theme = theme;
    button.textContent = theme === "dark" ? "☀\ufe0e" : "☾\ufe0e";
    button.setAttribute("aria-label", theme === "dark" ? "Light theme" : "Dark theme");
    button.title = theme === "dark" ? "Light theme" : "Dark theme";
  };
  DARK.addEventListener("change", () => state.go({}));
  state.follow(update);
  return button;
}
