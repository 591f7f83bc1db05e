/** The theme of a session: chosen before a text is there or in one of them, and kept in all. */

/** @typedef {"light" | "dark" | null} Theme null: as the system has it */

export class SessionTheme {
  /** @type {((place: {theme: Theme}) => void)[]} */
  #listeners = [];
  /** @type {{theme: Theme}} */
  place = { theme: null };

  /** @param {{theme?: Theme}} change */
  go({ theme = this.place.theme }) {
    this.place = { theme };
    for (const listener of this.#listeners) listener(this.place);
  }

  /** @param {(place: {theme: Theme}) => void} listener called now and after each change */
  follow(listener) {
    this.#listeners.push(listener);
    listener(this.place);
  }
}
