// Child processes: the server under test, and the process that a step kills.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import readline from 'node:readline';

/** Starts a child process, and returns it with the first line that it prints. */
export async function launch(program, args) {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  // Child processes must not outlive this program, even if the program fails.
  process.once('exit', () => child.kill('SIGKILL'));
  const ended = once(child, 'exit').then(([code, signal]) => code ?? signal);
  const lines = readline.createInterface({ input: child.stdout });
  const first = once(lines, 'line', { signal: AbortSignal.timeout(20_000) });
  const exited = ended.then((code) => assert.fail(`${program} exited with ${code} and printed nothing`));
  exited.catch(() => {});
  const [line] = await Promise.race([first, exited]);
  return { child, line, ended };
}

export class Server {
  static async start(program, more = []) {
    const args = ['serve', '--grpc', '127.0.0.1:0', '--http', '127.0.0.1:0', '-o', 'json', ...more];
    const started = await launch(program, args);
    return Object.assign(new Server(), started, JSON.parse(started.line));
  }

  terminate() {
    this.child.kill('SIGTERM');
  }

  async exitCode(limit) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`still running ${limit} ms after SIGTERM`)), limit);
    });
    return Promise.race([this.ended, late]).finally(() => clearTimeout(timer));
  }
}
