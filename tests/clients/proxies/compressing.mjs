// An Express server that compresses everything and passes it on to a gateway, as the rewrites of Next.js do. Writes
// the URL at which it listens.
import compression from 'compression';
import express from 'express';
import httpProxy from 'http-proxy';

const [, , target] = process.argv;
const proxy = httpProxy.createProxyServer({ target });
proxy.on('error', (fault, request, response) => response.destroy());
const app = express();
app.use(compression({ threshold: 0 }));
app.use((request, response) => proxy.web(request, response));
const server = app.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
