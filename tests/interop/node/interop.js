// A client that nobody at Callboard wrote: stock grpc-js, stubs loaded from the contract, a server of its own.
//
//   node interop.js                   the steps of ../README.md, against the program that CALLBOARD names
//   node interop.js victim ADDRESS    the process that gets killed in one of them
import { Life } from './life.js';
import { Rules } from './rules.js';
import { Server } from './server.js';
import { victim } from './victim.js';

const [mode, address] = process.argv.slice(2);
if (mode === 'victim') {
  await victim(address);
} else {
  const { passed, failed } = await run(await Server.start(process.env.CALLBOARD));
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed === 0 ? 0 : 1);
}

async function run(server) {
  const life = new Life(server.grpc);
  const rules = new Rules(server.grpc, life.heartbeats);
  const steps = {
    'registers three instances': () => life.registers(),
    'heartbeats all three in one message': () => life.beats(),
    'watches: a snapshot of three, synced': () => life.watches(),
    'sees a change': () => life.seesChange(),
    'sees a drain and its end': () => life.seesDrain(),
    'sees a deregistration': () => life.seesDeregistration(),
    'sees a kill': () => life.seesKill(),
    'sees an expiry': () => life.seesExpiry(),
    'resumes with its token': () => life.resumes(),
    'refuses a malformed token and bad fields': () => rules.refusals(),
    'resets where the token is of another selector': () => rules.reset(),
    'reports unknown and removed leases': () => rules.leases(),
    'refuses a second boot, unless it replaces': () => rules.secondBoot(),
    'filters a watch': () => rules.filter(),
    'watches before registration': () => rules.watchBeforeRegistration(),
    'checks health': () => rules.health(),
    'reads reflection': () => rules.reflection(),
    'shuts down in order': () => life.shutdown(server),
  };
  const result = { passed: 0, failed: 0 };
  for (const [name, step] of Object.entries(steps)) {
    const began = performance.now();
    try {
      await step();
      result.passed += 1;
      console.log(`ok      ${name} (${Math.round(performance.now() - began)} ms)`);
    } catch (error) {
      result.failed += 1;
      console.log(`FAILED  ${name}: ${error.stack}`);
    }
  }
  return result;
}
