// Takes in what a stream brings, for a step that waits for it with a deadline.
import assert from 'node:assert/strict';

export const PATIENCE_MS = 5_000;

export class Mailbox {
  #items = [];
  #waiting = null;

  constructor(stream) {
    stream.on('data', (message) => this.#put({ at: performance.now(), message }));
    stream.on('error', (error) => this.#put({ at: performance.now(), error }));
    stream.on('end', () => this.#put({ at: performance.now() }));
  }

  /** The next item: a message, or the end of the stream with the error that ended it. */
  async take(limit = PATIENCE_MS) {
    if (this.#items.length === 0) {
      let timer;
      await new Promise((resolve, reject) => {
        this.#waiting = resolve;
        timer = setTimeout(() => reject(new Error(`nothing came within ${limit} ms`)), limit);
      }).finally(() => {
        this.#waiting = null;
        clearTimeout(timer);
      });
    }
    return this.#items.shift();
  }

  /** The next item, which must be a message. */
  async message(limit = PATIENCE_MS) {
    const item = await this.take(limit);
    assert(item.message, `the stream ended: ${item.error}`);
    return item;
  }

  /** The messages that have come and were not taken. */
  pending() {
    return this.#items.flatMap((item) => (item.message ? [item.message] : []));
  }

  #put(item) {
    this.#items.push(item);
    this.#waiting?.();
  }
}
