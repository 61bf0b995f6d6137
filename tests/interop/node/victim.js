// A process that registers, says when its lease holds, and then only waits to be killed.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { Heartbeats } from './heartbeats.js';
import { launch } from './server.js';
import { call, callboard, connect } from './stubs.js';

export const VICTIM = { service: 'mortal', id: 'victim' };
export const GRACE_MS = 300;

/** Starts one, and returns it once its heartbeat has been answered. */
export async function startVictim(address) {
  const program = fileURLToPath(new URL('interop.js', import.meta.url));
  const { child, line, ended } = await launch(process.execPath, [program, 'victim', address]);
  assert.equal(line, 'held', 'what the victim said');
  return {
    /** SIGKILL. Returns when it was sent. */
    async kill() {
      const at = performance.now();
      child.kill('SIGKILL');
      assert.equal(await ended, 'SIGKILL', 'how the victim ended');
      return at;
    },
  };
}

/** The victim's own main. */
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
  // The other end of stdin is the parent: when that is gone, there is nobody left to kill this.
  process.stdin.resume().on('end', () => process.exit(1));
}
