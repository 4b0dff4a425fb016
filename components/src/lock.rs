//! Locks as entities of the world (DESIGN.md §4).

use bevy_ecs::prelude::Component;

use crate::cluster::ChainId;
use crate::ledger::LockMode;
use crate::transaction_id::TxnId;

/// A lock that a transaction holds or waits for.
#[derive(Clone, Component, Debug)]
pub struct Lock {
    /// What is locked.
    pub chain: ChainId,
    /// By whom.
    pub holder: TxnId,
    /// How.
    pub mode: LockMode,
    /// Whether it was granted; else it waits.
    pub is_granted: bool,
}
