// Tests a real callboard server with the npm package `consul`.
import { Server } from '../../node/server.js';
import { steps } from './steps.js';
import { Fixture } from './fixture.js';

const server = await Server.start(process.env.CALLBOARD, ['--dns', '127.0.0.1:0']);
const fixture = new Fixture(server);
let failed = 0;
for (const [name, step] of Object.entries(steps)) {
  const began = performance.now();
  try {
    await step(fixture);
    console.log(`ok      ${name} (${Math.round(performance.now() - began)} ms)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}: ${error.stack}`);
  }
}
console.log(`${Object.keys(steps).length - failed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
