//! Completes writes that their callers have dropped.
//!
//! A write is polled by its caller, so it needs no task of its own. When the caller drops it before it is complete, because its
//! client closed the connection or its worker ends, the rest runs as a task on a runtime that outlives the workers.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, task::JoinSet, time::sleep};

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Tasks that complete futures which their callers have dropped.
#[derive(Debug)]
pub(super) struct BackgroundTasks {
    runtime: Option<Handle>,
    tasks: Mutex<JoinSet<()>>,
}

impl BackgroundTasks {
    /// Creates the set of tasks on a runtime that outlives all callers. `None`: a dropped future is not completed.
    pub(super) fn on(runtime: Option<Handle>) -> Arc<Self> {
        Arc::new(Self { runtime, tasks: Mutex::default() })
    }

    /// Returns a future that runs to completion: if the caller drops it, the rest runs in the background.
    pub(super) fn run_to_completion<T: Send + 'static>(
        self: &Arc<Self>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> RunToCompletion<T> {
        RunToCompletion { future: Some(Box::pin(future)), background: Arc::clone(self) }
    }

    /// Waits for a time. The timer belongs to the background runtime, because the runtime of a caller may end first.
    pub(super) async fn pause(&self, span: Duration) {
        let pause = {
            let _entered = self.runtime.as_ref().map(Handle::enter);
            sleep(span)
        };
        pause.await;
    }

    /// Waits until all background tasks have ended.
    pub(super) async fn finish(&self) {
        loop {
            let mut tasks = std::mem::take(&mut *self.tasks.lock());
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let Some(runtime) = &self.runtime else { return };
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(future, runtime);
    }
}

/// Future that runs to completion even if it is dropped.
pub(super) struct RunToCompletion<T: Send + 'static> {
    /// `None` after completion, and while it is polled: a future that panics is not polled again.
    future: Option<Boxed<T>>,
    background: Arc<BackgroundTasks>,
}

impl<T: Send + 'static> Future for RunToCompletion<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(mut future) = self.future.take() else { return Poll::Pending };
        let polled = future.as_mut().poll(context);
        if polled.is_pending() {
            self.future = Some(future);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for RunToCompletion<T> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            self.background.spawn(async move { drop(future.await) });
        }
    }
}

impl<T: Send + 'static> fmt::Debug for RunToCompletion<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunToCompletion").field("ended", &self.future.is_none()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::oneshot, task::yield_now};

    use super::*;

    #[tokio::test]
    async fn dropped_future_completes_before_finish_returns() {
        let background = BackgroundTasks::on(Some(Handle::current()));
        let (resume, resumed) = oneshot::channel::<()>();
        let (ended, mut end) = oneshot::channel();
        let write = background.run_to_completion(async move {
            resumed.await.unwrap();
            ended.send(()).unwrap();
        });
        let caller = tokio::spawn(write);
        yield_now().await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        assert!(end.try_recv().is_err(), "it waits");
        resume.send(()).unwrap();
        background.finish().await;
        assert_eq!(end.try_recv(), Ok(()));
    }

    #[test]
    fn future_dropped_with_its_runtime_completes_on_the_background_runtime() {
        let outlives = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let background = BackgroundTasks::on(Some(outlives.handle().clone()));
        let (ended, end) = oneshot::channel();
        let write = background.run_to_completion({
            let background = Arc::clone(&background);
            async move {
                background.pause(Duration::from_millis(50)).await;
                ended.send(()).unwrap();
            }
        });
        let worker = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        worker.block_on(async {
            tokio::spawn(write);
            yield_now().await;
        });
        drop(worker);
        outlives.block_on(async {
            background.finish().await;
            end.await.unwrap();
        });
    }
}
