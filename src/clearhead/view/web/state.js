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

/** @typedef {Place & Record<string, any>} Placed with what the views keep of their own */

export class State {
  /** @type {((place: Placed) => void)[]} */
  #listeners = [];
  #settle;
  #addressed;
  /** @type {number | undefined} */
  #writing;
  #anew = false;

  /**
   * @param {(wish: Record<string, unknown>) => Placed} settle makes of any wish a place that there is
   * @param {import("./frame.js").Address} address
   */
  constructor(settle, address) {
    this.#settle = settle;
    this.#addressed = address;
    this.place = settle(this.#wish());
    address.listen(() => this.#move(this.#wish()));
  }

  /** @param {Record<string, unknown>} change */
  go(change) {
    const { view } = this.place;
    this.#move({ ...this.place, ...change });
    this.#anew ||= this.place.view !== view;
    // Browsers ration changes of the address: one for a run of steps is enough.
    window.clearTimeout(this.#writing);
    this.#writing = window.setTimeout(() => {
      this.#addressed.write(this.address(), this.#anew);
      this.#anew = false;
    }, 100);
  }

  /** @returns {string} "layer=3&head=2": of all that is not null */
  address() {
    const said = Object.entries(this.place).filter(([, value]) => value !== null);
    return String(new URLSearchParams(said.map(([name, value]) => [name, String(value)])));
  }

  /** @param {(place: Placed) => void} listener called now and after each move */
  follow(listener) {
    this.#listeners.push(listener);
    listener(this.place);
  }

  /** @returns {Record<string, unknown>} */
  #wish() {
    return Object.fromEntries(new URLSearchParams(this.#addressed.read()));
  }

  /** @param {Record<string, unknown>} wish */
  #move(wish) {
    this.place = this.#settle(wish);
    for (const listener of this.#listeners) listener(this.place);
  }
}
