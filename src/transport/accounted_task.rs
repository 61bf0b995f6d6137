//! Tasks of a connection, whose polls are counted as its use of the thread.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::rt::Executor;

use super::Connection;

/// Task of a connection whose polls are counted.
#[derive(Debug)]
pub(super) struct AccountedTask<F> {
    connection: Arc<Connection>,
    task: Pin<Box<F>>,
}

impl<F> AccountedTask<F> {
    pub(super) fn new(connection: Arc<Connection>, task: F) -> Self {
        Self { connection, task: Box::pin(task) }
    }
}

impl<F: Future> Future for AccountedTask<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let began = self.connection.worker_state().now();
        let polled = self.task.as_mut().poll(context);
        self.connection.count_poll(began);
        polled
    }
}

/// Executor of the tasks of a connection's streams.
#[derive(Debug, Clone)]
pub(super) struct AccountedExecutor(pub(super) Arc<Connection>);

impl<F> Executor<F> for AccountedExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        tokio::spawn(AccountedTask::new(Arc::clone(&self.0), task));
    }
}
