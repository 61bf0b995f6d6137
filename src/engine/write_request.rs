//! Requests to an engine that another thread executes.

use std::{slice, sync::Arc};

use super::{EngineError, OutcomeSender};
use crate::{
    model::{Caller, InstanceId, ServiceName},
    registry::{Command, CommandOutcome, PolicyCommand, PolicyOutcome},
};

/// Commands, their caller, and the sender of their outcome.
#[derive(Debug)]
pub enum WriteRequest {
    /// One command.
    One(Command, Arc<Caller>, OutcomeSender),
    /// Commands for different instances. All of them are executed, or none.
    Together(Vec<Command>, Arc<Caller>, OutcomeSender<Vec<CommandOutcome>>),
    /// Change of a policy.
    Policy(Box<PolicyCommand>, Arc<Caller>, OutcomeSender<PolicyOutcome>),
}

/// State that a command is decided against, which one transaction changes at most once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WriteTarget {
    /// One instance.
    Instance(ServiceName, InstanceId),
    /// All policies, because a policy is decided against the others.
    Policies,
}

impl WriteRequest {
    /// Returns what the commands change.
    pub fn targets(&self) -> Vec<WriteTarget> {
        let commands = match self {
            Self::One(command, ..) => slice::from_ref(command),
            Self::Together(commands, ..) => commands,
            Self::Policy(..) => return vec![WriteTarget::Policies],
        };
        let target = |command: &Command| {
            let (service, id) = command.target();
            WriteTarget::Instance(service.clone(), id.clone())
        };
        commands.iter().map(target).collect()
    }

    /// Answers with an error.
    pub fn reject(self, error: EngineError) {
        // A caller that no longer waits has dropped the receiver.
        match self {
            Self::One(_, _, sender) => drop(sender.send(Err(error))),
            Self::Together(_, _, sender) => drop(sender.send(Err(error))),
            Self::Policy(_, _, sender) => drop(sender.send(Err(error))),
        }
    }
}
