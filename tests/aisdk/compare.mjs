// The client's messages beside the stored ones. What a version cannot know is taken out of the stored message
// and named, as far as the client does not have it; nothing else is forgiven.
import { isDeepStrictEqual } from 'node:util';

import { clone } from './client.mjs';

const BEFORE_V6 = ['approval-requested', 'approval-responded', 'output-denied'];

const RULES = [
  {
    name: 'no approvals: what is asked or denied is a call without an end',
    applies: ({ major }) => major === 5,
    change(part, held) {
      if (held?.approval) return;
      delete part.approval;
      if (BEFORE_V6.includes(part.state)) part.state = 'input-available';
    },
  },
  {
    name: 'a replay does not tell what was decided',
    applies: ({ major, query }) => major > 5 && query !== '?ui=7',
    change(part, held) {
      if (part.approval && held?.approval && !('approved' in held.approval)) {
        delete part.approval.approved;
        delete part.approval.reason;
      }
    },
  },
  {
    name: 'reasoning has no id',
    applies: ({ major, patch }) => patch < { 5: 0, 6: 253, 7: 63 }[major],
    change(part, held) {
      if (part.type === 'reasoning' && held && !('id' in held)) delete part.id;
    },
  },
];

const LEFT_OUT = 'the stream of a client that does not state version 7 has no steering messages';

/** The stored message without the steering messages that the client does not hold. */
function withoutSteering(message, held) {
  const ids = new Set((held?.parts ?? []).filter(part => part.type === 'steering-message').map(part => part.id));
  return { ...message, parts: message.parts.filter(part => part.type !== 'steering-message' || ids.has(part.id)) };
}

/** The stored messages as a version can know them that holds these, and the rules that changed any of them. */
function known(client, held, stored) {
  const used = [];
  let now = clone(stored);
  if (client.query !== '?ui=7') {
    now = now.map((message, number) => withoutSteering(message, held[number]));
    if (!isDeepStrictEqual(now, clone(stored))) used.push(LEFT_OUT);
  }
  for (const rule of RULES.filter(rule => rule.applies(client))) {
    const next = clone(now);
    next.forEach((message, number) =>
      message.parts.forEach((part, place) => rule.change(part, held[number]?.parts[place])),
    );
    if (!isDeepStrictEqual(next, now)) used.push(rule.name);
    now = next;
  }
  return { messages: now, used };
}

/** The rules that had to be applied; raises if the client holds anything else. */
export function same(client, held, stored) {
  const theirs = known(client, held, stored);
  if (!isDeepStrictEqual(clone(held), theirs.messages)) {
    throw new Error(`the client holds ${JSON.stringify(held)}, and stored is ${JSON.stringify(stored)}`);
  }
  return theirs.used;
}
