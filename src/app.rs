//! Parts that every protocol shares, above the engine.
//!
//! | file | holds |
//! |---|---|
//! | `commands` | the one path of writes, and those that span several instances |
//! | `command_sequence` | the commands of one write, in order |
//! | `check_memory` | what goes along with checks that change hands |
//! | `recovery` | completing what an earlier process left half done |
//! | `encoded` | bytes of the native API, kept beside the events and chunks that they encode |
//! | `background` | carrying writes to their end when their callers go away |
//! | `keyed_lock` | one lock for each key |
//! | `views` | bounded cache of what protocols encode or compute from the registry |
//!
//! What is not here: what a command means (`registry`), its order and durability (`engine`), wire formats (protocols).

mod background;
mod check_memory;
mod command_sequence;
mod commands;
mod encoded;
mod keyed_lock;
mod recovery;
mod server_context;
mod views;
mod watchers;

pub use check_memory::{CheckMemory, Settle};
pub use commands::{CallerCommands, Commands, ListedChange, NodeRegistration};
pub use encoded::{EncodedChunk, EncodedEvent};
pub use recovery::RecoveryError;
pub use server_context::ServerContext;
pub use views::{EncodedView, View, ViewKey, ViewValue, ViewVersion, Views};
pub use watchers::{Watcher, WatcherGuard, Watchers};
