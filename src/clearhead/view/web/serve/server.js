/** The server, as the page asks it: every answer that is no success is a sentence. */

/**
 * @typedef {object} Told a text and how far it is
 * @property {number} number
 * @property {string} title
 * @property {string} model
 * @property {"waiting" | "running" | "ready" | "failed"} state
 * @property {string} what is being done
 * @property {number} done
 * @property {number | null} of
 * @property {string | null} said why it failed
 */

export class Server {
  /** @returns {Promise<{models: string[], texts: Told[], notice: string | null}>} */
  async session() {
    return (await asked("texts")).json();
  }

  /** @param {string} model @param {string[]} text @returns {Promise<number>} the text's number */
  async add(model, text) {
    const headers = { "Content-Type": "application/json" };
    const answer = await asked("texts", { method: "POST", headers, body: JSON.stringify({ model, text }) });
    return (await answer.json()).number;
  }

  /** @param {number} number */
  async remove(number) {
    await asked(`texts/${number}`, { method: "DELETE" });
  }

  /** @param {number} number @returns {Promise<import("../payload.js").Contents>} */
  async contents(number) {
    return (await asked(`texts/${number}`)).json();
  }

  /** @param {number} number @param {string} name @returns {Promise<Uint8Array>} */
  async block(number, name) {
    return new Uint8Array(await (await asked(`texts/${number}/${name}`)).arrayBuffer());
  }
}

/** @param {unknown} error @returns {string} its sentence */
export const saidBy = (error) => String(error).replace(/^Error: /, "");

/** @param {string} path beside the page @param {RequestInit} [options] @returns {Promise<Response>} */
async function asked(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer; it may have been ended.");
  }
  if (answer.ok) return answer;
  const { said } = await answer.json().catch(() => ({}));
  throw new Error(said ?? `The server is overburdened (${answer.status}); ask again in a moment.`);
}
