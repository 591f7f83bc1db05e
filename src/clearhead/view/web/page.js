/** The page of a look: starts with the payload that lies in the document. */

import { Payload } from "./payload.js";
import { show } from "./app.js";
import { inDocument, wholePage } from "./frame.js";
import { start } from "./start.js";

await start((root, contents) => show(wholePage(root), new Payload(contents, inDocument())));
