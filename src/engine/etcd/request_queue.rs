//! Queue of the requests that wait for a batch.

use std::collections::{HashSet, VecDeque};

use super::batch::QueuedRequest;
use crate::engine::write_request::WriteTarget;

/// Requests in the order in which they are to be executed.
#[derive(Debug, Default)]
pub struct RequestQueue {
    requests: VecDeque<QueuedRequest>,
    /// Number of requests at the front that were decided, and change something. The others have not been looked at.
    changing: usize,
    /// Targets of those requests: later requests for one of them must not overtake.
    changing_targets: HashSet<WriteTarget>,
}

impl RequestQueue {
    /// Adds a request behind all others.
    pub fn push_back(&mut self, queued: QueuedRequest) {
        self.requests.push_back(queued);
    }

    /// Adds a request before all others.
    pub fn push_front(&mut self, queued: QueuedRequest) {
        self.forget_changing();
        self.requests.push_front(queued);
    }

    /// Takes the first request.
    pub fn pop_front(&mut self) -> Option<QueuedRequest> {
        self.forget_changing();
        self.requests.pop_front()
    }

    /// Takes all requests.
    pub fn take(&mut self) -> VecDeque<QueuedRequest> {
        self.forget_changing();
        std::mem::take(&mut self.requests)
    }

    /// Returns whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Takes the requests that meet a condition.
    pub fn take_if(&mut self, is_wanted: impl Fn(&QueuedRequest) -> bool) -> Vec<QueuedRequest> {
        if !self.requests.iter().any(&is_wanted) {
            return Vec::new();
        }
        let (mut taken, mut changing) = (Vec::new(), 0);
        for (index, queued) in std::mem::take(&mut self.requests).into_iter().enumerate() {
            if is_wanted(&queued) {
                taken.push(queued);
            } else {
                changing += usize::from(index < self.changing);
                self.requests.push_back(queued);
            }
        }
        self.changing = changing;
        self.changing_targets =
            self.requests.iter().take(changing).flat_map(|queued| queued.request.targets()).collect();
        taken
    }

    /// Looks at the requests that have not been looked at since the queue last moved. `answer` answers a request that changes nothing, and
    /// returns any other. It is not called for requests behind others with the same target.
    pub fn answer_unchanged(
        &mut self,
        is_in_flight: impl Fn(&WriteTarget) -> bool,
        mut answer: impl FnMut(QueuedRequest) -> Option<QueuedRequest>,
    ) {
        for queued in self.requests.split_off(self.changing.min(self.requests.len())) {
            let targets = queued.request.targets();
            let is_behind = targets.iter().any(|target| self.changing_targets.contains(target) || is_in_flight(target));
            let left = if is_behind { Some(queued) } else { answer(queued) };
            if let Some(queued) = left {
                self.changing_targets.extend(targets);
                self.requests.push_back(queued);
            }
        }
        self.changing = self.requests.len();
    }

    /// Forgets which requests change something: the registry has changed.
    pub fn forget_changing(&mut self) {
        self.changing = 0;
        self.changing_targets.clear();
    }
}
