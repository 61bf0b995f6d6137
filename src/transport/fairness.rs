//! Fairness: the budget of a connection on the thread that it shares with others.
//!
//! A worker is one thread with one queue of tasks, and nothing preempts a task. So every resource has a budget if one connection could use enough of it to
//! make others wait. This file states all budgets. The accounts are in `fairness/`; `connection_io`, `paced_body` and `accounted_task` apply them to a
//! connection.
//!
//! | resource | budget of a connection | beyond it | implemented in |
//! |---|---|---|---|
//! | bytes read in one poll of its task | [`MAX_READ_BYTES_PER_POLL`] | it yields until the other tasks have run | `super::connection_io` |
//! | CPU time of the thread, while the thread is busy and a light connection is there | [`CPU_SHARE`] of [`CPU_PARTS`] | it is read in pieces of [`THROTTLED_READ_BYTES`], with pauses of at most 20 ms | `cpu_share`, `super::connection_io` |
//! | bytes of an answer in the buffers of hyper and h2 | [`MAX_FRAME_BYTES`] beyond the peer's window | the rest waits until the peer opens its window | `super::paced_body` |
//! | time without progress of a reader | [`STALL_SECONDS`], and less than [`MIN_STALL_BYTES`] in that time | it is evicted | `stall` |
//! | the same, while it keeps memory from others | [`PRESSED_STALL_SECONDS`] | it is evicted | `stall` |
//!
//! The limits on numbers of connections, streams and unread bytes are not here but in `limits` and `unread_limits`: they bound how much may be open,
//! not how fast it is served.

mod cpu_share;
mod stall;

use std::time::Duration;

pub(super) use cpu_share::{CpuShare, ThreadLoad};
pub(super) use stall::{ReadProgress, StallDetector};

/// Bytes that a connection reads in one poll of its task. A socket that is never empty would otherwise hold the thread: 8 KiB may be hundreds of frames,
/// each of which costs something.
pub(super) const MAX_READ_BYTES_PER_POLL: usize = 8 * 1024;
/// Bytes that a throttled connection reads in one poll of its task.
pub(super) const THROTTLED_READ_BYTES: usize = 512;

/// Number of parts into which the time of a thread is divided. Shares are numbers of such parts.
const CPU_PARTS: u64 = 40;
/// Share of a heavy connection while it is throttled: a tenth.
const CPU_SHARE: u64 = 4;
/// Maximum share of a light connection.
const LIGHT_CPU_SHARE: u64 = 1;
/// Share of all connections together above which a thread counts as busy.
const BUSY_CPU_SHARE: u64 = 32;
/// CPU time that a connection may use in a burst, even after a long idle time.
const CPU_BURST: Duration = Duration::from_millis(2);
/// CPU time that a light connection may use in a burst; also the CPU time that all connections may use in a burst
/// before their thread counts as busy.
const LIGHT_CPU_BURST: Duration = Duration::from_millis(1);
/// Time for which a light connection counts as present after its last poll.
const LIGHT_PRESENCE: Duration = Duration::from_millis(100);
/// Time for which a thread counts as busy after it was last overloaded. Throttling gives the thread idle time, which
/// must not end the throttling.
const BUSY_PERIOD: Duration = Duration::from_secs(2);
/// Maximum debt of a connection, which a pause of 20 ms pays. So a throttled connection is still read, and its heartbeats count; and a connection that
/// used time that no other connection wanted pays for it only briefly.
const MAX_CPU_DEBT: Duration = Duration::from_millis(2);

/// Maximum bytes of a frame. hyper passes on a frame of any size as soon as the peer's window has one byte.
pub(super) const MAX_FRAME_BYTES: usize = 16 * 1024;

/// Seconds without progress after which a reader with pending data counts as stalled: it is evicted within 30 s.
const STALL_SECONDS: u32 = 28;
/// The same time for a reader that uses memory which others need.
const PRESSED_STALL_SECONDS: u32 = 3;
/// Bytes that a reader has to read in [`STALL_SECONDS`], unless it reads everything. More than one frame, which is passed on before anything is read;
/// less than the slowest link carries in that time.
const MIN_STALL_BYTES: usize = 32 * 1024;
