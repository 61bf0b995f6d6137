// Watches a service on one channel, for the suite replicas. Opens the watch with its token again whenever it ends, and prints
// each event as a line of JSON.
import { createRequire } from 'node:module';
import { setTimeout as pause } from 'node:timers/promises';
import { MessageQueue } from './message-queue.js';
import { callboard, connect } from './stubs.js';

const REOPEN_PAUSE_MS = 100;
const NEVER_MS = 3_600_000;

export async function follow(target, service) {
  const client = connect(callboard.v1.DiscoveryService, target);
  const { version } = createRequire(import.meta.url)('@grpc/grpc-js/package.json');
  console.log(JSON.stringify({ event: 'ready', client: `grpc-js ${version}` }));
  let token = Buffer.alloc(0);
  for (;;) {
    const messages = new MessageQueue(client.watch({ services: [service], resume_token: token }));
    for (let item; (item = await messages.take(NEVER_MS)).message; ) {
      token = print(item.message) ?? token;
    }
    await pause(REOPEN_PAUSE_MS);
  }
}

/** Prints what a message has changed, and returns its token if it has one. */
function print({ message: kind, [kind]: content }) {
  const line = (event, id = '') => console.log(JSON.stringify({ event, id }));
  if (kind === 'reset') line('reset', content.reason);
  if (kind === 'snapshot') content.instances.forEach((instance) => line('updated', instance.id));
  if (kind === 'changes') {
    for (const { updated, removed } of content.changes) line(removed ? 'removed' : 'updated', (removed ?? updated).id);
  }
  if (kind === 'synced') line('synced');
  return content.resume_token?.length > 0 ? content.resume_token : null;
}
