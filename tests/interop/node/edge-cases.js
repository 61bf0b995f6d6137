// Invalid requests, lost leases, replaced registrations, filters, health, reflection. Each step has a service of its own.
import assert from 'node:assert/strict';
import { MessageQueue } from './message-queue.js';
import { instance, update } from './requests.js';
import { call, callboard, connect, details, status, stock } from './stubs.js';
import { Watcher } from './watcher.js';

const SERVICES = [
  'callboard.v1.RegistryService',
  'callboard.v1.DiscoveryService',
  'callboard.v1.AdminService',
  'grpc.health.v1.Health',
];

export class EdgeCases {
  #address;
  #heartbeats;
  #registry;

  constructor(address, heartbeats) {
    this.#address = address;
    this.#heartbeats = heartbeats;
    this.#registry = connect(callboard.v1.RegistryService, address);
  }

  async errors() {
    const watcher = this.#watch({ services: ['tokens'], resume_token: Buffer.from('not a token') });
    checkFieldViolation(await watcher.error(), 'resume_token');
    watcher.close();
    for (const [request, field] of [
      [instance('', 'x'), 'service'],
      [instance('tokens', 'x', [], { weight: 65_536 }), 'weight'],
      [instance('tokens', 'x', [], { addresses: [{ host: '127.0.0.1' }] }), 'addresses[0].port'],
    ]) {
      checkFieldViolation(await expectError(this.#register(request)), field);
    }
    const discovery = connect(callboard.v1.DiscoveryService, this.#address);
    const missing = await expectError(call(discovery, 'getInstance', { service: 'tokens', id: 'nobody' }));
    assert.equal(missing.code, status.NOT_FOUND);
    discovery.close();
  }

  async reset() {
    await this.#register(instance('selection', 'one'));
    const named = this.#watch({ services: ['selection'] });
    await named.snapshot();
    named.close();
    const prefix = this.#watch({ prefix: 'selec', resume_token: named.token });
    assert.equal(await prefix.reset(), 'RESET_REASON_OTHER_SELECTOR');
    assert.deepEqual([...(await prefix.snapshot()).keys()], ['selection/one']);
    prefix.close();
  }

  async leases() {
    const unknown = Buffer.alloc(16);
    assert.equal((await this.#heartbeats.report(unknown)).state, 'LEASE_STATE_UNKNOWN', 'the state of an unknown lease');
    this.#heartbeats.remove(unknown);

    const { lease_id: lease } = await this.#register(instance('leases', 'one'));
    assert.equal((await this.#heartbeats.report(lease)).state, 'LEASE_STATE_HELD', 'the state of a new lease');
    // A request without lease and boot is an operator's.
    const request = { service: 'leases', id: 'one' };
    assert.equal((await call(this.#registry, 'deregister', request)).removed, true);
    assert.equal((await this.#heartbeats.report(lease)).state, 'LEASE_STATE_REMOVED', 'the state of the removed lease');
    this.#heartbeats.remove(lease);
    assert.equal((await expectError(call(this.#registry, 'deregister', request))).code, status.NOT_FOUND);
  }

  async secondBoot() {
    const { lease_id: first } = await this.#register(instance('boots', 'one'));
    assert.equal((await this.#heartbeats.report(first)).state, 'LEASE_STATE_HELD', 'the first boot\'s lease');
    const watcher = this.#watch({ services: ['boots'] });
    const before = (await watcher.snapshot()).get('boots/one');

    const request = instance('boots', 'one');
    const taken = await expectError(this.#register(request));
    assert.equal(taken.code, status.ALREADY_EXISTS);
    const { retry_delay: delay } = details(taken)['google.rpc.RetryInfo'];
    assert(delay.seconds > 0n || delay.nanos > 0, 'RetryInfo has no delay');

    const { lease_id: second } = await this.#register({ ...request, replace: true });
    const after = await watcher.updated('one');
    assert(after.registered_revision > before.registered_revision, 'registered_revision did not increase');
    assert.equal((await this.#heartbeats.report(first)).state, 'LEASE_STATE_SUPERSEDED', 'the first boot\'s lease');
    this.#heartbeats.remove(first);
    assert.equal((await this.#heartbeats.report(second)).state, 'LEASE_STATE_HELD', 'the second boot\'s lease');

    const late = { service: 'boots', id: 'one', lease_id: first };
    assert.equal((await call(this.#registry, 'deregister', late)).removed, false, 'removed, with the replaced lease');
    watcher.close();
  }

  async filter() {
    await this.#registerAndRenew(instance('colours', 'one', ['blue']));
    await this.#registerAndRenew(instance('colours', 'two', ['green']));
    const watcher = this.#watch({ services: ['colours'], filter: '"blue" in tags' });
    assert.deepEqual([...(await watcher.snapshot()).keys()], ['colours/one']);
    await this.#update('colours', 'two', { weight: 8 });
    await this.#update('colours', 'one', { tags: ['green'] });
    await watcher.removed('one', 'REMOVAL_REASON_NO_LONGER_MATCHES');
    await this.#update('colours', 'two', { tags: ['blue'] });
    assert.equal((await watcher.updated('two')).weight, 8, 'weight of the instance that matches now');
    watcher.close();
  }

  async watchBeforeRegistration() {
    const watcher = this.#watch({ services: ['unborn'] });
    assert.equal((await watcher.snapshot()).size, 0);
    const { revision } = await this.#registerAndRenew(instance('unborn', 'first'));
    assert.equal((await watcher.updated('first')).revision, revision, 'revision of the first registration');
    watcher.close();
  }

  async health() {
    const client = connect(stock.health.v1.Health, this.#address);
    for (const service of ['', 'callboard.v1.RegistryService', 'shop']) {
      assert.equal((await call(client, 'check', { service })).status, 'SERVING', `health of "${service}"`);
    }
    const unknown = await call(client, 'check', { service: 'late' }).catch((error) => error);
    assert.equal(unknown.code, status.NOT_FOUND, 'code of Check of an unknown name');

    const messages = new MessageQueue(client.watch({ service: 'late' }));
    assert.equal((await messages.message()).message.status, 'SERVICE_UNKNOWN');
    await this.#registerAndRenew(instance('late', 'one'));
    assert.equal((await messages.message()).message.status, 'SERVING');
    await this.#update('late', 'one', { draining: true });
    assert.equal((await messages.message()).message.status, 'NOT_SERVING');

    const { statuses } = await call(client, 'list', {});
    const listed = Object.fromEntries(['', 'shop', 'late'].map((name) => [name, statuses[name]?.status]));
    assert.deepEqual(listed, { '': 'SERVING', shop: 'SERVING', late: 'NOT_SERVING' });
    client.close();
  }

  /** Tests both versions, with the proto files that @grpc/reflection contains. */
  async reflection() {
    for (const version of ['v1', 'v1alpha']) {
      const client = connect(stock.reflection[version].ServerReflection, this.#address);
      const stream = client.serverReflectionInfo();
      const messages = new MessageQueue(stream);
      stream.write({ list_services: '' });
      const { message } = await messages.message();
      const names = message.list_services_response.service.map(({ name }) => name);
      for (const name of SERVICES) assert(names.includes(name), `reflection ${version} lists ${names}, not ${name}`);
      stream.end();
      client.close();
    }
  }

  #watch(request) {
    return new Watcher(this.#address, request);
  }

  #register(request) {
    return call(this.#registry, 'register', request);
  }

  /** Registers an instance, and adds its lease to the heartbeat stream. */
  async #registerAndRenew(request) {
    const registered = await this.#register(request);
    this.#heartbeats.add(registered.lease_id);
    return registered;
  }

  #update(service, id, fields) {
    return call(this.#registry, 'updateInstance', update(service, id, fields));
  }
}

/** Returns the error of a call that must fail. */
async function expectError(promise) {
  const error = await promise.then(
    () => assert.fail('the call succeeded'),
    (error) => error,
  );
  checkErrorInfo(error);
  return error;
}

/** Checks that the error has an ErrorInfo, as the contract says of every error. */
function checkErrorInfo(error) {
  assert.equal(details(error)['google.rpc.ErrorInfo']?.domain, 'callboard.dev', `details of ${error}`);
}

/** Checks that the error is INVALID_ARGUMENT with a violation of this field. */
function checkFieldViolation(error, field) {
  checkErrorInfo(error);
  assert.equal(error.code, status.INVALID_ARGUMENT, `${error}`);
  const fields = details(error)['google.rpc.BadRequest']?.field_violations.map((violation) => violation.field);
  assert(fields?.includes(field), `BadRequest names ${fields}, not "${field}", in ${error}`);
}
