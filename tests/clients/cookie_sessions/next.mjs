// The documented routes of Next.js, called as Next.js calls them: a web `Request` for a web `Response`. Bundled with
// them by the test. Prints its port.
import { createServer } from 'node:http';

import { GET, POST } from './route.ts';
import { GET as getToken } from './token.ts';

const server = createServer(async (incoming, outgoing) => {
  try {
    const { method, headers, url } = incoming;
    const left = new AbortController();
    outgoing.on('close', () => left.abort());
    const asked = { method, headers, signal: left.signal };
    if (method === 'POST') asked.body = Buffer.concat(await incoming.toArray());
    const handler = url === '/chat-token' ? getToken : method === 'POST' ? POST : GET;
    const answer = await handler(new Request(new URL(url, 'http://page.example'), asked));
    outgoing.writeHead(answer.status, Object.fromEntries(answer.headers));
    for await (const piece of answer.body ?? []) outgoing.write(piece);
    outgoing.end();
  } catch {
    outgoing.destroy();
  }
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
