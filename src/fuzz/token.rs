//! Resume tokens: those of other lives, of other selections, of the future, of the past, and none at all.

use std::sync::Arc;

use super::draw::InputCursor;
use crate::{
    engine::Memory,
    model::{Incarnation, ResumeToken, Revision, Selector},
    registry::{
        Command, Registry, ResetReason, Step, Subscription,
        test_support::{NoListener, at, register},
    },
};

/// How many changes there have been.
const CHANGES: u64 = 10;

thread_local! {
    static ENGINE: Memory = engine();
}

/// A token is what was sent, or is refused; one that fits goes on without a reset, and one that does not is told why.
pub(super) fn run(input: &[u8]) {
    match ResumeToken::parse(input) {
        Ok(token) => assert_eq!(token.to_bytes(), *input, "it means what it says"),
        Err(refusal) => {
            assert!(input.len() != ResumeToken::LENGTH || input[0] != 1, "{refusal}");
            assert_eq!(refusal.field, "resume_token");
        }
    }
    ENGINE.with(|engine| resume(engine.registry(), InputCursor::new(input)));
}

fn resume(registry: &Registry, mut draw: InputCursor<'_>) {
    let selection = Arc::new(if draw.flag() { Selector::Everything } else { Selector::Prefix("w".into()) });
    let right = Subscription::new(Arc::clone(&selection), None, None).token(registry, registry.applied());
    let number = |draw: &mut InputCursor<'_>, right: u64| match draw.below(4) {
        0 => right,
        1 => right.wrapping_add(u64::from(draw.byte())),
        2 => right.wrapping_sub(u64::from(draw.byte())),
        _ => u64::from(draw.number()) << 32 | u64::from(draw.number()),
    };
    let token = ResumeToken {
        incarnation: Incarnation(number(&mut draw, right.incarnation.0)),
        revision: Revision(number(&mut draw, right.revision.0)),
        selection: number(&mut draw, right.selection),
    };
    let mut reader = Subscription::new(selection, None, Some(token));
    let first = reader.next(registry);
    let missed = right.revision.0.checked_sub(token.revision.0);
    let why = match missed {
        _ if token.incarnation != right.incarnation => Some(ResetReason::OtherIncarnation),
        _ if token.selection != right.selection => Some(ResetReason::OtherSelection),
        None => Some(ResetReason::FutureRevision),
        Some(missed) if missed > CHANGES => Some(ResetReason::HistoryLost),
        Some(_) => None,
    };
    match (first, why) {
        (Step::Reset(told), Some(why)) => assert_eq!(told, why),
        (Step::Synced(revision), None) => assert_eq!((revision, missed), (right.revision, Some(0))),
        (Step::Changes(deltas, revision), None) => {
            assert_eq!(revision, right.revision);
            assert!(deltas.iter().all(|delta| delta.event.revision > token.revision), "told before");
        }
        (step, why) => panic!("{token:?} is answered with {step:?}, not {why:?}"),
    }
}

fn engine() -> Memory {
    let engine = Memory::new(Incarnation(7), at(0), Arc::new(NoListener));
    for n in 0..CHANGES {
        let asked = register("web", &format!("i{n}"), "boot", n.into());
        assert!(engine.submit(Command::Register(asked), at(0)).is_ok());
    }
    engine
}
