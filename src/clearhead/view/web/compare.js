/** The page of a comparison: all heads, those first that differ most. */

import { showComparison } from "./comparison.js";
import { wholePage } from "./frame.js";
import { start } from "./start.js";

await start((root, contents) => showComparison(wholePage(root), contents));
