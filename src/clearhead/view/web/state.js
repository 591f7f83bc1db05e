/** The place one is at in the page, kept in its address, so that a link opens the same place. */

/**
 * @typedef {object} Place
 * @property {string} view
 * @property {number} layer index among the page's layers
 * @property {number} head
 * @property {number | null} query held
 * @property {number | null} key held
 * @property {string} by the statistic that colours the heads
 * @property {"light" | "dark" | null} theme null: as the system has it
 */

export class State {
  /** @type {((place: Place) => void)[]} */
  #listeners = [];
  #settle;
  /** @type {number | undefined} */
  #writing;

  /** @param {(wish: Record<string, unknown>) => Place} settle makes of any wish a place that there is */
  constructor(settle) {
    this.#settle = settle;
    this.place = settle(wishInAddress());
    window.addEventListener("hashchange", () => this.#move(wishInAddress()));
  }

  /** @param {Partial<Place>} change */
  go(change) {
    this.#move({ ...this.place, ...change });
    // Browsers ration changes of the address: one for a run of steps is enough.
    window.clearTimeout(this.#writing);
    this.#writing = window.setTimeout(() => window.history.replaceState(null, "", this.address()), 100);
  }

  /** @returns {string} the address's last part, "#layer=3&head=2" */
  address() {
    const said = Object.entries(this.place).filter(([, value]) => value !== null);
    return "#" + new URLSearchParams(said.map(([name, value]) => [name, String(value)]));
  }

  /** @param {(place: Place) => void} listener called now and after each move */
  follow(listener) {
    this.#listeners.push(listener);
    listener(this.place);
  }

  /** @param {Record<string, unknown>} wish */
  #move(wish) {
    this.place = this.#settle(wish);
    for (const listener of this.#listeners) listener(this.place);
  }
}

/** @returns {Record<string, unknown>} */
function wishInAddress() {
  return Object.fromEntries(new URLSearchParams(window.location.hash.slice(1)));
}
