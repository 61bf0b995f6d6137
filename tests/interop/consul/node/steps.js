import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import { LONG, PATIENCE, Target, Watching, eventually } from './world.js';

const ids = (entries) => entries.map((entry) => entry.Service.ID).sort();

async function readsAgent({ consul }) {
  const self = await consul.agent.self();
  assert.deepEqual(await consul.catalog.datacenters(), [self.Config.Datacenter]);
  assert.match(await consul.status.leader(), /:\d+$/);
  assert.ok((await consul.status.peers()).length > 0);
  const nodes = await consul.catalog.node.list();
  assert.deepEqual(nodes.map((node) => node.Node), [self.Config.NodeName]);
}

async function registers(world) {
  const { service } = world.consul.agent;
  await service.register({
    id: 'web-1', name: 'web', address: '127.0.0.1', port: 8001, tags: ['a', 'b'], meta: { team: 'checkout' },
  });
  await service.register({ id: 'web-2', name: 'web', address: '127.0.0.1', port: 8002, tags: ['b'] });
  await service.register('plain');
  const services = await service.list();
  assert.equal(services['web-1'].Port, 8001);
  assert.deepEqual(services['web-1'].Tags, ['a', 'b']);
  assert.deepEqual(services['web-1'].Meta, { team: 'checkout' });
  assert.equal(services.plain.ID, 'plain');
  assert.deepEqual(await world.passing('web'), ['web-1', 'web-2']);
  assert.deepEqual(await world.ids('web', { tag: 'a' }), ['web-1']);
  assert.deepEqual(await world.ids('web', { filter: 'Service.Port == 8002' }), ['web-2']);
  const names = await world.consul.catalog.service.list();
  assert.deepEqual(names.web.sort(), ['a', 'b']);
  const instances = await world.consul.catalog.service.nodes({ service: 'web', tag: 'a' });
  assert.deepEqual(instances.map((instance) => instance.ServiceID), ['web-1']);
  const node = await world.consul.catalog.node.services(instances[0].Node);
  assert.equal(node.Services['web-1'].Service, 'web');
}

async function deregisters(world) {
  const { service } = world.consul.agent;
  await service.deregister('web-1');
  assert.deepEqual(await world.ids('web'), ['web-2']);
  await service.deregister({ id: 'web-2' });
  await service.deregister('plain');
  assert.deepEqual(await world.ids('web'), []);
  assert.ok(!('web' in (await world.consul.catalog.service.list())));
  await assert.rejects(service.deregister('web-1'), { statusCode: 404 });
}

async function checksHttp(world) {
  const [good, bad] = [await Target.start(), await Target.start()];
  for (const [id, target] of [['http-1', good], ['http-2', bad]]) {
    await world.consul.agent.service.register({
      id, name: 'http', address: '127.0.0.1', port: target.port,
      check: { http: target.url, interval: '1s', timeout: '1s', deregistercriticalserviceafter: '1m' },
    });
  }
  const passing = () => world.passing('http');
  await eventually('passing', passing, ['http-1', 'http-2']);
  bad.status = 500;
  await eventually('passing, one at 500', passing, ['http-1']);
  assert.equal(await world.state('http', 'service:http-2'), 'critical');
  const { Output: output } = (await world.consul.agent.check.list())['service:http-2'];
  assert.ok(output.includes(`HTTP GET ${bad.url}: 500`), output);
  bad.status = 429;
  await eventually('the check at 429', () => world.state('http', 'service:http-2'), 'warning');
  assert.deepEqual(await passing(), ['http-1']);
  bad.status = 200;
  await eventually('passing, recovered', passing, ['http-1', 'http-2']);
  await world.consul.agent.service.deregister('http-1');
  await world.consul.agent.service.deregister('http-2');
}

async function checksTcp(world) {
  const target = await Target.start();
  await world.consul.agent.service.register({
    name: 'tcp', checks: [{ tcp: `127.0.0.1:${target.port}`, interval: '1s', timeout: '1s' }, { ttl: '60s', status: 'passing' }],
  });
  await eventually('passing', () => world.passing('tcp'), ['tcp']);
  assert.equal(await world.state('tcp', 'service:tcp:2'), 'passing');
  await world.consul.agent.service.deregister('tcp');
}

async function keepsMaintenance(world) {
  const { agent } = world.consul;
  await agent.service.register({ id: 'maint-1', name: 'maint' });
  await agent.service.maintenance({ id: 'maint-1', enable: true, reason: 'new disks' });
  assert.deepEqual(await world.passing('maint'), []);
  assert.equal((await agent.check.list())['_service_maintenance:maint-1'].Notes, 'new disks');
  await agent.service.maintenance({ id: 'maint-1', enable: false });
  assert.deepEqual(await world.passing('maint'), ['maint-1']);
  await agent.maintenance({ enable: true, reason: 'moving house' });
  assert.deepEqual(await world.passing('maint'), []);
  await agent.maintenance({ enable: false });
  assert.deepEqual(await world.passing('maint'), ['maint-1']);
  await agent.service.deregister('maint-1');
}

async function feedsTtl(world) {
  const { agent, health } = world.consul;
  await agent.service.register({ id: 'ttl-1', name: 'ttl', check: { ttl: '60s' } });
  // The client encodes the colon, so this is what decoding is for.
  const id = 'service:ttl-1';
  for (const [report, state] of [['pass', 'passing'], ['warn', 'warning'], ['fail', 'critical']]) {
    await agent.check[report]({ id, note: `note of ${state}` });
    for (const listed of ['passing', 'warning', 'critical', 'any']) {
      const found = (await health.state(listed)).some((check) => check.CheckID === id);
      assert.equal(found, listed === state || listed === 'any', `whether ${state} is listed as ${listed}`);
    }
    assert.equal((await agent.check.list())[id].Output, `note of ${state}`);
    assert.deepEqual(await world.passing('ttl'), state === 'passing' ? ['ttl-1'] : []);
  }
  await agent.service.deregister('ttl-1');
}

async function letsTtlExpire(world) {
  const { agent } = world.consul;
  await agent.service.register({ id: 'brief-1', name: 'brief', check: { ttl: '1s' } });
  const reported = performance.now();
  await agent.check.pass({ id: 'service:brief-1', note: 'last words' });
  assert.deepEqual(await world.passing('brief'), ['brief-1']);
  await eventually('passing, once expired', () => world.passing('brief'), []);
  const took = performance.now() - reported;
  assert.ok(took > 950 && took < 2000, `expired after ${took} ms, not after its second`);
  const { Output: output } = (await agent.check.list())['service:brief-1'];
  assert.match(output, /^TTL expired.*last words/);
  await agent.service.deregister('brief-1');
}

async function registersChecks(world) {
  const { agent, health } = world.consul;
  await agent.service.register({ id: 'guarded-1', name: 'guarded' });
  await agent.check.register({ id: 'guard', name: 'guard', serviceid: 'guarded-1', ttl: '60s', notes: 'by hand' });
  assert.deepEqual(await world.passing('guarded'), []);
  await agent.check.pass('guard');
  assert.deepEqual(await world.passing('guarded'), ['guarded-1']);
  const { Config: config } = await agent.self();
  assert.ok((await health.node(config.NodeName)).some((check) => check.CheckID === 'guard'));
  await agent.check.fail('guard');
  await agent.check.deregister('guard');
  assert.deepEqual(await world.passing('guarded'), ['guarded-1']);
  await agent.service.deregister('guarded-1');
}

async function keepsCatalog(world) {
  const { catalog } = world.consul;
  await catalog.register({
    node: 'outside', address: '10.9.8.7', nodemeta: { rack: 'r1' },
    service: { id: 'db-1', service: 'db', port: 5432, tags: ['primary'] },
    check: { checkid: 'db-check', name: 'db', node: 'outside', serviceid: 'db-1', status: 'passing', definition: { tcp: '10.9.8.7:5432' } },
  });
  assert.deepEqual(await world.passing('db'), ['db-1']);
  assert.deepEqual((await catalog.node.list({ 'node-meta': 'rack:r1' })).map((node) => node.Node), ['outside']);
  assert.deepEqual(Object.keys((await catalog.node.services('outside')).Services), ['db-1']);
  await catalog.deregister({ node: 'outside', serviceid: 'db-1' });
  assert.deepEqual(await world.ids('db'), []);
  await catalog.deregister('outside');
  assert.ok(!(await catalog.node.services('outside')));
}

async function blocks(world) {
  const { agent } = world.consul;
  await agent.service.register({ id: 'busy-1', name: 'busy' });
  let { index } = await world.query('busy');
  const idle = await world.query('busy', index, '1s');
  assert.ok(idle.took >= 995 && idle.took < 1200, `waited ${idle.took} ms instead of 1 s`);
  assert.deepEqual(idle.ids, ['busy-1']);
  assert.ok(idle.index <= index, `index ${idle.index} after ${index}, with nothing changed`);
  const woken = async (act, wanted) => {
    const answer = await world.during('busy', index, LONG);
    await act();
    const is = await answer.within(PATIENCE);
    assert.deepEqual(is.ids, wanted);
    assert.ok(is.index > index, `woken with index ${is.index} after ${index}`);
    index = is.index;
  };
  await woken(() => agent.service.register({ id: 'busy-2', name: 'busy', check: { ttl: '60s' } }), ['busy-1']);
  await woken(() => agent.check.pass('service:busy-2'), ['busy-1', 'busy-2']);
  await woken(() => agent.service.maintenance({ id: 'busy-1', enable: true }), ['busy-2']);
  await woken(() => agent.service.deregister('busy-1'), ['busy-2']);
  await woken(() => agent.service.deregister('busy-2'), []);
}

async function watches(world) {
  const { agent, health } = world.consul;
  const watching = new Watching(world.consul, health.service, { service: 'seen', passing: true, wait: '5s' });
  await watching.hears('nothing yet', ids, []);
  await agent.service.register({ id: 'seen-1', name: 'seen', check: { ttl: '60s' } });
  await agent.check.pass('service:seen-1');
  await watching.hears('one passing', ids, ['seen-1']);
  const before = watching.count;
  await agent.service.register({ id: 'unseen-1', name: 'unseen' });
  await agent.service.deregister('unseen-1');
  await agent.check.pass('service:seen-1');
  await pause(500);
  assert.equal(watching.count, before, 'changes, with nothing changed');
  await agent.check.fail('service:seen-1');
  await watching.hears('none passing', ids, []);
  await agent.check.pass('service:seen-1');
  await watching.hears('one passing again', ids, ['seen-1']);
  await agent.service.deregister('seen-1');
  await watching.hears('gone', ids, []);
  watching.end();
}

async function watchesCatalog(world) {
  const { agent, catalog } = world.consul;
  const watching = new Watching(world.consul, catalog.service.list, { wait: '5s' });
  const named = (services) => 'named' in services;
  await watching.hears('not there yet', named, false);
  await agent.service.register({ id: 'named-1', name: 'named' });
  await watching.hears('there', named, true);
  await agent.service.deregister('named-1');
  await watching.hears('gone', named, false);
  watching.end();
}

// Longer than the wait: the client's own clock stands a tenth and half a second more.
async function watchesOn(world) {
  const { agent, health } = world.consul;
  const watching = new Watching(world.consul, health.service, { service: 'patient', passing: true, wait: '1s' });
  await watching.hears('nothing yet', ids, []);
  await pause(2500);
  await agent.service.register({ id: 'patient-1', name: 'patient' });
  await watching.hears('one', ids, ['patient-1']);
  assert.equal(watching.count, 2, 'changes');
  await agent.service.deregister('patient-1');
  watching.end();
}

async function isRefused({ consul }) {
  await assert.rejects(consul.health.service({ service: 'web', dc: 'elsewhere' }), { statusCode: 500 });
  await assert.rejects(consul.agent.check.pass('nothing'), { statusCode: 404 });
  await assert.rejects(consul.kv.get('anything'), { statusCode: 501 });
}

async function shutsDown(world) {
  await world.consul.agent.service.register('last');
  const { index } = await world.query('last');
  await world.during('last', index, '30s');
  world.server.terminate();
  assert.equal(await world.server.exitCode(6_000), 0);
}

export const steps = {
  'reads agent, status, nodes': readsAgent,
  'registers, lists, finds': registers,
  deregisters,
  'HTTP check: passes, fails, warns, recovers': checksHttp,
  'TCP check, and a second one': checksTcp,
  'maintenance of a service, of the node': keepsMaintenance,
  'TTL: passes, warns, fails': feedsTtl,
  'TTL: expires': letsTtlExpire,
  'checks by themselves': registersChecks,
  'catalog: an external node': keepsCatalog,
  'blocking: waits, is woken by changes': blocks,
  'watch: a service, from before it exists until it is gone': watches,
  'watch: the catalog': watchesCatalog,
  'watch: goes on when the wait is over': watchesOn,
  'is refused': isRefused,
  'the server ends well, a blocking query open': shutsDown,
};
