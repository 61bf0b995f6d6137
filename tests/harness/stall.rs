//! Stalls of this machine, which do not count against guarantees about time.

use std::{
    sync::{Mutex, OnceLock},
    thread,
    time::Duration,
};

use super::{Span, Wall, wall};

const TICK: Duration = Duration::from_millis(10);
/// A tick that is no later than this is not worth counting.
const USUAL: u64 = 30;

/// Late ticks of a thread that does nothing else.
#[derive(Debug, Default)]
pub struct Stalls {
    late: Mutex<Vec<(Wall, u64)>>,
}

impl Stalls {
    /// Starts to look, at the first call.
    pub fn of_this_machine() -> &'static Self {
        static STALLS: OnceLock<&'static Stalls> = OnceLock::new();
        STALLS.get_or_init(|| {
            let stalls: &'static Self = Box::leak(Box::default());
            thread::spawn(|| stalls.look());
            stalls
        })
    }

    /// For how many milliseconds in all threads that wanted to run could not, since then.
    pub fn since(&self, from: Wall) -> u64 {
        self.late.lock().unwrap().iter().filter(|(at, _)| *at >= from).map(|(_, late)| late).sum()
    }

    /// Returns the milliseconds for which threads that wanted to run could not, in this span.
    pub fn between(&self, span: Span) -> u64 {
        let late = self.late.lock().unwrap();
        late.iter().filter(|(at, _)| (span.from..=span.to).contains(at)).map(|(_, late)| late).sum()
    }

    #[expect(clippy::disallowed_methods, reason = "a thread of its own, which measures how long it really slept")]
    fn look(&self) {
        let mut last = wall();
        loop {
            thread::sleep(TICK);
            let now = wall();
            let took = now.saturating_sub(last);
            if took > USUAL {
                self.late.lock().unwrap().push((now, took));
            }
            last = now;
        }
    }
}
