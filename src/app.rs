//! Parts that every protocol shares, above the engine.
//!
//! | file | holds |
//! |---|---|
//! | `server_context` | state that all protocols share |
//! | `commands` | the one write path, with writes that span several instances |
//! | `command_sequence`, `write_path` | the commands of one write, in order; the state that writes share |
//! | `check_memory` | interface to check results, which move with their checks |
//! | `recovery` | completion of writes that the end of an earlier process interrupted |
//! | `watchers`, `xds_watch`, `query_rate` | the list of readers of all protocols |
//! | `effective_weights` | weights that clients get in place of the configured ones |
//! | `reported_calls` | calls that clients report, for these weights |
//! | `settling` | readers that wait after a start that lost registrations |
//! | `relocation` | times at which a replica without its store ends streams, so that clients go to another one |
//! | `page` | pages of lists |
//! | `encoded` | bytes of the native API, kept with the events and chunks that they encode |
//! | `background` | completion of writes that their callers have dropped |
//! | `keyed_lock` | one lock for each key |
//! | `views` | bounded cache of what protocols encode or compute from the registry |
//!
//! Not here: the meaning of commands (`registry`), their order and durability (`engine`), wire formats (protocols).

mod background;
mod check_memory;
mod command_sequence;
mod commands;
mod effective_weights;
mod encoded;
mod keyed_lock;
mod page;
mod query_rate;
mod recovery;
mod relocation;
mod reported_calls;
mod server_context;
mod settling;
mod views;
mod watchers;
mod write_path;
mod xds_watch;

pub use check_memory::{CheckMemory, FinishPreparation};
pub use commands::{CallerCommands, Commands, ConsulChange, NodeRegistration};
pub use effective_weights::EffectiveWeights;
pub use encoded::{EncodedChunk, EncodedEvent};
pub use page::{PAGE_BYTES, page_after, page_size};
pub use query_rate::QueryRate;
pub use recovery::RecoveryError;
pub use relocation::stream_end;
pub use server_context::ServerContext;
pub use settling::ReaderMemory;
pub use views::{EncodedView, View, ViewKey, ViewValue, ViewVersion, Views};
pub use watchers::{UserAgent, WatchProtocol, WatchedResource, Watcher, WatcherGuard, Watchers};
pub use xds_watch::{XdsStreamStatus, XdsTypeStatus, XdsWatch};
