/** Kinds of attention: of an encoder, of a decoder, or across from one to the other. */

/**
 * @param {import("../../payload.js").Contents} contents
 * @returns {{title: string, layers: number[]}[]} the layers of each kind; none if there is only one
 */
export function kindsOf({ layers }) {
  const cross = layers.find(({ kind }) => kind === "cross");
  if (!cross) return [];
  const kind = (/** @type {import("../../payload.js").LayerEntry} */ { kind, name, keys }) => {
    if (kind === "cross") return "Cross";
    if (/(^|[._])encoder/.test(name)) return "Encoder";
    if (/(^|[._])decoder/.test(name)) return "Decoder";
    return keys === cross.queries ? "Decoder" : keys === cross.keys ? "Encoder" : "Other";
  };
  const found = layers.map(kind);
  return ["Encoder", "Decoder", "Cross", "Other"]
    .map((title) => ({ title, layers: found.flatMap((one, layer) => (one === title ? [layer] : [])) }))
    .filter((one) => one.layers.length);
}
