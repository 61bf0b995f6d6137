//! Deadlines, and the wall clock that this process and its servers share.

use std::time::{Duration, SystemTime};

/// Milliseconds since 1970: the servers run on this machine, so their times and ours compare.
pub type Wall = u64;

/// Something happened between these two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from: Wall,
    pub to: Wall,
}

/// Time after which a test gives up. It bounds a hang and asserts no guarantee.
const PATIENCE: Duration = Duration::from_secs(90);

#[expect(clippy::disallowed_methods, reason = "tests measure from outside")]
pub fn wall() -> Wall {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// Waits for a future that should be ready soon.
pub async fn within<T>(what: &str, coming: impl Future<Output = T>) -> T {
    let Ok(came) = tokio::time::timeout(PATIENCE, coming).await else { panic!("{what}: not within {PATIENCE:?}") };
    came
}
