import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import { LONG_WAIT, EVENT_TIMEOUT, Target, WatchLog, eventually } from './fixture.js';

const ids = (entries) => entries.map((entry) => entry.Service.ID).sort();

async function readsAgent({ consul }) {
  const self = await consul.agent.self();
  assert.deepEqual(await consul.catalog.datacenters(), [self.Config.Datacenter]);
  assert.match(await consul.status.leader(), /:\d+$/);
  assert.ok((await consul.status.peers()).length > 0);
  const nodes = await consul.catalog.node.list();
  assert.deepEqual(nodes.map((node) => node.Node), [self.Config.NodeName]);
}

async function registers(fixture) {
  const { service } = fixture.consul.agent;
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
  assert.deepEqual(await fixture.passing('web'), ['web-1', 'web-2']);
  assert.deepEqual(await fixture.ids('web', { tag: 'a' }), ['web-1']);
  assert.deepEqual(await fixture.ids('web', { filter: 'Service.Port == 8002' }), ['web-2']);
  const names = await fixture.consul.catalog.service.list();
  assert.deepEqual(names.web.sort(), ['a', 'b']);
  const instances = await fixture.consul.catalog.service.nodes({ service: 'web', tag: 'a' });
  assert.deepEqual(instances.map((instance) => instance.ServiceID), ['web-1']);
  const node = await fixture.consul.catalog.node.services(instances[0].Node);
  assert.equal(node.Services['web-1'].Service, 'web');
}

async function deregisters(fixture) {
  const { service } = fixture.consul.agent;
  await service.deregister('web-1');
  assert.deepEqual(await fixture.ids('web'), ['web-2']);
  await service.deregister({ id: 'web-2' });
  await service.deregister('plain');
  assert.deepEqual(await fixture.ids('web'), []);
  assert.ok(!('web' in (await fixture.consul.catalog.service.list())));
  await assert.rejects(service.deregister('web-1'), { statusCode: 404 });
}

async function checksHttp(fixture) {
  const [good, bad] = [await Target.start(), await Target.start()];
  for (const [id, target] of [['http-1', good], ['http-2', bad]]) {
    await fixture.consul.agent.service.register({
      id, name: 'http', address: '127.0.0.1', port: target.port,
      check: { http: target.url, interval: '1s', timeout: '1s', deregistercriticalserviceafter: '1m' },
    });
  }
  const passing = () => fixture.passing('http');
  await eventually('passing', passing, ['http-1', 'http-2']);
  bad.status = 500;
  await eventually('passing while one is critical', passing, ['http-1']);
  assert.equal(await fixture.state('http', 'service:http-2'), 'critical');
  const { Output: output } = (await fixture.consul.agent.check.list())['service:http-2'];
  assert.ok(output.includes(`HTTP GET ${bad.url}: 500`), output);
  bad.status = 429;
  await eventually('the check with status 429', () => fixture.state('http', 'service:http-2'), 'warning');
  assert.deepEqual(await passing(), ['http-1']);
  bad.status = 200;
  await eventually('passing after the recovery', passing, ['http-1', 'http-2']);
  await fixture.consul.agent.service.deregister('http-1');
  await fixture.consul.agent.service.deregister('http-2');
}

async function checksTcp(fixture) {
  const target = await Target.start();
  await fixture.consul.agent.service.register({
    name: 'tcp', checks: [{ tcp: `127.0.0.1:${target.port}`, interval: '1s', timeout: '1s' }, { ttl: '60s', status: 'passing' }],
  });
  await eventually('passing', () => fixture.passing('tcp'), ['tcp']);
  assert.equal(await fixture.state('tcp', 'service:tcp:2'), 'passing');
  await fixture.consul.agent.service.deregister('tcp');
}

async function setsMaintenance(fixture) {
  const { agent } = fixture.consul;
  await agent.service.register({ id: 'maint-1', name: 'maint' });
  await agent.service.maintenance({ id: 'maint-1', enable: true, reason: 'new disks' });
  assert.deepEqual(await fixture.passing('maint'), []);
  assert.equal((await agent.check.list())['_service_maintenance:maint-1'].Notes, 'new disks');
  await agent.service.maintenance({ id: 'maint-1', enable: false });
  assert.deepEqual(await fixture.passing('maint'), ['maint-1']);
  await agent.maintenance({ enable: true, reason: 'new rack' });
  assert.deepEqual(await fixture.passing('maint'), []);
  await agent.maintenance({ enable: false });
  assert.deepEqual(await fixture.passing('maint'), ['maint-1']);
  await agent.service.deregister('maint-1');
}

async function reportsTtl(fixture) {
  const { agent, health } = fixture.consul;
  await agent.service.register({ id: 'ttl-1', name: 'ttl', check: { ttl: '60s' } });
  // The client percent-encodes the colon of this id.
  const id = 'service:ttl-1';
  for (const [report, state] of [['pass', 'passing'], ['warn', 'warning'], ['fail', 'critical']]) {
    await agent.check[report]({ id, note: `note of ${state}` });
    for (const listed of ['passing', 'warning', 'critical', 'any']) {
      const found = (await health.state(listed)).some((check) => check.CheckID === id);
      assert.equal(found, listed === state || listed === 'any', `a check in state ${state} is listed as ${listed}`);
    }
    assert.equal((await agent.check.list())[id].Output, `note of ${state}`);
    assert.deepEqual(await fixture.passing('ttl'), state === 'passing' ? ['ttl-1'] : []);
  }
  await agent.service.deregister('ttl-1');
}

async function expiresTtl(fixture) {
  const { agent } = fixture.consul;
  await agent.service.register({ id: 'brief-1', name: 'brief', check: { ttl: '1s' } });
  const reported = performance.now();
  await agent.check.pass({ id: 'service:brief-1', note: 'last report' });
  assert.deepEqual(await fixture.passing('brief'), ['brief-1']);
  await eventually('passing after the expiry', () => fixture.passing('brief'), []);
  const took = performance.now() - reported;
  assert.ok(took > 950 && took < 2000, `expired after ${took} ms, not after one second`);
  const { Output: output } = (await agent.check.list())['service:brief-1'];
  assert.match(output, /^TTL expired.*last report/);
  await agent.service.deregister('brief-1');
}

async function registersChecks(fixture) {
  const { agent, health } = fixture.consul;
  await agent.service.register({ id: 'guarded-1', name: 'guarded' });
  await agent.check.register({ id: 'guard', name: 'guard', serviceid: 'guarded-1', ttl: '60s', notes: 'by hand' });
  assert.deepEqual(await fixture.passing('guarded'), []);
  await agent.check.pass('guard');
  assert.deepEqual(await fixture.passing('guarded'), ['guarded-1']);
  const { Config: config } = await agent.self();
  assert.ok((await health.node(config.NodeName)).some((check) => check.CheckID === 'guard'));
  await agent.check.fail('guard');
  await agent.check.deregister('guard');
  assert.deepEqual(await fixture.passing('guarded'), ['guarded-1']);
  await agent.service.deregister('guarded-1');
}

async function registersInCatalog(fixture) {
  const { catalog } = fixture.consul;
  await catalog.register({
    node: 'outside', address: '10.9.8.7', nodemeta: { rack: 'r1' },
    service: { id: 'db-1', service: 'db', port: 5432, tags: ['primary'] },
    check: { checkid: 'db-check', name: 'db', node: 'outside', serviceid: 'db-1', status: 'passing', definition: { tcp: '10.9.8.7:5432' } },
  });
  assert.deepEqual(await fixture.passing('db'), ['db-1']);
  assert.deepEqual((await catalog.node.list({ 'node-meta': 'rack:r1' })).map((node) => node.Node), ['outside']);
  assert.deepEqual(Object.keys((await catalog.node.services('outside')).Services), ['db-1']);
  await catalog.deregister({ node: 'outside', serviceid: 'db-1' });
  assert.deepEqual(await fixture.ids('db'), []);
  await catalog.deregister('outside');
  assert.ok(!(await catalog.node.services('outside')));
}

async function blocks(fixture) {
  const { agent } = fixture.consul;
  await agent.service.register({ id: 'busy-1', name: 'busy' });
  let { index } = await fixture.query('busy');
  const idle = await fixture.query('busy', index, '1s');
  assert.ok(idle.took >= 995 && idle.took < 1200, `waited ${idle.took} ms instead of 1 s`);
  assert.deepEqual(idle.ids, ['busy-1']);
  assert.ok(idle.index <= index, `index ${idle.index} after ${index}, without a change`);
  const expectChange = async (act, wanted) => {
    const answer = await fixture.queryInBackground('busy', index, LONG_WAIT);
    await act();
    const got = await answer.within(EVENT_TIMEOUT);
    assert.deepEqual(got.ids, wanted);
    assert.ok(got.index > index, `answered with index ${got.index} after ${index}`);
    index = got.index;
  };
  await expectChange(() => agent.service.register({ id: 'busy-2', name: 'busy', check: { ttl: '60s' } }), ['busy-1']);
  await expectChange(() => agent.check.pass('service:busy-2'), ['busy-1', 'busy-2']);
  await expectChange(() => agent.service.maintenance({ id: 'busy-1', enable: true }), ['busy-2']);
  await expectChange(() => agent.service.deregister('busy-1'), ['busy-2']);
  await expectChange(() => agent.service.deregister('busy-2'), []);
}

async function watches(fixture) {
  const { agent, health } = fixture.consul;
  const watchLog = new WatchLog(fixture.consul, health.service, { service: 'seen', passing: true, wait: '5s' });
  await watchLog.expect('before the registration', ids, []);
  await agent.service.register({ id: 'seen-1', name: 'seen', check: { ttl: '60s' } });
  await agent.check.pass('service:seen-1');
  await watchLog.expect('passing after the first report', ids, ['seen-1']);
  const before = watchLog.count;
  await agent.service.register({ id: 'unseen-1', name: 'unseen' });
  await agent.service.deregister('unseen-1');
  await agent.check.pass('service:seen-1');
  await pause(500);
  assert.equal(watchLog.count, before, 'number of updates without a change');
  await agent.check.fail('service:seen-1');
  await watchLog.expect('passing after a critical report', ids, []);
  await agent.check.pass('service:seen-1');
  await watchLog.expect('passing after the recovery', ids, ['seen-1']);
  await agent.service.deregister('seen-1');
  await watchLog.expect('after the deregistration', ids, []);
  watchLog.end();
}

async function watchesCatalog(fixture) {
  const { agent, catalog } = fixture.consul;
  const watchLog = new WatchLog(fixture.consul, catalog.service.list, { wait: '5s' });
  const named = (services) => 'named' in services;
  await watchLog.expect('before the registration', named, false);
  await agent.service.register({ id: 'named-1', name: 'named' });
  await watchLog.expect('after the registration', named, true);
  await agent.service.deregister('named-1');
  await watchLog.expect('after the deregistration', named, false);
  watchLog.end();
}

// The pause is longer than the wait of a query, so the client repeats its query without an error or an update.
async function watchesBeyondWait(fixture) {
  const { agent, health } = fixture.consul;
  const watchLog = new WatchLog(fixture.consul, health.service, { service: 'patient', passing: true, wait: '1s' });
  await watchLog.expect('before the registration', ids, []);
  await pause(2500);
  await agent.service.register({ id: 'patient-1', name: 'patient' });
  await watchLog.expect('after the registration', ids, ['patient-1']);
  assert.equal(watchLog.count, 2, 'number of updates');
  await agent.service.deregister('patient-1');
  watchLog.end();
}

async function getsErrors({ consul }) {
  await assert.rejects(consul.health.service({ service: 'web', dc: 'elsewhere' }), { statusCode: 500 });
  await assert.rejects(consul.agent.check.pass('nothing'), { statusCode: 404 });
  await assert.rejects(consul.kv.get('anything'), { statusCode: 501 });
}

async function shutsDown(fixture) {
  await fixture.consul.agent.service.register('last');
  const { index } = await fixture.query('last');
  await fixture.queryInBackground('last', index, '30s');
  fixture.server.terminate();
  assert.equal(await fixture.server.exitCode(6_000), 0);
}

export const steps = {
  'reads agent, status and nodes': readsAgent,
  'registers instances, and lists them': registers,
  'deregisters instances': deregisters,
  'checks by HTTP: passes, fails, warns, recovers': checksHttp,
  'checks by TCP, with a second check': checksTcp,
  'sets maintenance of a service and of the node': setsMaintenance,
  'reports TTL checks: passes, warns, fails': reportsTtl,
  'lets a TTL check expire': expiresTtl,
  'registers checks separately': registersChecks,
  'registers an external node in the catalog': registersInCatalog,
  'blocks until a change or the end of the wait': blocks,
  'watches a service from before its registration until its removal': watches,
  'watches the catalog': watchesCatalog,
  'watches beyond the wait of one query': watchesBeyondWait,
  'gets errors for an unknown datacenter, an unknown check, and key/value': getsErrors,
  'the server exits with code 0 while a blocking query is open': shutsDown,
};
