// What the steps share: a client, services whose health can be switched, patience.
import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import http from 'node:http';
import { isDeepStrictEqual } from 'node:util';
import { setTimeout as pause } from 'node:timers/promises';
import Consul from 'consul';

/** How long anything may take that should happen at once, or at the next probe, in milliseconds. */
export const PATIENCE = 5_000;

/** A wait that is not to be waited for. */
export const LONG = '20s';

/** A service whose health is what it is told to be. */
export class Target {
  status = 200;

  static async start() {
    const target = new Target();
    const server = http.createServer((_, response) => response.writeHead(target.status).end('target'));
    server.listen(0, '127.0.0.1');
    server.unref();
    await once(server, 'listening');
    target.port = server.address().port;
    target.url = `http://127.0.0.1:${target.port}/health`;
    return target;
  }
}

export async function eventually(what, ask, wanted) {
  const deadline = performance.now() + PATIENCE;
  for (;;) {
    const value = await ask();
    if (isDeepStrictEqual(value, wanted)) return;
    assert.ok(performance.now() < deadline, `${what}: still ${JSON.stringify(value)}, not ${JSON.stringify(wanted)}`);
    await pause(25);
  }
}

export class World {
  constructor(server) {
    this.server = server;
    const [host, port] = server.http.split(':');
    this.consul = new Consul({ host, port: Number(port) });
  }

  async ids(service, query = {}) {
    const entries = await this.consul.health.service({ service, ...query });
    return entries.map((entry) => entry.Service.ID).sort();
  }

  passing(service) {
    return this.ids(service, { passing: true });
  }

  /** The state of a check, or undefined. */
  async state(service, id) {
    const checks = await this.consul.health.checks(service);
    return checks.find((check) => check.CheckID === id)?.Status;
  }

  /** Asks for passing instances; with an index, waits for a higher one. */
  async query(service, index, wait) {
    const began = performance.now();
    // This is how the client hands out responses, and with them the index: as its own watch() has them.
    const ctx = Object.assign(new EventEmitter(), { includeResponse: true });
    const [response, entries] = await this.consul.health.service({ service, passing: true, ctx, ...(index && { index, wait }) });
    return {
      ids: entries.map((entry) => entry.Service.ID).sort(),
      index: BigInt(Consul.parseQueryMeta(response).LastIndex),
      took: performance.now() - began,
    };
  }

  /** Asks in the background; what the caller does meanwhile is done once the query hangs. */
  async during(service, index, wait) {
    const answer = this.query(service, index, wait);
    answer.catch(() => {}); // whoever awaits it hears of it
    const early = await Promise.race([answer, pause(200)]);
    assert.equal(early, undefined, 'answered at once, with nothing changed');
    return bounded(answer);
  }
}

// Wrapped, since an async function would wait for a promise that it returns.
function bounded(answer) {
  return {
    within: async (limit) => {
      const late = pause(limit).then(() => assert.fail(`no answer within ${limit} ms`));
      late.catch(() => {});
      return Promise.race([answer, late]);
    },
  };
}

/** A watch of the client's own, and what it heard. */
export class Watching {
  #heard = [];
  #errors = [];

  constructor(consul, method, options) {
    this.watch = consul.watch({ method, options, backoffFactor: 10 });
    this.watch.on('change', (data) => this.#heard.push(data));
    this.watch.on('error', (error) => this.#errors.push(error));
  }

  get count() {
    return this.#heard.length;
  }

  async hears(what, view, wanted) {
    await eventually(what, () => (this.#heard.length ? view(this.#heard.at(-1)) : undefined), wanted);
    assert.deepEqual(this.#errors, []);
  }

  end() {
    this.watch.end();
  }
}
