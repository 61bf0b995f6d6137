// A KeepAlive stream that renews all leases added to it with one message.
import assert from 'node:assert/strict';
import { MessageQueue } from './message-queue.js';

/** Less than a third of the shortest TTL, which is 2 s. */
const INTERVAL_MS = 400;

export class Heartbeats {
  #leases = new Map();
  #stream;
  #messages;
  #timer = null;
  // A request is sent only after the response to the one before.
  #lastRenewal = Promise.resolve();

  constructor(registry) {
    this.#stream = registry.keepAlive();
    this.#messages = new MessageQueue(this.#stream);
  }

  /** Starts to send heartbeats at a fixed interval. */
  start() {
    // A failed renewal ends the series. The leases then expire, and the steps that need them fail.
    this.#timer = setInterval(() => this.renew().catch(() => clearInterval(this.#timer)), INTERVAL_MS);
  }

  add(lease) {
    this.#leases.set(lease.toString('hex'), lease);
  }

  remove(lease) {
    this.#leases.delete(lease.toString('hex'));
  }

  /** Sends one message with a heartbeat for each lease, and waits for its response. */
  renew(afterwards = () => {}) {
    const renewal = this.#lastRenewal.then(() => this.#exchange()).finally(afterwards);
    this.#lastRenewal = renewal.catch(() => {});
    return renewal;
  }

  /** Renews all leases, including this one, and returns the report on this one. */
  async report(lease) {
    this.add(lease);
    const { reports } = await this.renew();
    return reports.find((report) => report.lease_id.equals(lease));
  }

  /** Renews all leases, and excludes this one from later renewals. */
  last(lease) {
    this.add(lease);
    return this.renew(() => this.remove(lease));
  }

  /** Stops sending heartbeats, but keeps the stream open. */
  async stop() {
    clearInterval(this.#timer);
    await this.#lastRenewal;
  }

  /** Waits for this notice. Heartbeats must have been stopped. */
  async notice(notice) {
    assert.equal((await this.#messages.message()).message.notice, notice);
  }

  close() {
    this.#stream.end();
  }

  async #exchange() {
    const leases = [...this.#leases.values()];
    const load = { utilization: 0.25, in_flight: 1 };
    const sent = performance.now();
    this.#stream.write({ heartbeats: leases.map((lease) => ({ lease_id: lease, load })) });
    const { message, at } = await this.#messages.message();
    const answered = message.leases.map((report) => report.lease_id.toString('hex'));
    assert.deepEqual(answered, leases.map((lease) => lease.toString('hex')), 'leases answered');
    return { sent, answered: at, reports: message.leases };
  }
}
