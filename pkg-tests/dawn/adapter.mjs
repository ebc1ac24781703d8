// Prints the adapter that Dawn takes; fails where it takes none.

import { adapterInfo } from "./page.mjs";

const info = await adapterInfo();
if (info) console.log(info.description);
process.exit(info ? 0 : 1);
