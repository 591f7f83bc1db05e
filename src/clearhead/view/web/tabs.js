/** The tabs of the views, and under them a line while keys are left out that the chosen view shows. */

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

/**
 * Keys are left out in the view of lines alone: the others show weights pooled, sorted or made up of q and k in Python.
 * @param {Record<string, {title: string, leavesOut?: boolean}>} views
 * @param {import("./state.js").State} state
 */
export function everyKey(views, state) {
  const note = element("p", { class: "hint every-key" },
    "This view shows every key: keys are left out in the Head view only. ");
  const back = element("button", { type: "button" }, "Take them back in");
  back.addEventListener("click", () => state.go({ without: null }));
  note.append(back);
  state.follow((place) => (note.hidden = !place.without || Boolean(views[place.view]?.leavesOut)));
  return note;
}
