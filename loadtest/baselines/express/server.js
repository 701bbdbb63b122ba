// Express 5 that keeps usages in memory, as the original BusyAPI did: a POST pushes the parsed body into an array and
// answers with the array's length. Nothing is written to disk, and the array grows until the process ends: at a hundred
// bytes of heap and more for each usage, tens of millions of them reach V8's default limit of 2 to 4 GB.
// Settings: NODE_ENV=production, as Express's own guide asks; no ETag and no X-Powered-By, since an answer to a POST
// needs neither; bodies of up to 100 kB, the original's limit. WORKERS=2 makes two processes that share the port, each
// with an array of its own.
// Started with its packages on NODE_PATH: NODE_ENV=production PORT=8080 node server.js; PORT=0 takes a free one.
"use strict";

const cluster = require("node:cluster");
const express = require("express");

const HOST = "127.0.0.1";
const WORKERS = Number(process.env.WORKERS || 1);

function serve(ready) {
  const usages = [];
  const app = express();
  app.disable("etag");
  app.disable("x-powered-by");
  app.use(express.json({ limit: "100kb" }));
  app.post("/api/usages", (request, response) => {
    response.status(201).json({ id: usages.push(request.body) });
  });
  app.get("/readyz", (request, response) => {
    response.json({});
  });
  const server = app.listen(Number(process.env.PORT || 0), HOST, (error) => {
    if (error) throw error;
    ready(server.address().port);
  });
}

const announce = (port) => console.log(`listening ${port}`);

if (WORKERS > 1 && cluster.isPrimary) {
  let listening = 0;
  cluster.on("listening", (worker, address) => {
    listening += 1;
    if (listening === WORKERS) announce(address.port);
  });
  cluster.on("exit", () => process.exit(1));
  for (let worker = 0; worker < WORKERS; worker += 1) cluster.fork();
} else {
  serve(cluster.isWorker ? () => {} : announce);
}
