//! Commands, time and readers, beside the naive model that the registry's own tests have.

use super::draw::InputCursor;
use crate::registry::tests::{RegistryScript, RegistryStep, SERVICES};

/// Most lines of a script: enough for a history, and soon over.
const LONGEST: usize = 2_000;

/// Whatever is done, every reader that reads sees exactly what the model has, by legal steps only.
pub(super) fn run(input: &[u8]) {
    let (mut draw, mut play) = (InputCursor::new(input), RegistryScript::new());
    for _ in 0..LONGEST {
        if draw.is_empty() {
            break;
        }
        play.act(&operation(&mut draw));
    }
    play.end();
}

fn operation(draw: &mut InputCursor<'_>) -> RegistryStep {
    let kind = draw.below(16);
    let place = draw.byte();
    let (service, instance) = (usize::from(place) % SERVICES.len(), place / 16 % 4);
    match kind {
        0..6 => {
            let how = draw.byte();
            let (boot, weight, replace) = (how % 3, u16::from(how / 4 % 3) + 1, how > 127);
            RegistryStep::Register { service, instance, boot, weight, replace }
        }
        6..8 => RegistryStep::Deregister { service, instance },
        8..10 => RegistryStep::Drain { service, instance, draining: draw.flag() },
        10..12 => RegistryStep::Wait { halves: u64::from(place) % 5 },
        12..15 => RegistryStep::Read { reader: usize::from(place) % RegistryScript::READERS },
        _ => RegistryStep::Resume { reader: usize::from(place) % RegistryScript::READERS },
    }
}
