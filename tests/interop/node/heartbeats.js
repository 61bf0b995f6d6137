// One KeepAlive stream that carries the heartbeats of every lease added to it, all in one message.
import assert from 'node:assert/strict';
import { Mailbox } from './mailbox.js';

/** A third of the shortest lease (2 s) is 667 ms. */
const EVERY_MS = 400;

export class Heartbeats {
  #leases = new Map();
  #stream;
  #mailbox;
  #timer = null;
  // One message is under way at a time; the next waits for the answer.
  #turn = Promise.resolve();

  constructor(registry) {
    this.#stream = registry.keepAlive();
    this.#mailbox = new Mailbox(this.#stream);
  }

  /** From now on, heartbeats go out by themselves. */
  start() {
    // A heartbeat that fails ends the series; the lease runs out, and the step that needs it says so.
    this.#timer = setInterval(() => this.beat().catch(() => clearInterval(this.#timer)), EVERY_MS);
  }

  add(lease) {
    this.#leases.set(lease.toString('hex'), lease);
  }

  remove(lease) {
    this.#leases.delete(lease.toString('hex'));
  }

  /** Sends one message with a heartbeat for each lease, and waits for its answer. */
  beat(afterwards = () => {}) {
    const turn = this.#turn.then(() => this.#exchange()).finally(afterwards);
    this.#turn = turn.catch(() => {});
    return turn;
  }

  /** What a heartbeat sent now hears of this lease. */
  async report(lease) {
    this.add(lease);
    const { reports } = await this.beat();
    return reports.find((report) => report.lease_id.equals(lease));
  }

  /** A last heartbeat for this lease, while the others go on. */
  last(lease) {
    this.add(lease);
    return this.beat(() => this.remove(lease));
  }

  /** Stops sending and keeps the stream open. */
  async stop() {
    clearInterval(this.#timer);
    await this.#turn;
  }

  /** Waits for this notice, once heartbeats have stopped. */
  async notice(notice) {
    assert.equal((await this.#mailbox.message()).message.notice, notice);
  }

  close() {
    this.#stream.end();
  }

  async #exchange() {
    const leases = [...this.#leases.values()];
    const load = { utilization: 0.25, in_flight: 1 };
    const sent = performance.now();
    this.#stream.write({ heartbeats: leases.map((lease) => ({ lease_id: lease, load })) });
    const { message, at } = await this.#mailbox.message();
    const answered = message.leases.map((report) => report.lease_id.toString('hex'));
    assert.deepEqual(answered, leases.map((lease) => lease.toString('hex')), 'leases answered');
    return { sent, answered: at, reports: message.leases };
  }
}
