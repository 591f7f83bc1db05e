/** The tabs of the views. */

import { element } from "./dom.js";

/**
 * @param {Record<string, {title: string}>} views by the name that stands in the address
 * @param {import("./state.js").State} state
 */
export function viewTabs(views, state) {
  const tabs = element("nav", { class: "tabs", "aria-label": "Views" });
  for (const [view, { title }] of Object.entries(views)) {
    const tab = element("button", { type: "button" }, title);
    tab.addEventListener("click", () => state.go({ view }));
    state.follow((place) => tab.setAttribute("aria-pressed", String(place.view === view)));
    tabs.append(tab);
  }
  return tabs;
}
