//! Times in which self-preservation held instances, from its own log: the exception of `DeadGoes`.

use callboard::pb::callboard::v1::{SelfPreservationEvent, SelfPreservationEventKind};

use crate::harness::Wall;

/// Times in which instances were held.
#[derive(Debug, Default)]
pub struct Held {
    /// Service, empty for all; start and end.
    spans: Vec<(String, Wall, Wall)>,
}

impl Held {
    /// Reads the times from the log, the oldest event first.
    pub fn by(log: &[SelfPreservationEvent]) -> Self {
        let mut held = Self::default();
        for event in log {
            let (service, time) = (event.self_preservation.clone().unwrap_or_default().service, event.time.unwrap());
            let at = u64::try_from(time.seconds).unwrap() * 1_000 + u64::try_from(time.nanos).unwrap() / 1_000_000;
            if event.kind() == SelfPreservationEventKind::Began {
                held.spans.push((service, at, Wall::MAX));
            } else {
                let open = held.spans.iter_mut().find(|(of, _, end)| *of == service && *end == Wall::MAX);
                open.expect("what ends has begun").2 = at;
            }
        }
        held
    }

    /// Returns the time until which an instance may be registered that was due at `due`: `limit`, or the end of the time in which
    /// it was held and `allowed` milliseconds more.
    pub fn until(&self, service: &str, due: Wall, limit: Wall, allowed: u64) -> Wall {
        let mut until = limit;
        let spans = || self.spans.iter().filter(|(of, ..)| of.is_empty() || of == service);
        while let Some((.., end)) =
            spans().find(|(_, from, end)| *from <= until && *end >= due && end.saturating_add(allowed) > until)
        {
            until = end.saturating_add(allowed);
        }
        until
    }
}

mod tests {
    use super::*;
    use callboard::pb::callboard::v1::SelfPreservation;

    #[test]
    fn adjacent_times_are_joined() {
        use SelfPreservationEventKind::{Began, Ended, Reset};
        let event = |service: &str, seconds, kind: SelfPreservationEventKind| SelfPreservationEvent {
            time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            kind: kind.into(),
            self_preservation: Some(SelfPreservation { service: service.to_owned(), ..SelfPreservation::default() }),
            ..SelfPreservationEvent::default()
        };
        let held =
            Held::by(&[event("web", 10, Began), event("", 15, Began), event("web", 16, Ended), event("", 20, Reset)]);
        let until = |service, due, limit| held.until(service, due, limit, 1_000);
        assert_eq!(until("web", 10_000, 11_000), 21_000);
        assert_eq!(until("db", 10_000, 11_000), 11_000, "it was not held when it was due");
        assert_eq!(until("db", 14_500, 15_500), 21_000);
        assert_eq!(until("web", 21_000, 22_000), 22_000);
        assert_eq!(Held::by(&[event("", 5, Began)]).until("db", 10_000, 11_000, 1_000), Wall::MAX);
    }
}
