// Tests a real callboard server with grpc-js and stubs loaded from the contract.
//
//   node interop.js                   runs the steps of ../README.md with the server program that CALLBOARD names
//   node interop.js victim ADDRESS    is the child process that a step kills
//   node interop.js follow TARGET SERVICE    watches a service, for the suite replicas
import { Lifecycle } from './lifecycle.js';
import { EdgeCases } from './edge-cases.js';
import { follow } from './follow.js';
import { Server } from './server.js';
import { victim } from './victim-process.js';

const [mode, address, service] = process.argv.slice(2);
if (mode === 'victim') {
  await victim(address);
} else if (mode === 'follow') {
  await follow(address, service);
} else {
  const { passed, failed } = await run(await Server.start(process.env.CALLBOARD));
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed === 0 ? 0 : 1);
}

async function run(server) {
  const lifecycle = new Lifecycle(server.grpc);
  const edgeCases = new EdgeCases(server.grpc, lifecycle.heartbeats);
  const steps = {
    'registers three instances': () => lifecycle.registers(),
    'renews all leases with one message': () => lifecycle.renews(),
    'watches from a second connection': () => lifecycle.watches(),
    'sees an update of weight and tags': () => lifecycle.seesChange(),
    "sees an operator's drain and its end": () => lifecycle.seesDrain(),
    'sees a deregistration': () => lifecycle.seesDeregistration(),
    'sees the removal of a killed process': () => lifecycle.seesKill(),
    'sees the expiry of a lease in time': () => lifecycle.seesExpiry(),
    'resumes a watch with its token': () => lifecycle.resumes(),
    'gets errors for a malformed resume token and invalid fields': () => edgeCases.errors(),
    'gets a reset for the token of another selector': () => edgeCases.reset(),
    'gets UNKNOWN and REMOVED for leases that are not held': () => edgeCases.leases(),
    'gets an error for an id in use, then replaces its instance': () => edgeCases.secondBoot(),
    'watches with a filter': () => edgeCases.filter(),
    'watches a service before its first registration': () => edgeCases.watchBeforeRegistration(),
    'checks health': () => edgeCases.health(),
    'lists the services by reflection': () => edgeCases.reflection(),
    'receives shutdown notices, and the server exits with code 0': () => lifecycle.shutdown(server),
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
