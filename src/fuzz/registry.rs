//! Commands, time and reads on the registry, compared with the naive model of its tests.

use super::input_cursor::InputCursor;
use crate::registry::tests::{RegistryScript, RegistryStep, SERVICES};

/// Maximum number of steps of a script.
const MAX_STEPS: usize = 2_000;

/// Executes any steps. Every reader must see the state of the model, by valid changes only.
pub(super) fn run(input: &[u8]) {
    let (mut input, mut script) = (InputCursor::new(input), RegistryScript::new());
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        script.act(&step(&mut input));
    }
    script.end();
}

fn step(input: &mut InputCursor<'_>) -> RegistryStep {
    let kind = input.below(16);
    let number = input.byte();
    let (service, instance) = (usize::from(number) % SERVICES.len(), number / 16 % 4);
    match kind {
        0..6 => {
            let how = input.byte();
            let (boot, weight, replace) = (how % 3, u16::from(how / 4 % 3) + 1, how > 127);
            RegistryStep::Register { service, instance, boot, weight, replace }
        }
        6..8 => RegistryStep::Deregister { service, instance },
        8..10 => RegistryStep::Drain { service, instance, draining: input.flag() },
        10..12 => RegistryStep::Wait { half_seconds: u64::from(number) % 5 },
        12..15 => RegistryStep::Read { reader: usize::from(number) % RegistryScript::READERS },
        _ => RegistryStep::Resume { reader: usize::from(number) % RegistryScript::READERS },
    }
}
