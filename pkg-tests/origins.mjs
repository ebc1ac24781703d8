// The servers of this process. Pages of the tests may ask these, and no others on this machine.

import { Server } from "node:net";

const origins = new Set();
const { listen } = Server.prototype;

Server.prototype.listen = function (...values) {
  this.once("listening", () => {
    const { port } = this.address() ?? {};
    for (const host of port ? ["127.0.0.1", "localhost"] : []) origins.add(`http://${host}:${port}`);
  });
  return listen.apply(this, values);
};

/** Origins of all servers that began to listen after this module was loaded, of those that have ended too. */
export const ownOrigins = () => [...origins];
