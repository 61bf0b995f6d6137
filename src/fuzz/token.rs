//! Resume tokens: of other incarnations, other selectors, future and past revisions, and invalid ones.

use std::sync::Arc;

use super::input_cursor::InputCursor;
use crate::{
    engine::Memory,
    model::{Incarnation, ResumeToken, Revision, Selector},
    registry::{
        Command, Registry, ResetReason, Step, Subscription,
        test_support::{NoListener, at, register},
    },
};

/// Number of changes in the registry.
const CHANGES: u64 = 10;

thread_local! {
    static ENGINE: Memory = engine();
}

/// Decodes any bytes, and resumes with a token made of them. A valid token must continue without a reset, and any other must get the
/// right reason for a reset.
pub(super) fn run(input: &[u8]) {
    match ResumeToken::parse(input) {
        Ok(token) => assert_eq!(token.to_bytes(), *input, "the token encodes to the input"),
        Err(error) => {
            assert!(input.len() != ResumeToken::LENGTH || input[0] != 1, "{error}");
            assert_eq!(error.field, "resume_token");
        }
    }
    ENGINE.with(|engine| resume(engine.registry(), InputCursor::new(input)));
}

fn resume(registry: &Registry, mut input: InputCursor<'_>) {
    let selector = Arc::new(if input.flag() { Selector::Everything } else { Selector::Prefix("w".into()) });
    let valid = Subscription::new(Arc::clone(&selector), None, None).token(registry, registry.applied());
    let number = |input: &mut InputCursor<'_>, valid: u64| match input.below(4) {
        0 => valid,
        1 => valid.wrapping_add(u64::from(input.byte())),
        2 => valid.wrapping_sub(u64::from(input.byte())),
        _ => u64::from(input.number()) << 32 | u64::from(input.number()),
    };
    let token = ResumeToken {
        incarnation: Incarnation(number(&mut input, valid.incarnation.0)),
        revision: Revision(number(&mut input, valid.revision.0)),
        selector_digest: number(&mut input, valid.selector_digest),
    };
    let mut reader = Subscription::new(selector, None, Some(token));
    let first = reader.next(registry);
    let missed = valid.revision.0.checked_sub(token.revision.0);
    let expected = match missed {
        _ if token.incarnation != valid.incarnation => Some(ResetReason::OtherIncarnation),
        _ if token.selector_digest != valid.selector_digest => Some(ResetReason::OtherSelector),
        None => Some(ResetReason::FutureRevision),
        Some(missed) if missed > CHANGES => Some(ResetReason::Compacted),
        Some(_) => None,
    };
    match (first, expected) {
        (Step::Reset(reason), Some(expected)) => assert_eq!(reason, expected),
        (Step::Synced(revision), None) => assert_eq!((revision, missed), (valid.revision, Some(0))),
        (Step::Changes(deltas, revision), None) => {
            assert_eq!(revision, valid.revision);
            assert!(deltas.iter().all(|delta| delta.event.revision > token.revision), "delivered before");
        }
        (step, expected) => panic!("{token:?} is answered with {step:?}, not {expected:?}"),
    }
}

fn engine() -> Memory {
    let engine = Memory::new(Incarnation(7), at(0), Arc::new(NoListener));
    for n in 0..CHANGES {
        let registration = register("web", &format!("i{n}"), "boot", n.into());
        assert!(engine.submit(Command::Register(registration), at(0)).is_ok());
    }
    engine
}
