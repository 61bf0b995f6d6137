//! State of the write path that its operations share.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, Weak},
};

use parking_lot::Mutex;

use super::{background::BackgroundTasks, check_memory::CheckMemory, keyed_lock::KeyedLock};
use crate::{
    clock::Clock,
    engine::Engine,
    model::{Caller, InstanceId},
};

/// State of the write path that its operations share.
#[derive(Debug)]
pub(super) struct WritePath {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) clock: Arc<Clock>,
    pub(super) locks: Arc<KeyedLock<LockKey>>,
    /// Nodes whose last change has not reached all of their instances, with the caller of that change. The next write about the node
    /// continues the propagation on its behalf.
    pub(super) unpropagated: Mutex<HashMap<InstanceId, Arc<Caller>>>,
    pub(super) background: Arc<BackgroundTasks>,
    pub(super) memory: OnceLock<Weak<dyn CheckMemory>>,
}

/// Subject of a lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum LockKey {
    /// Node, by its id.
    Node(InstanceId),
    /// Consul registration, by its id.
    ConsulRegistration(InstanceId),
}
