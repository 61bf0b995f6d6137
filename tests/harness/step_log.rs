//! Log of a test's steps, in order.

use std::{sync::Mutex, thread};

/// Printed when the test fails.
#[derive(Debug, Default)]
pub struct StepLog(Mutex<Vec<String>>);

impl StepLog {
    pub fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }
}

impl Drop for StepLog {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("what was done up to here:");
            for line in self.0.lock().unwrap().iter() {
                eprintln!("  {line}");
            }
        }
    }
}
