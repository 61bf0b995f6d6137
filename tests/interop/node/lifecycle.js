// Registration, renewal, update, removal and resumption: the instances of one service, and a watch of it.
import assert from 'node:assert/strict';
import { Heartbeats } from './heartbeats.js';
import { MessageQueue } from './message-queue.js';
import { instance, update } from './requests.js';
import { call, callboard, connect, stock } from './stubs.js';
import { GRACE_MS, startVictim, VICTIM } from './victim-process.js';
import { Watcher } from './watcher.js';

const SHOP = 'shop';

/** Allowed delay of a removal: one second for the server, and 0.1 s for delivery and measurement. */
const MAX_DELAY_MS = 1_100;

export class Lifecycle {
  #address;
  #registry;
  #leases = new Map();
  #watcher;

  constructor(address) {
    this.#address = address;
    this.#registry = connect(callboard.v1.RegistryService, address);
    this.heartbeats = new Heartbeats(this.#registry);
  }

  async registers() {
    const requests = [
      instance(SHOP, 'a', ['blue', 'v1'], { weight: 1, locality: { zone: 'eu-1a' }, metadata: { team: 'checkout' } }),
      instance(SHOP, 'b', ['green'], { weight: 2, locality: { zone: 'eu-1b' } }),
      instance(SHOP, 'c', ['blue', 'v2'], { weight: 3, locality: { zone: 'eu-1c' } }),
    ];
    let last = 0n;
    for (const request of requests) {
      const registered = await this.#register(request);
      assert.equal(registered.lease_id.length, 16, 'bytes of the lease id');
      assert.equal(registered.ttl.seconds, 15n, 'TTL granted by default');
      assert(registered.revision > last, `revision ${registered.revision} after ${last}`);
      last = registered.revision;
      assert.deepEqual(await this.#register(request), registered, 'the response to the same Register again');
    }
    const discovery = this.#discovery();
    const listed = await call(discovery, 'listInstances', { service: SHOP });
    assert.deepEqual(listed.instances.map(({ id }) => id), ['a', 'b', 'c']);
    discovery.close();
  }

  async renews() {
    const { reports } = await this.heartbeats.renew();
    assert.equal(reports.length, 3, 'reports in one response');
    for (const report of reports) {
      assert.equal(report.state, 'LEASE_STATE_HELD');
      const left = Number(report.time_left.seconds) * 1_000 + report.time_left.nanos / 1e6;
      assert(left > 0 && left <= 15_000, `${left} ms left of 15 s`);
    }
    const discovery = this.#discovery();
    const { lease, load } = await call(discovery, 'getInstance', { service: SHOP, id: 'a' });
    assert.equal(lease.connected, true, 'lease.connected while the heartbeat stream is open');
    assert.equal(load.utilization, 0.25, 'utilization reported');
    discovery.close();
    this.heartbeats.start();
  }

  async watches() {
    this.#watcher = new Watcher(this.#address, { services: [SHOP] });
    const instances = await this.#watcher.snapshot();
    assert.deepEqual([...instances.keys()].sort(), ['shop/a', 'shop/b', 'shop/c']);
    const b = instances.get('shop/b');
    assert.deepEqual(b.addresses, [{ host: '127.0.0.1', port: 9001, name: 'grpc' }]);
    assert.equal(b.locality.zone, 'eu-1b');
    assert.equal(b.weight, 2);
    assert.equal(b.status, 'INSTANCE_STATUS_SERVING');
    assert(b.registered_at.seconds > 0n, 'registered_at is not set');
    assert.deepEqual(instances.get('shop/a').metadata, { team: 'checkout' });
  }

  async seesChange() {
    const fields = { weight: 5, tags: ['gold'] };
    const request = { ...update(SHOP, 'a', fields, this.#leases.get('a')), metadata: { outside: 'the mask' } };
    const { instance: answered } = await this.#update(request);
    const seen = await this.#watcher.updated('a');
    assert.deepEqual(seen, answered, 'the instance on the watch');
    assert.equal(seen.weight, 5);
    assert.deepEqual(seen.tags, ['gold']);
    assert.deepEqual(seen.metadata, { team: 'checkout' }, 'metadata, which the mask does not name');
    // An equal update causes no event; the next step would fail if one arrived.
    assert.deepEqual((await this.#update(request)).instance, seen, 'the instance after the same update');
  }

  async seesDrain() {
    await this.#update(update(SHOP, 'b', { draining: true }));
    assert.equal((await this.#watcher.updated('b')).status, 'INSTANCE_STATUS_DRAINING');
    await this.#update(update(SHOP, 'b', { draining: false }));
    assert.equal((await this.#watcher.updated('b')).status, 'INSTANCE_STATUS_SERVING');
  }

  async seesDeregistration() {
    assert.equal(await this.#deregister('c'), true, 'removed');
    await this.#watcher.removed('c', 'REMOVAL_REASON_DEREGISTERED');
  }

  async seesKill() {
    const removals = new Watcher(this.#address, { prefix: 'mort' });
    assert.equal((await removals.snapshot()).size, 0, 'snapshot before the registration');
    const victim = await startVictim(this.#address);
    await removals.updated(VICTIM.id);
    const killed = await victim.kill();
    const gone = await removals.removed(VICTIM.id, 'REMOVAL_REASON_EXPIRED');
    checkDelay('removal after SIGKILL', { earliest: killed, latest: killed, at: gone, due: GRACE_MS });
    removals.close();
  }

  async seesExpiry() {
    const ttl = 2n;
    const request = instance('brief', 'one', [], { ttl: { seconds: ttl } });
    const { lease_id: lease } = await call(this.#registry, 'register', request);
    const removals = new Watcher(this.#address, { services: ['brief', 'unheard-of'] });
    assert.deepEqual([...(await removals.snapshot()).keys()], ['brief/one']);
    const last = await this.heartbeats.last(lease);
    const gone = await removals.removed('one', 'REMOVAL_REASON_EXPIRED');
    checkDelay('expiry', { earliest: last.sent, latest: last.answered, at: gone, due: Number(ttl) * 1_000 });
    removals.close();
    assert.equal((await this.heartbeats.report(lease)).state, 'LEASE_STATE_UNKNOWN', 'the state of the expired lease');
    this.heartbeats.remove(lease);
  }

  async resumes() {
    this.#watcher.close();
    const { token } = this.#watcher;
    await this.#update(update(SHOP, 'a', { weight: 7 }));
    await this.#update(update(SHOP, 'a', { weight: 9 }));
    assert.equal(await this.#deregister('b'), true, 'removed');
    await this.#register(instance(SHOP, 'c'));
    await this.#register(instance(SHOP, 'passing'));
    assert.equal(await this.#deregister('passing'), true, 'removed');

    this.#watcher = new Watcher(this.#address, { services: [SHOP], resume_token: token });
    const missed = (await this.#watcher.missed()).map(({ updated, removed }) =>
      updated ? `${updated.id}: weight ${updated.weight}` : `${removed.id}: ${removed.reason}`,
    );
    assert.deepEqual(missed.sort(), ['a: weight 9', 'b: REMOVAL_REASON_DEREGISTERED', 'c: weight 1']);
    await this.#update(update(SHOP, 'c', { weight: 4 }));
    assert.equal((await this.#watcher.updated('c')).weight, 4);
  }

  /** Sends SIGTERM while a watch, a health watch and a KeepAlive stream are open. */
  async shutdown(server) {
    await this.heartbeats.stop();
    const client = connect(stock.health.v1.Health, this.#address);
    const health = new MessageQueue(client.watch({ service: '' }));
    assert.equal((await health.message()).message.status, 'SERVING');
    server.terminate();
    assert.equal((await health.message()).message.status, 'NOT_SERVING');
    await this.#watcher.notice('NOTICE_RECONNECT');
    await this.heartbeats.notice('NOTICE_RECONNECT');
    assert.equal(await server.exitCode(6_000), 0, 'exit code');
    this.#watcher.close();
    this.heartbeats.close();
    client.close();
  }

  #discovery() {
    return connect(callboard.v1.DiscoveryService, this.#address);
  }

  #update(request) {
    return call(this.#registry, 'updateInstance', request);
  }

  async #register(request) {
    const registered = await call(this.#registry, 'register', request);
    this.#leases.set(request.id, registered.lease_id);
    this.heartbeats.add(registered.lease_id);
    return registered;
  }

  async #deregister(id) {
    const lease = this.#leases.get(id);
    this.heartbeats.remove(lease);
    return (await call(this.#registry, 'deregister', { service: SHOP, id, lease_id: lease })).removed;
  }
}

/** Checks the time of a removal: not before `due` after `earliest`, and at most MAX_DELAY_MS later than `due` after `latest`. */
function checkDelay(what, { earliest, latest, at, due }) {
  console.log(`        ${what}: after ${Math.round(at - earliest)} ms, due after ${due} ms`);
  assert(at - earliest >= due, `${what} after ${at - earliest} ms, before it was due (${due} ms)`);
  assert(at - latest <= due + MAX_DELAY_MS, `${what} after ${at - latest} ms, due after ${due} ms`);
}
