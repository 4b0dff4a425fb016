//! Transactions as entities of the world.

pub mod job;
pub mod ledger;
pub mod lock;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bevy_ecs::prelude::Component;

use crate::language::request::{Reply, Request};
use crate::transaction::ledger::Ledger;
use crate::transaction::lock::Resource;
use crate::value::ids::HostedCollection;
use crate::value::transaction_id::TxnId;

/// Names a request of this process until it is answered.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RequestId(pub u64);

/// Where a transaction is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Its program can be polled.
    Running,
    /// Its program waits for a lock or a job.
    Waiting,
    /// It has its place in the order; its reply waits for the disk.
    Committed,
    /// It has failed; its reply waits for the disk to hold what it has read.
    Aborted,
}

/// The right to commit. A hypothetical transaction never gets one, so nothing can commit it.
#[derive(Debug)]
pub struct CommitRight(());

/// Whether a transaction can commit.
#[derive(Debug)]
pub enum Authority {
    /// It commits if its program succeeds; the right is gone once it has.
    Real(Option<CommitRight>),
    /// It sees what was committed when it began and leaves no trace (page 04 §7.5).
    Hypothetical {
        /// The number of the last commit that it sees.
        snapshot: u64,
    },
}

impl Authority {
    /// That of an ordinary transaction.
    pub fn real() -> Self {
        Self::Real(Some(CommitRight(())))
    }

    /// The right to commit, once; a hypothetical transaction has none.
    pub fn take_right(&mut self) -> Option<CommitRight> {
        match self {
            Self::Real(right) => right.take(),
            Self::Hypothetical { .. } => None,
        }
    }
}

/// A transaction: one request, until it is answered.
#[derive(Component, Debug)]
pub struct Transaction {
    /// Its place in the order; a new one with each attempt.
    pub id: TxnId,
    /// Whose answer it is.
    pub request_id: RequestId,
    /// What it runs.
    pub request: Arc<Request>,
    /// How long it may take, in nanoseconds: what it stores before its commit makes that longer.
    pub time_limit_ns: u64,
    /// When it is answered 408, in nanoseconds of the monotonic clock.
    pub deadline_ns: u64,
    /// Where it is in its life.
    pub phase: Phase,
    /// Whether it can commit.
    pub authority: Authority,
    /// How often it was begun.
    pub attempts: u32,
    /// How many transactions had committed when it was begun.
    pub begun_commit: u64,
    /// The batch that must be durable before the reply may leave: the newest that it has read or written.
    pub durable_after: u64,
    /// What it locks for writing before it begins, because it is expected to write it.
    pub expected_writes: Vec<Resource>,
    /// The collections whose rows it locks for writing when it reads them, because it is expected to write them.
    pub for_update: BTreeSet<HostedCollection>,
    /// The answer, once it is known.
    pub outcome: Option<Reply>,
    /// How many rows its writes have touched, once the answer is known; none if it has not written.
    pub rows_written: Option<u64>,
}

impl Transaction {
    /// Whether it can never commit.
    pub fn is_hypothetical(&self) -> bool {
        matches!(self.authority, Authority::Hypothetical { .. })
    }
}

/// A program: it answers the request when it is polled often enough.
pub type ProgramFuture = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// The program of a transaction and its ledger.
#[derive(Component)]
pub struct Program {
    // A future need not be Sync; a component must be. The world only ever takes it out by `&mut`.
    future: Mutex<Option<ProgramFuture>>,
    /// What it has locked, read and written.
    pub ledger: Arc<Ledger>,
    /// The last tick in which it was given its first fuel.
    pub first_fuel_tick: u64,
    /// The last tick in which it was given the rest of its fuel.
    pub full_fuel_tick: u64,
}

impl Program {
    /// A program that has not been polled.
    pub fn new(future: ProgramFuture, ledger: Arc<Ledger>) -> Self {
        Self { future: Mutex::new(Some(future)), ledger, first_fuel_tick: 0, full_fuel_tick: 0 }
    }

    /// Take the future out, to poll it.
    pub fn take(&mut self) -> Option<ProgramFuture> {
        self.slot().take()
    }

    /// Put the future back after a poll.
    pub fn put(&mut self, future: ProgramFuture) {
        *self.slot() = Some(future);
    }

    fn slot(&mut self) -> &mut Option<ProgramFuture> {
        self.future.get_mut().expect("never locked, so never poisoned")
    }
}
