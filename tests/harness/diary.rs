//! What a test did, in order.

use std::{sync::Mutex, thread};

/// Printed when the test fails.
#[derive(Debug, Default)]
pub struct Diary(Mutex<Vec<String>>);

impl Diary {
    pub fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }
}

impl Drop for Diary {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("what was done up to here:");
            for line in self.0.lock().unwrap().iter() {
                eprintln!("  {line}");
            }
        }
    }
}
