/** The page of a comparison: starts with what lies in the document of the two runs. */

import { showComparison } from "./comparison.js";
import { inDocument, wholePage } from "./frame.js";
import { Payload } from "./payload.js";
import { start } from "./start.js";

await start((root, contents) => showComparison(wholePage(root), contents, (contents.runs ?? []).map(
  (/** @type {import("./payload.js").Contents} */ run, /** @type {number} */ side) =>
    new Payload(run, inDocument(`${"ab"[side]}-`)))));
