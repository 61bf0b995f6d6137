//! Engines turn commands into ordered events.
//!
//! An engine decides a command against what is there, gives the event its revision, makes it as durable as it promises,
//! and applies it. The registry sees the same from every engine: events with rising revisions.

mod memory;

pub use memory::Memory;
