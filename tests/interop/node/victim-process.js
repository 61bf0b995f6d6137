// The child process that a step kills. It registers, prints a line once its lease is held, and sends heartbeats until then.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { Heartbeats } from './heartbeats.js';
import { launch } from './server.js';
import { call, callboard, connect } from './stubs.js';

export const VICTIM = { service: 'mortal', id: 'victim' };
export const GRACE_MS = 300;

/** Starts the process, and returns it once its first heartbeat has been answered. */
export async function startVictim(address) {
  const program = fileURLToPath(new URL('interop.js', import.meta.url));
  const { child, line, ended } = await launch(process.execPath, [program, 'victim', address]);
  assert.equal(line, 'held', 'the line that the child process printed');
  return {
    /** Sends SIGKILL, and returns the time of it. */
    async kill() {
      const at = performance.now();
      child.kill('SIGKILL');
      assert.equal(await ended, 'SIGKILL', 'the signal that ended the child process');
      return at;
    },
  };
}

/** Entry point of the child process. */
export async function victim(address) {
  const registry = connect(callboard.v1.RegistryService, address);
  const { lease_id: lease } = await call(registry, 'register', {
    ...VICTIM,
    boot_id: randomUUID(),
    addresses: [{ host: '127.0.0.1', port: 9009 }],
    ttl: { seconds: 15n },
    disconnect_grace: { nanos: GRACE_MS * 1_000_000 },
  });
  const heartbeats = new Heartbeats(registry);
  assert.equal((await heartbeats.report(lease)).state, 'LEASE_STATE_HELD');
  heartbeats.start();
  console.log('held');
  // Stdin ends when the parent exits; then no step will kill this process.
  process.stdin.resume().on('end', () => process.exit(1));
}
