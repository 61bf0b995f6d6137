//! Atomics, locks and wakers of code that loom checks.
//!
//! Under `just loom` they are those of the checker, which runs a model in every order in which threads can run and see each other's writes. Code that a model
//! (`loom_*` among the tests) covers takes them from here, so that the models run the code that ships. Other code uses the originals.

#[cfg(not(loom))]
pub use atomic_waker::AtomicWaker;
#[cfg(not(loom))]
pub use dashmap::DashMap;
#[cfg(not(loom))]
pub use parking_lot::{Mutex, MutexGuard, RwLock};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::{
    MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence},
};
#[cfg(loom)]
pub use model::{AtomicWaker, DashMap, Mutex, RwLock};

/// loom's types with the interfaces of those above. No lock is poisoned, since a panic ends the model.
#[cfg(loom)]
mod model {
    use std::{borrow::Borrow, hash::Hash, sync::PoisonError, task::Waker};

    use dashmap::mapref::one::Ref;
    use loom::sync::{self, MutexGuard, RwLockReadGuard, RwLockWriteGuard};

    /// `parking_lot`'s mutex.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(sync::Mutex<T>);

    impl<T> Mutex<T> {
        /// Guards a value.
        pub fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        /// Waits for the lock.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// `parking_lot`'s lock for many readers.
    #[derive(Debug)]
    pub struct RwLock<T>(sync::RwLock<T>);

    impl<T> RwLock<T> {
        /// Guards a value.
        pub fn new(value: T) -> Self {
            Self(sync::RwLock::new(value))
        }

        /// Waits until no thread writes.
        pub fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        /// Waits until no other thread has the lock.
        pub fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl<T: Default> Default for RwLock<T> {
        fn default() -> Self {
            Self::new(T::default())
        }
    }

    /// `dashmap`'s map. The checker does not see its locks, so each call takes one that it sees.
    #[derive(Debug)]
    pub struct DashMap<K: Eq + Hash, V> {
        map: dashmap::DashMap<K, V>,
        lock: Mutex<()>,
    }

    impl<K: Eq + Hash, V> DashMap<K, V> {
        /// An empty map.
        pub fn new() -> Self {
            Self { map: dashmap::DashMap::new(), lock: Mutex::default() }
        }

        /// Returns the value of a key.
        pub fn get<Q>(&self, key: &Q) -> Option<Ref<'_, K, V>>
        where
            K: Borrow<Q>,
            Q: Eq + Hash + ?Sized,
        {
            let _guard = self.lock.lock();
            self.map.get(key)
        }

        /// Sets the value of a key. Returns the old one.
        pub fn insert(&self, key: K, value: V) -> Option<V> {
            let _guard = self.lock.lock();
            self.map.insert(key, value)
        }

        /// Removes a key and its value.
        pub fn remove(&self, key: &K) -> Option<(K, V)> {
            let _guard = self.lock.lock();
            self.map.remove(key)
        }

        /// Number of keys.
        pub fn len(&self) -> usize {
            let _guard = self.lock.lock();
            self.map.len()
        }
    }

    /// Waker of one task. Each call happens before the next, as in `atomic-waker`.
    #[derive(Debug, Default)]
    pub struct AtomicWaker(Mutex<Option<Waker>>);

    impl AtomicWaker {
        /// Sets the waker.
        pub fn register(&self, waker: &Waker) {
            *self.0.lock() = Some(waker.clone());
        }

        /// Takes the waker and wakes it.
        pub fn wake(&self) {
            let waiting = self.0.lock().take();
            waiting.inspect(Waker::wake_by_ref);
        }
    }
}
