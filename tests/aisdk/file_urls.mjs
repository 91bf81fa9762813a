// What `convertToModelMessages` of every installed client makes of a conversation with files: for each version one line
// of JSON, with the bytes behind each file's URL, fetched as a server does, without a credential.
//
// node file_urls.mjs FILE-OF-MESSAGES

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const here = createRequire(import.meta.url);
const { dependencies } = here('./package.json');
const messages = JSON.parse(readFileSync(process.argv[2], 'utf8'));

/** Where a converted part says that its bytes are: each version has another field. */
const address = ({ data }) => new URL(String(data?.url ?? data));

for (const name of Object.keys(dependencies).filter((name) => name.startsWith('client-'))) {
  const { convertToModelMessages } = await import(createRequire(here.resolve(name)).resolve('ai'));
  const converted = await convertToModelMessages(messages);
  const files = converted.flatMap(({ content }) => content).filter(({ type }) => type === 'file');
  const fetched = [];
  for (const file of files) {
    const response = await fetch(address(file));
    const bytes = Buffer.from(await response.arrayBuffer());
    fetched.push({ status: response.status, type: response.headers.get('content-type'), base64: bytes.toString('base64') });
  }
  console.log(JSON.stringify({ name, fetched }));
}
