//! Requests to an engine that another thread executes.

use std::{slice, sync::Arc};

use super::{EngineError, OutcomeSender, PendingCommand};
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
    /// Makes a request of a command, and its pending outcome.
    pub fn one(command: Command, caller: &Arc<Caller>) -> (Self, PendingCommand) {
        let (sender, pending) = PendingCommand::waiting();
        (Self::One(command, Arc::clone(caller), sender), pending)
    }

    /// Makes a request of commands that belong together, and their pending outcomes.
    pub fn together(commands: Vec<Command>, caller: &Arc<Caller>) -> (Self, PendingCommand<Vec<CommandOutcome>>) {
        let (sender, pending) = PendingCommand::waiting();
        (Self::Together(commands, Arc::clone(caller), sender), pending)
    }

    /// Makes a request of a command about a policy, and its pending outcome.
    pub fn policy(command: PolicyCommand, caller: &Arc<Caller>) -> (Self, PendingCommand<PolicyOutcome>) {
        let (sender, pending) = PendingCommand::waiting();
        (Self::Policy(Box::new(command), Arc::clone(caller), sender), pending)
    }

    /// Returns whether the registry itself sent the request, so that no caller would repeat it.
    pub fn is_internal(&self) -> bool {
        let Self::One(command, ..) = self else { return false };
        matches!(
            command,
            Command::Expire(_)
                | Command::Suspect(_)
                | Command::Recover(_)
                | Command::RefreshNodeStatus { .. }
                | Command::Claim { .. }
                | Command::Release { .. }
        )
    }

    /// Returns whether the request removes one instance, as its program or an operator wants.
    pub fn is_deregistration(&self) -> bool {
        matches!(self, Self::One(Command::Deregister { .. }, ..))
    }

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

    /// Returns the service whose lease expires, if that is the request.
    pub fn expiring_service(&self) -> Option<&ServiceName> {
        match self {
            Self::One(Command::Expire(lease), ..) => Some(&lease.service),
            Self::One(..) | Self::Together(..) | Self::Policy(..) => None,
        }
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
